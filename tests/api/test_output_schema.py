"""A run answers with what its graph's output schema names; the thread and its state hold all."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from langgraph.channels import LastValue
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import interrupt
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from typing_extensions import TypedDict

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

ALL = {"question": "why", "private": "for the graph alone", "answer": "WHY"}


class In(TypedDict):
    """The input."""

    question: str


class Out(TypedDict):
    """The output."""

    answer: str


class State(In, Out):
    """What the graph holds."""

    private: str


class Notes(TypedDict):
    """What one node leaves for another: no schema of the graph names it."""

    notes: str


async def _think(state: State) -> dict[str, Any]:
    return {"private": "for the graph alone"}


async def _reply(state: State) -> dict[str, Any]:
    if Gate.latest is not None and state["question"] == "gate":
        await Gate.latest.pass_through()
    if state["question"] == "fail":
        raise ValueError("no answer")
    answer = interrupt("really?") if state["question"] == "ask" else state["question"].upper()
    return {"answer": answer}


async def _note(state: State) -> Notes:
    return {"notes": "between nodes"}


async def _read(state: Notes) -> dict[str, Any]:
    return {"answer": state["notes"].upper()}


def _narrow(**options: Any) -> Any:
    graph = StateGraph(State, input_schema=In, **options)
    graph.add_node("think", _think)
    graph.add_node("reply", _reply)
    graph.add_edge(START, "think")
    graph.add_edge("think", "reply")
    return graph


def _between() -> Any:
    graph = StateGraph(State)
    graph.add_node("note", _note)
    graph.add_node("read", _read)
    graph.add_edge(START, "note")
    graph.add_edge("note", "read")
    return graph


def _parent() -> Any:
    graph = StateGraph(State, input_schema=In, output_schema=Out)
    graph.add_node("child", _narrow(output_schema=Out).compile())
    graph.add_edge(START, "child")
    return graph


def _single() -> Any:
    """A graph without schemas, whose output is the value of one channel."""
    node = NodeBuilder().subscribe_only("question").do(str.upper).write_to("answer", private="for the graph alone")
    channels: Any = {name: LastValue(str) for name in ("question", "answer", "private")}
    return Pregel(nodes={"one": node}, channels=channels, input_channels=["question"], output_channels="answer")


@entrypoint()
async def _functional(given: dict[str, Any], *, previous: Any = None) -> Any:
    return entrypoint.final(value={"answer": given["question"].upper()}, save={"private": 1})


GRAPHS: dict[str, Any] = {
    "narrow": _narrow(output_schema=Out),
    "between": _between(),
    "parent": _parent(),
    "single": _single(),
    "functional": _functional,
    "made": lambda: _narrow(output_schema=Out),
    "whole": _narrow(),
}
WHY: Any = {"question": "why"}
ANSWER: Any = {"answer": "WHY"}


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server of graphs with an output schema."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in GRAPHS.items()}
    async with serving(settings, loaded) as url:
        yield url


async def _parts(stream: Any) -> list[tuple[str, Any]]:
    return [(part.event, part.data) async for part in stream]


@pytest.mark.parametrize(
    ("graph", "answer", "state"),
    [
        ("narrow", ANSWER, ALL),
        ("made", ANSWER, ALL),
        ("parent", ANSWER, {"question": "why", "answer": "WHY"}),
        ("whole", ALL, ALL),
        (
            "between",
            {"question": "why", "answer": "BETWEEN NODES"},
            {"question": "why", "answer": "BETWEEN NODES", "notes": "between nodes"},
        ),
        ("single", "WHY", {"question": "why", "answer": "WHY", "private": "for the graph alone"}),
        ("functional", ANSWER, ANSWER),
    ],
)
async def test_answer_is_the_output_and_state_is_whole(
    client: LangGraphClient, graph: str, answer: Any, state: Any
) -> None:
    """As `ainvoke`: a wait, a stateless wait and a join of a run that has ended or not."""
    thread_id = (await client.threads.create())["thread_id"]

    assert await client.runs.wait(thread_id, graph, input=WHY) == answer
    assert await client.runs.wait(None, graph, input=WHY) == answer
    run = await client.runs.create(thread_id, graph, input=WHY)
    assert await client.runs.join(thread_id, run["run_id"]) == answer
    assert await client.runs.join(thread_id, run["run_id"]) == answer
    assert (await client.threads.get(thread_id))["values"] == state
    assert (await client.threads.get_state(thread_id))["values"] == state
    assert (await client.threads.get_history(thread_id))[0]["values"] == state
    [match] = await client.threads.search(values=state) if isinstance(state, dict) else [{"values": state}]
    assert match["values"] == state


@pytest.mark.parametrize("graph", ["narrow", "made", "parent"])
@pytest.mark.parametrize("stateless", [True, False])
async def test_streamed_values_and_updates_are_of_the_output(
    client: LangGraphClient, graph: str, stateless: bool
) -> None:
    """As `astream(output_keys=...)`: a node that writes nothing of the output has no update to tell."""
    thread_id = None if stateless else (await client.threads.create())["thread_id"]
    stream: Any = client.runs.stream(thread_id, graph, input=WHY, stream_mode=["values", "updates", "events"])
    parts = await _parts(stream)

    values = [data for event, data in parts if event == "values"]
    assert values[-1] == ANSWER
    assert all(set(one) <= {"answer"} for one in values)
    received = [data for event, data in parts if event == "updates"]
    assert received == ([{"child": ANSWER}] if graph == "parent" else [{"think": None}, {"reply": ANSWER}])
    ended = [data for event, data in parts if event == "events" and not data["parent_ids"]]
    assert ended[-1]["data"]["output"] == ANSWER


async def _told(http: httpx.AsyncClient, method: str, url: str, end: str, **options: Any) -> list[tuple[str, Any]]:
    """Name and data of each event, up to the one whose data has `end` in it."""
    received: list[tuple[str, Any]] = []
    name = ""
    with anyio.fail_after(WAIT_S):
        async with http.stream(method, url, **options) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    received.append((name, json.loads(line.removeprefix("data: "))))
                    if end in line:
                        break
    return received


@pytest.mark.parametrize("live", [True, False])
async def test_followers_of_a_thread_see_the_output(http: httpx.AsyncClient, live: bool) -> None:
    """Both streams of a thread, while the run goes on and when it has ended."""
    thread_id = str(uuid4())
    start = {"id": 1, "method": "run.start", "params": {"assistant_id": "narrow", "input": WHY}}
    assert (await http.post(f"/threads/{thread_id}/commands", json=start)).json()["type"] == "success"
    if not live:
        run = (await http.get(f"/threads/{thread_id}/runs")).json()[0]
        await http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")

    channels = {"channels": ["values", "updates", "lifecycle"]}
    events = f"/threads/{thread_id}/stream/events"
    received = [one["params"] for _, one in await _told(http, "POST", events, '"completed"', json=channels)]
    first = await _told(http, "GET", f"/threads/{thread_id}/stream", "run_done", headers={"last-event-id": "-1"})

    assert [one["data"] for one in received if "values" in one["data"]] == [
        {"node": "think", "values": None},
        {"node": "reply", "values": ANSWER},
    ]
    states = [one["data"] for one in received if one["data"] == {} or "answer" in one["data"]]
    assert states == [ANSWER]
    assert [data for name, data in first if name == "values"] == [ANSWER]
    assert "private" not in str([received, *(one for one in first if one[0] in {"values", "updates"})])


async def test_question_comes_with_the_output(client: LangGraphClient) -> None:
    """A wait that ends in a question, then a join of it, then its answer."""
    thread_id = (await client.threads.create())["thread_id"]
    answered: Any = await client.runs.wait(thread_id, "narrow", input={"question": "ask"})
    [run] = await client.runs.list(thread_id)

    [question] = answered.pop("__interrupt__")
    assert answered == {}
    joined: Any = await client.runs.join(thread_id, run["run_id"])
    assert joined == {"__interrupt__": [{"id": question["id"], "value": "really?"}]}
    held = {"question": "ask", "private": "for the graph alone"}
    assert (await client.threads.get(thread_id))["values"] == held
    assert (await client.threads.get_state(thread_id))["values"] == held
    assert await client.runs.wait(thread_id, "narrow", command={"resume": "yes"}) == {"answer": "yes"}
    assert (await client.threads.get(thread_id))["values"] == held | {"answer": "yes"}


async def test_cancelled_runs_answer_with_the_output(client: LangGraphClient, gate: Gate) -> None:
    """One that was running, and one that never began, which answers with what the thread's last run left."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "narrow", input=WHY)
    running = await client.runs.create(thread_id, "narrow", input={"question": "gate"})
    await gate.entered()
    pending = await client.runs.create(thread_id, "narrow", input=WHY)
    async with anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await client.runs.join(thread_id, running["run_id"]))

        tasks.start_soon(wait)
        await client.runs.cancel(thread_id, pending["run_id"], wait=True)
        await client.runs.cancel(thread_id, running["run_id"], wait=True)

    assert answers == [ANSWER]
    assert await client.runs.join(thread_id, running["run_id"]) == ANSWER
    assert await client.runs.join(thread_id, pending["run_id"]) == ANSWER
    assert (await client.threads.get(thread_id))["values"] == ALL | {"question": "gate"}


