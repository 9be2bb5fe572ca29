"""State that can't be stored or read: too large, damaged, or of another key. Only its own thread is affected."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langgraph.graph import START, StateGraph
from pydantic import ValidationError

from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

CAP = 1024 * 1024
SECRET = "the-plain-secret"
KEY, OTHER = "k" * 32, "o" * 32


class State(TypedDict, total=False):
    """A text and a list; `size` says how much the node adds."""

    size: int
    text: str
    rows: list[str]


async def _grow(state: State) -> State:
    size = state.get("size", 0)
    return {"text": SECRET + "x" * size, "rows": ["y" * size]}


@asynccontextmanager
async def _served(settings: Settings, **changed: Any) -> AsyncIterator[httpx.AsyncClient]:
    graph = StateGraph(State)
    graph.add_node("grow", _grow)
    graph.add_edge(START, "grow")
    chosen = Settings.model_validate(settings.model_dump() | changed)
    graphs = {"growing": as_loaded_graph("growing", graph, where="tests")}
    async with serving(chosen, graphs) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S * 3) as http:
        yield http


async def _thread(http: httpx.AsyncClient) -> str:
    thread_id: str = (await http.post("/threads", json={"metadata": {"graph_id": "growing"}})).json()["thread_id"]
    return thread_id


async def _run(http: httpx.AsyncClient, thread_id: str, size: int, **more: Any) -> Any:
    body = {"assistant_id": "growing", "input": {"size": size}, **more}
    return (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()


@pytest.mark.parametrize("size", [CAP + 1, 100 * 1024 * 1024], ids=["above the cap", "100 MB"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_run_that_leaves_too_large_a_state_ends_as_error(settings: Settings, size: int, durability: str) -> None:
    """Ours: with a clear message, the earlier state untouched, and the thread goes on."""
    async with _served(settings, max_channel_bytes=CAP) as http:
        thread_id = await _thread(http)
        before = await _run(http, thread_id, 3)
        failed = await _run(http, thread_id, size, durability=durability)
        row = (await http.get(f"/threads/{thread_id}/runs")).json()[0]
        thread = (await http.get(f"/threads/{thread_id}")).json()
        state = (await http.get(f"/threads/{thread_id}/state")).json()["values"]
        after = await _run(http, thread_id, 3)

    assert failed["__error__"]["error"] == "StateTooLarge"
    assert "at most 1,048,576 can be stored" in failed["__error__"]["message"]
    assert (row["status"], thread["status"]) == ("error", "error")
    assert state["text"] == before["text"]
    assert len(str(thread["values"])) < CAP
    assert after == before


async def _execute(database: str, statement: Any) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        cursor = await conn.execute(statement)
        return await cursor.fetchall() if cursor.description else []


POISONS = {
    "garbage": "UPDATE checkpoint_blobs SET blob = '\\xc1c1c1' WHERE thread_id = '{}'",
    "unknown type": "UPDATE checkpoint_blobs SET type = 'pickle' WHERE thread_id = '{}'",
    "cut": "UPDATE checkpoint_blobs SET blob = substr(blob, 1, 1) WHERE thread_id = '{}'",
    "no checkpoint": "UPDATE checkpoints SET checkpoint = '[]' WHERE thread_id = '{}'",
    "encrypted": "UPDATE checkpoint_blobs SET type = type || '+aes' WHERE thread_id = '{}'",
}


@pytest.mark.parametrize("poison", POISONS)
async def test_a_thread_with_an_unreadable_checkpoint_fails_alone_with_an_error(
    settings: Settings, database: str, poison: str
) -> None:
    """Ours: the thread has a JSON error of its own, and can be found and deleted. Others work."""
    async with _served(settings) as http:
        bad, good = await _thread(http), await _thread(http)
        for thread_id in (bad, good):
            await _run(http, thread_id, 3)
        await _execute(database, POISONS[poison].format(bad))
        answers = [
            await http.get(f"/threads/{bad}/state"),
            await http.get(f"/threads/{bad}/history"),
            await http.post(f"/threads/{bad}/state", json={"values": {"text": "a"}}),
        ]
        ran = await _run(http, bad, 3)
        found = {one["thread_id"] for one in (await http.post("/threads/search", json={})).json()}
        other = await http.get(f"/threads/{good}/state")
        deleted = await http.delete(f"/threads/{bad}")

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(409, "checkpoint-unreadable")] * 3
    assert {answer.json()["detail"] for answer in answers} == {"checkpoint unreadable"}
    assert ran["__error__"] == {"error": "CheckpointUnreadable", "message": "checkpoint unreadable"}
    assert found == {bad, good}
    assert (other.status_code, deleted.status_code) == (200, 204)


async def test_poisoned_state_is_left_out_of_the_stream_of_its_thread(settings: Settings, database: str) -> None:
    """Ours: the events of runs go on."""
    async with _served(settings) as http, anyio.create_task_group() as tasks:
        thread_id = await _thread(http)
        await _run(http, thread_id, 3)
        await _execute(database, POISONS["garbage"].format(thread_id))
        modes = {"stream_mode": "state_update,run_modes"}
        async with http.stream("GET", f"/threads/{thread_id}/stream", params=modes) as answer:
            tasks.start_soon(_run, http, thread_id, 3)
            with anyio.fail_after(WAIT_S):
                names = [line async for line in _until(answer, "event: error") if line.startswith("event:")]

    assert names == ["event: metadata", "event: error"]


async def _until(answer: httpx.Response, last: str) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        yield line
        if line == last:
            return


async def test_with_a_key_checkpoints_are_unreadable_at_rest_and_read_back(settings: Settings, database: str) -> None:
    """Ours: `LANGGRAPH_AES_KEY`; blobs, writes and what stands in a checkpoint's JSON; a wrong key costs its threads alone."""
    async with _served(settings, aes_key=KEY) as http:
        thread_id = await _thread(http)
        ran = await _run(http, thread_id, 3)
        state = (await http.get(f"/threads/{thread_id}/state")).json()["values"]
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
    kept = [
        str(await _execute(database, f"SELECT encode(t::text::bytea, 'escape'), * FROM {name} t")) for name in tables
    ]
    async with _served(settings, aes_key=OTHER) as http:
        wrong = await http.get(f"/threads/{thread_id}/state")
        others = await _run(http, await _thread(http), 1)
    async with _served(settings, aes_key=KEY) as http:
        again = (await http.get(f"/threads/{thread_id}/state")).json()["values"]

    assert ran["text"] == state["text"] == again["text"] == SECRET + "xxx"
    assert all(SECRET not in text for text in kept)
    assert "aes-gcm" in kept[1]
    assert (wrong.status_code, wrong.json()["code"]) == (409, "checkpoint-unreadable")
    assert others["rows"] == ["y"]


