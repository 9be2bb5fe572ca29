"""A thread's state: now, at a checkpoint, in its history; and changed by the client."""

import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import anyio
import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


EMPTY = {
    "values": {},
    "next": [],
    "tasks": [],
    "metadata": None,
    "created_at": None,
    "checkpoint": None,
    "parent_checkpoint": None,
    "interrupts": [],
    "checkpoint_id": None,
    "parent_checkpoint_id": None,
}


async def _ran(client: LangGraphClient, graph_id: str = "chain") -> str:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], graph_id, input={"items": ["in"]})
    return thread["thread_id"]


async def _row(client: LangGraphClient, thread_id: str) -> tuple[Any, ...]:
    thread = await client.threads.get(thread_id)
    return thread["status"], thread["values"], thread["interrupts"]


async def test_thread_without_a_run_has_an_empty_state(client: LangGraphClient) -> None:
    """Protocol: 200, for a thread that is there."""
    thread_id = (await client.threads.create())["thread_id"]

    assert await client.threads.get_state(thread_id) == EMPTY
    assert await client.threads.get_history(thread_id) == []


async def test_checkpoint_metadata_names_thread_run_assistant_and_graph(client: LangGraphClient) -> None:
    """Protocol: of the run's checkpoints and of a copy's. LangGraph itself leaves the thread out."""
    thread_id = await _ran(client)
    [run] = await client.runs.list(thread_id)
    copy = await client.threads.copy(thread_id)
    ids = {"run_id": run["run_id"], "assistant_id": run["assistant_id"], "graph_id": "chain"}

    for each in (thread_id, copy["thread_id"]):
        named = {"thread_id": each, **ids}
        state = await client.threads.get_state(each)
        history = await client.threads.get_history(each, limit=10)
        assert [found["metadata"].items() >= named.items() for found in (state, *history)] == [True] * (
            1 + len(history)
        )
    found = await client.threads.get_history(thread_id, metadata={"thread_id": thread_id})
    assert found


async def test_metadata_of_a_change_by_hand_names_thread_and_graph(client: LangGraphClient) -> None:
    """Issue: as on the reference, also of a thread that is made with a state."""
    thread_id = await _ran(client)
    await client.threads.update_state(thread_id, {"items": ["by hand"]})
    changed = (await client.threads.get_state(thread_id))["metadata"]
    steps = [{"updates": [{"values": {"items": ["in"]}, "as_node": "__input__"}]}]
    made = await client.threads.create(graph_id="chain", supersteps=steps)
    begun = (await client.threads.get_state(made["thread_id"]))["metadata"]

    assert changed == {"source": "update", "step": 3, "parents": {}, "thread_id": thread_id, "graph_id": "chain"}
    assert begun == {
        "source": "input", "step": -1, "parents": {}, "thread_id": made["thread_id"], "graph_id": "chain"
    }  # fmt: skip


async def test_state_and_history_show_each_step(client: LangGraphClient) -> None:
    """Protocol: GET state, POST history: newest first, with exact parents and the tasks' results."""
    thread_id = await _ran(client)

    state = await client.threads.get_state(thread_id)
    history = await client.threads.get_history(thread_id, limit=10)

    assert state["values"] == {"items": ["in", "first", "second"]}
    assert (state["next"], state["tasks"], state["interrupts"]) == ([], [], [])
    assert [step["values"]["items"] for step in history] == [["in", "first", "second"], ["in", "first"], ["in"], []]
    assert history[0] == state
    parents = [step["parent_checkpoint"] for step in history]
    assert parents == [step["checkpoint"] for step in history[1:]] + [None]
    results = [[(task["name"], task["result"]) for task in step["tasks"]] for step in history]
    assert results == [
        [],
        [("second", {"items": ["second"]})],
        [("first", {"items": ["first"]})],
        [("__start__", {"items": ["in"]})],
    ]