async def test_output_that_was_never_written_is_an_object_without_keys(client: LangGraphClient) -> None:
    """A run that stops before the node that answers."""
    thread_id = (await client.threads.create())["thread_id"]

    assert await client.runs.wait(thread_id, "narrow", input=WHY, interrupt_before=["reply"]) == {}
    [run] = await client.runs.list(thread_id)
    assert await client.runs.join(thread_id, run["run_id"]) == {}
    assert (await client.threads.get(thread_id))["values"] == {"question": "why", "private": "for the graph alone"}


async def test_thread_of_a_failed_run_holds_the_whole_state(client: LangGraphClient) -> None:
    """Ours: what was reached before the error."""
    thread_id = (await client.threads.create())["thread_id"]
    received: Any = await client.runs.wait(thread_id, "narrow", input={"question": "fail"}, raise_error=False)

    assert received == {"__error__": {"error": "ValueError", "message": "no answer"}}
    assert (await client.threads.get(thread_id))["values"] == {"question": "fail", "private": "for the graph alone"}


async def test_replica_that_joins_gives_the_output(settings: Settings, client: LangGraphClient) -> None:
    """The answer of a run that ended in another process is its output too."""
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "made", input=WHY)
    await client.runs.join(thread_id, run["run_id"])
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in GRAPHS.items()}
    async with serving(settings, loaded) as other, get_client(url=other, api_key=None) as elsewhere:
        assert await elsewhere.runs.join(thread_id, run["run_id"]) == ANSWER