async def test_checkpoints_from_before_the_key_are_still_read(settings: Settings) -> None:
    """Ours: encryption can be turned on at any time."""
    async with _served(settings) as http:
        thread_id = await _thread(http)
        await _run(http, thread_id, 3)
    async with _served(settings, aes_key=KEY) as http:
        before = (await http.get(f"/threads/{thread_id}/state")).json()["values"]
        after = await _run(http, thread_id, 4)

    assert (before["text"], after["text"]) == (SECRET + "xxx", SECRET + "xxxx")


@pytest.mark.parametrize("key", ["short", "k" * 33, "é" * 31])
def test_key_of_another_length_stops_the_start(settings: Settings, key: str) -> None:
    """Ours: the message does not contain the key."""
    with pytest.raises(ValidationError, match="must have 16, 24 or 32 bytes") as caught:
        Settings(aes_key=key)  # pyright: ignore[reportArgumentType]
    assert key not in str(caught.value)


REFUSED = "NUL \0 in a name"
"""Of a channel: it goes into the checkpoint's JSON, and Postgres takes it in no form."""


async def _say_what_is_refused(_state: Any) -> Any:
    return {"text": "said", REFUSED: "x"}


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_run_whose_checkpoints_postgres_refuses_ends_as_error(settings: Settings, durability: str) -> None:
    """Ours: whether it was waited for, streamed or left in the queue, and whenever Postgres says so."""
    state: Any = TypedDict("state", {"text": str, REFUSED: str}, total=False)
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    graph.add_node("say", _say_what_is_refused)
    graph.add_edge(START, "say")
    graphs = {"growing": as_loaded_graph("growing", graph, where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        threads = [await _thread(http) for _ in range(3)]
        body = {"assistant_id": "growing", "input": {"text": "hello"}, "durability": durability}

        waited = await http.post(f"/threads/{threads[0]}/runs/wait", json=body)
        streamed = await http.post(f"/threads/{threads[1]}/runs/stream", json=body)
        queued = (await http.post(f"/threads/{threads[2]}/runs", json=body)).json()
        joined = await http.get(f"/threads/{threads[2]}/runs/{queued['run_id']}/join")
        followed = await http.get(
            f"/threads/{threads[2]}/runs/{queued['run_id']}/stream", headers={"last-event-id": "-1"}
        )

        assert set(waited.json()) == {"__error__"}
        assert set(joined.json()) == {"__error__"}
        assert streamed.text.count("event: error") == 1
        assert followed.text.count("event: error") == 1
        for thread_id in threads:
            assert (await http.get(f"/threads/{thread_id}")).json()["status"] == "error"
            assert [run["status"] for run in (await http.get(f"/threads/{thread_id}/runs")).json()] == ["error"]