async def test_history_is_bounded_and_filtered(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: `limit` is 1 where none is given; `before` in three forms, two of which the reference does not take."""
    thread_id = await _ran(client)
    history: Any = await client.threads.get_history(thread_id, limit=10)
    path = f"/threads/{thread_id}/history"
    before = history[1]["checkpoint_id"]

    assert (await http.get(path)).json() == (await http.post(path, json={})).json() == history[:1]
    assert (await http.get(path, params={"limit": 5, "before": before})).json() == history[2:]
    for named in (before, history[1]["checkpoint"], {"configurable": {"checkpoint_id": before}}):
        assert await client.threads.get_history(thread_id, limit=5, before=named) == history[2:]
    assert await client.threads.get_history(thread_id, limit=5, metadata={"step": 0}) == history[2:3]
    assert await client.threads.get_history(thread_id, limit=5, checkpoint=history[2]["checkpoint"]) == history[2:3]
    for limit in (0, 1001):
        with pytest.raises(UnprocessableEntityError):
            await client.threads.get_history(thread_id, limit=limit)


async def test_state_at_a_checkpoint(client: LangGraphClient) -> None:
    """Protocol: by id, or by a checkpoint; without an id the newest."""
    thread_id = await _ran(client)
    history: Any = await client.threads.get_history(thread_id, limit=10)

    for step in history:
        assert await client.threads.get_state(thread_id, checkpoint_id=step["checkpoint_id"]) == step
        assert await client.threads.get_state(thread_id, step["checkpoint"]) == step
    newest: Any = {"thread_id": thread_id}
    assert await client.threads.get_state(thread_id, newest) == history[0]


@pytest.mark.parametrize("unknown", ["6749b60b-acee-48fc-a23d-b413de28ff84", "zzz"])
async def test_a_missing_checkpoint_has_an_empty_state(client: LangGraphClient, unknown: str) -> None:
    """Protocol: 200, the checkpoint named; but nothing can be put on it."""
    thread_id = await _ran(client)
    named = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": unknown}

    state = await client.threads.get_state(thread_id, checkpoint_id=unknown)

    assert state == {**EMPTY, "checkpoint": named, "checkpoint_id": unknown}
    with pytest.raises(NotFoundError, match="Checkpoint"):
        await client.threads.update_state(thread_id, {"items": ["x"]}, as_node="first", checkpoint_id=unknown)


async def test_client_may_take_a_part_of_the_state(client: LangGraphClient) -> None:
    """Protocol: `select`, which the reference does not heed."""
    thread_id = await _ran(client)
    whole = await client.threads.get_state(thread_id)

    assert await client.threads.get_state(thread_id, select=["next", "checkpoint"]) == {
        "next": [],
        "checkpoint": whole["checkpoint"],
    }
    assert await client.threads.get_state(thread_id, select=["values.items", "values.no"]) == {
        "values": whole["values"]
    }
    (step,) = await client.threads.get_history(thread_id, limit=1, select=["values"])
    assert step == {"values": whole["values"]}
    with pytest.raises(UnprocessableEntityError):
        await client.threads.get_state(thread_id, select=["row"])


async def test_no_client_reaches_another_thread(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Ours: the path says which thread; a `thread_id` in a body is not read."""
    mine, theirs = await _ran(client), await _ran(client, "asking")
    foreign: Any = {"thread_id": theirs, "checkpoint_ns": "", "configurable": {"thread_id": theirs}}
    before = await client.threads.get_state(theirs)

    assert (await client.threads.get_state(mine, foreign))["values"] == {"items": ["in", "first", "second"]}
    assert len(await client.threads.get_history(mine, checkpoint=foreign)) == 4
    at_theirs: Any = {**foreign, "checkpoint_id": before["checkpoint"]["checkpoint_id"]}
    assert (await client.threads.get_state(mine, at_theirs))["values"] == {}
    updated = await client.threads.update_state(mine, {"items": ["mine"]}, as_node="second", checkpoint=foreign)

    assert updated["checkpoint"]["thread_id"] == mine
    assert await client.threads.get_state(theirs) == before


async def test_an_update_adds_a_checkpoint_and_changes_the_row(client: LangGraphClient) -> None:
    """Protocol: POST state; `as_node` decides what is next."""
    thread_id = await _ran(client)
    before = await client.threads.get(thread_id)

    updated: Any = await client.threads.update_state(thread_id, {"items": ["mine"]}, as_node="first")

    state = await client.threads.get_state(thread_id)
    assert updated == {
        "checkpoint": state["checkpoint"],
        "configurable": state["checkpoint"],
        "checkpoint_id": state["checkpoint"]["checkpoint_id"],
    }
    values = {"items": ["in", "first", "second", "mine"]}
    assert (state["values"], state["next"]) == (values, ["second"])
    assert await _row(client, thread_id) == ("interrupted", values, {})
    assert (await client.threads.get(thread_id))["state_updated_at"] > before["state_updated_at"]
    assert await client.runs.wait(thread_id, "chain", input=None) == {"items": [*values["items"], "second"]}


async def test_update_settles_a_failed_thread(client: LangGraphClient) -> None:
    """Ours: the update replaces the write of the failed node, so the thread has no error any more."""
    thread_id = await _ran_failing(client)

    await client.threads.update_state(thread_id, {"items": ["mended"]}, as_node="fail")

    assert await _row(client, thread_id) == ("idle", {"items": ["in", "first", "mended"]}, {})
    assert (await client.threads.get(thread_id))["error"] is None


async def _ran_failing(client: LangGraphClient) -> str:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "failing", input={"items": ["in"]}, raise_error=False)
    assert (await client.threads.get(thread_id))["status"] == "error"
    return thread_id


