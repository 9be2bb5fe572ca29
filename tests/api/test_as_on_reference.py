"""What `make reference` found to be otherwise than on LangGraph's own server, and was set right."""

from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from graphs import Gate, Items
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


@dataclass
class Tone:
    """What a caller may choose."""

    greeting: str = "hello"


async def _greet(state: Items, runtime: Runtime[Tone]) -> dict[str, Any]:
    return {"items": [runtime.context.greeting]}


def _greeter() -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Items, context_schema=Tone)
    graph.add_node("greet", _greet, input_schema=Items)
    graph.add_edge(START, "greet")
    graph.add_edge("greet", END)
    return graph


async def test_server_goes_on_when_a_running_run_is_deleted(client: LangGraphClient, gate: Gate) -> None:
    """Ours: the events that were still to be written have no run any more, and that is the end of it."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()

    await client.runs.delete(thread["thread_id"], run["run_id"])
    gate.open()

    with anyio.fail_after(5):
        assert await client.runs.wait(None, "chain", input={"items": []}) == {"items": ["first", "second"]}
        await client.threads.delete(thread["thread_id"])


async def test_a_question_stays_open_if_only_the_other_one_is_answered(client: LangGraphClient) -> None:
    """Protocol: resume by interrupt id. Unanswered questions are asked again."""
    thread = await client.threads.create()
    thread_id = thread["thread_id"]
    asked: Any = await client.runs.wait(thread_id, "two_questions", input={"items": []})
    first, second = asked["__interrupt__"]

    answer: Any = await client.runs.wait(thread_id, "two_questions", command={"resume": {first["id"]: "a"}})

    assert answer == {"items": ["a"], "__interrupt__": [second]}
    thread_row: Any = await client.threads.get(thread_id)
    assert thread_row["status"] == "interrupted"
    assert [item["value"] for several in thread_row["interrupts"].values() for item in several] == [second["value"]]


async def test_run_has_the_metadata_of_its_assistant_and_thread_and_of_both_fields(client: LangGraphClient) -> None:
    """Protocol: what is told of a run; what the server writes can't be told."""
    assistant = await client.assistants.create("chain", metadata={"a": 1, "from": "assistant"})
    thread = await client.threads.create(metadata={"t": 1, "from": "thread"})

    run = await client.runs.create(
        thread["thread_id"],
        assistant["assistant_id"],
        input={"items": []},
        metadata={"r": 1, "from": "run", "run_id": "mine"},
        config={"metadata": {"c": 1, "from": "config"}},  # pyright: ignore[reportArgumentType] - the server takes it
    )

    ids = {"graph_id": "chain", "assistant_id": assistant["assistant_id"]}
    assert run["metadata"] == {"a": 1, "t": 1, "c": 1, "r": 1, "from": "run"} | ids
    await client.runs.join(thread["thread_id"], run["run_id"])
    state = await client.threads.get_state(thread["thread_id"])
    assert {"a": 1, "t": 1, "c": 1, "r": 1, "from": "run", "run_id": run["run_id"]}.items() <= dict(
        state["metadata"] or {}
    ).items()


async def test_context_has_its_defaults_without_values(settings: Settings) -> None:
    """Protocol: a graph with a context schema finds a context."""
    graphs = {"greeter": as_loaded_graph("greeter", _greeter(), where="tests")}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        assert await client.runs.wait(None, "greeter", input={"items": []}) == {"items": ["hello"]}
        said = await client.runs.wait(None, "greeter", input={"items": []}, context={"greeting": "hi", "other": 1})
        assert said == {"items": ["hi"]}


async def test_an_empty_command_is_ignored(client: LangGraphClient) -> None:
    """Protocol: `command: {}` goes on from where the thread stands."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "chain", input={"items": []})
    assert await client.runs.wait(thread["thread_id"], "chain", command={}) == {"items": ["first", "second"]}


async def test_reader_who_joins_after_the_end_gets_nothing_without_an_id(client: LangGraphClient) -> None:
    """Protocol: join stream, a finished run."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "chain", input={"items": []})
    await client.runs.join(thread["thread_id"], run["run_id"])

    assert [part async for part in client.runs.join_stream(thread["thread_id"], run["run_id"])] == []


async def test_no_stream_mode_is_values(http: httpx.AsyncClient) -> None:
    """Protocol: an empty list is the default."""
    body = {"assistant_id": "chain", "input": {"items": []}, "stream_mode": []}
    answer = await http.post("/runs/stream", json=body)
    assert answer.text.count("event: values") == 3


async def test_events_name_the_graph_and_leave_its_own_chunks_to_the_other_modes(client: LangGraphClient) -> None:
    """Protocol: stream mode `events`."""
    streamed = client.runs.stream(None, "writing", input={"items": []}, stream_mode=["events", "values"])
    parts = [part async for part in streamed]
    events = [part.data for part in parts if part.event == "events"]

    assert {event["name"] for event in events} == {"writing", "write"}
    assert [event["event"] for event in events] == [
        "on_chain_start",
        "on_chain_start",
        "on_chain_stream",
        "on_chain_end",
        "on_chain_end",
    ]
    assert [part.data for part in parts if part.event == "values"] == [{"items": []}, {"items": ["written"]}]


async def test_debug_has_the_ids_of_checkpoints_and_the_classes_of_errors(client: LangGraphClient) -> None:
    """Protocol: stream mode `debug`."""
    thread = await client.threads.create()
    streamed = client.runs.stream(thread["thread_id"], "failing", input={"items": []}, stream_mode="debug")
    received = [part.data async for part in streamed if part.event == "debug"]

    first, second = [item["payload"] for item in received if item["type"] == "checkpoint"][:2]
    assert first["parent_checkpoint"] is None
    assert second["parent_checkpoint"] == first["checkpoint"]
    assert set(first["checkpoint"]) == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    failed = received[-1]["payload"]
    assert failed["error"] == {"error": "ValueError", "message": "the node failed"}


async def test_a_search_returns_the_latest_used_threads_first(client: LangGraphClient) -> None:
    """Protocol: a search that says no order."""
    older = await client.threads.create()
    newer = await client.threads.create()
    await client.runs.wait(older["thread_id"], "chain", input={"items": []})

    threads = await client.threads.search()
    assert [thread["thread_id"] for thread in threads] == [older["thread_id"], newer["thread_id"]]