async def test_answer_may_be_written_instead_of_given(client: LangGraphClient) -> None:
    """Protocol: update as the node that asks; then nothing waits for an answer any more."""
    thread_id = await _ran(client, "asking")
    (asked,) = (await client.threads.get_state(thread_id))["interrupts"]
    assert (await _row(client, thread_id))[2] != {}

    await client.threads.update_state(thread_id, {"items": ["written"]}, as_node="ask")

    state = await client.threads.get_state(thread_id)
    assert asked["value"] == {"question": "which?"}
    assert (state["next"], state["interrupts"]) == (["second"], [])
    assert await _row(client, thread_id) == ("interrupted", {"items": ["in", "first", "written"]}, {})


async def test_branch_from_a_checkpoint_leaves_the_rest(client: LangGraphClient) -> None:
    """Protocol: update with a checkpoint; the branch is then the newest, and the history has both."""
    thread_id = await _ran(client)
    history: Any = await client.threads.get_history(thread_id, limit=10)
    start = history[2]

    updated = await client.threads.update_state(
        thread_id, {"items": ["other"]}, as_node="first", checkpoint=start["checkpoint"]
    )

    assert await _row(client, thread_id) == ("interrupted", {"items": ["in", "other"]}, {})
    branched: Any = await client.threads.get_history(thread_id, limit=10)
    assert (branched[0]["checkpoint"], branched[0]["parent_checkpoint"]) == (
        updated["checkpoint"],
        start["checkpoint"],
    )
    assert branched[1:] == history
    assert await client.runs.wait(thread_id, "chain", input=None) == {"items": ["in", "other", "second"]}


async def test_a_senseless_update_is_refused(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: 400; the state stays, and the client reads why."""
    fresh = (await client.threads.create())["thread_id"]
    with pytest.raises(BadRequestError, match="has no assigned graph ID"):
        await client.threads.update_state(fresh, {"items": []})
    thread_id = await _ran(client)
    before = await client.threads.get_state(thread_id)

    for values, as_node, why in (
        ({"items": ["x"]}, "zz", "Node zz does not exist"),
        ([{"items": ["x"]}], "first", "Expected dict"),
        ({"items": 5}, "first", "can only concatenate"),
    ):
        with pytest.raises(BadRequestError, match=why):
            await client.threads.update_state(thread_id, values, as_node=as_node)
    path = f"/threads/{thread_id}/state"
    elsewhere = {"values": {"items": []}, "checkpoint": {"checkpoint_ns": "no:1"}}
    assert (await http.post(path, json=elsewhere)).json()["detail"] == "Subgraph no not found"
    assert (await http.post(path, json={"values": "words"})).status_code == 422
    assert (await http.patch(path, json={"metadata": {}})).status_code == 405

    assert await client.threads.get_state(thread_id) == before
    assert (await client.threads.update_state(thread_id, None))["checkpoint"] != before["checkpoint"]


async def test_an_id_that_postgres_cannot_store_is_refused(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Ours: refused in a path; in a query U+FFFD stands for NUL, as it does in a body."""
    thread_id = await _ran(client)

    assert (await http.get(f"/threads/{thread_id}/state/a%00b")).status_code == 422
    assert (await http.get(f"/threads/{thread_id}/history?before=a%00b")).status_code == 200


async def test_state_of_a_busy_thread_is_not_changed(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: 409, which on the reference shows the run's internals; reading goes on."""
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "gated", input={"items": ["in"]}, durability="sync")
    await gate.entered()

    with pytest.raises(ConflictError) as refused:
        await client.threads.update_state(thread_id, {"items": ["mine"]}, as_node="gate")

    assert refused.value.response.json() == {
        "detail": "Thread is running a task: its state can be updated after the task has ended.",
        "code": "thread-busy",
        "run_id": run["run_id"],
    }
    assert (await client.threads.get_state(thread_id))["next"] == ["gate"]


async def test_updates_and_runs_at_once_lose_nothing(client: LangGraphClient) -> None:
    """Ours: no run starts in the middle of an update; an update that comes too late is refused."""
    thread_id = await _ran(client)
    written: list[str] = []

    async def write(word: str) -> None:
        try:
            await client.threads.update_state(thread_id, {"items": [word]}, as_node="second")
        except ConflictError:
            return
        written.append(word)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(write, f"word {number}")
            tasks.start_soon(client.runs.create, thread_id, "chain")
    with anyio.fail_after(WAIT_S):
        while (await client.threads.get(thread_id))["status"] == "busy":
            await anyio.sleep(0.02)

    values: Any = (await client.threads.get_state(thread_id))["values"]
    assert sorted(item for item in values["items"] if item.startswith("word")) == sorted(written)
    assert (await client.threads.get(thread_id))["values"] == values


class Items(TypedDict):
    items: Annotated[list[Any], operator.add]


async def _ask(state: Items) -> Items:
    return {"items": [interrupt("which?")]}


async def _last(state: Items) -> Items:
    return {"items": ["last"]}


def _asking_parent() -> StateGraph[Any, Any, Any, Any]:
    child: StateGraph[Any, Any, Any, Any] = StateGraph(Items)
    child.add_node("ask", _ask)
    child.add_edge(START, "ask")
    parent: StateGraph[Any, Any, Any, Any] = StateGraph(Items)
    parent.add_node("child", child.compile())
    parent.add_node("last", _last)
    parent.add_edge(START, "child")
    parent.add_edge("child", "last")
    parent.add_edge("last", END)
    return parent


@pytest.fixture
async def nested(settings: Settings) -> AsyncIterator[LangGraphClient]:
    """A client of a server whose graph `parent` has a subgraph that asks."""
    graphs = {"parent": as_loaded_graph("parent", _asking_parent(), where="tests")}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        yield client


async def test_state_of_a_waiting_subgraph_is_found_from_its_task(nested: LangGraphClient) -> None:
    """Protocol: `tasks[].checkpoint` leads to it, `subgraphs=true` nests it, and it has a history of its own."""
    thread_id = await _ran(nested, "parent")

    state = await nested.threads.get_state(thread_id)
    deep = await nested.threads.get_state(thread_id, subgraphs=True)

    (task,), (deep_task,) = state["tasks"], deep["tasks"]
    place: Any = task["checkpoint"]
    assert place == {"thread_id": thread_id, "checkpoint_ns": f"child:{task['id']}"}
    assert (task["state"], deep_task["checkpoint"]) == (None, None)
    inner: Any = await nested.threads.get_state(thread_id, place)
    assert inner == deep_task["state"]
    assert (inner["next"], inner["interrupts"]) == (["ask"], state["interrupts"])
    assert inner["checkpoint"]["checkpoint_map"][""] == state["checkpoint"]["checkpoint_id"]
    history = await nested.threads.get_history(thread_id, checkpoint=place)
    assert [step["next"] for step in history] == [["ask"], ["__start__"]]
    assert {step["checkpoint"]["checkpoint_ns"] for step in history} == {place["checkpoint_ns"]}


async def test_update_of_a_subgraph_leaves_the_thread_its_own_values(nested: LangGraphClient) -> None:
    """Protocol: POST state with a subgraph's checkpoint. The reference then shows its values as the thread's."""
    thread_id = await _ran(nested, "parent")
    place: Any = (await nested.threads.get_state(thread_id))["tasks"][0]["checkpoint"]

    updated = await nested.threads.update_state(thread_id, {"items": ["inner"]}, as_node="ask", checkpoint=place)

    assert updated["checkpoint"]["checkpoint_ns"] == place["checkpoint_ns"]
    assert (await nested.threads.get_state(thread_id, place))["values"] == {"items": ["in", "inner"]}
    assert (await _row(nested, thread_id))[:2] == ("interrupted", {"items": ["in"]})


async def test_a_graph_that_is_no_longer_served_is_reported(client: LangGraphClient) -> None:
    """Protocol: 404 that lists the graphs; never an empty state."""
    thread_id = (await client.threads.create(graph_id="gone"))["thread_id"]

    for call in (
        client.threads.get_state(thread_id),
        client.threads.get_history(thread_id),
        client.threads.update_state(thread_id, {}),
    ):
        with pytest.raises(NotFoundError, match="Graph 'gone' not found"):
            await call
