"""The stream of a whole thread."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from anyio.abc import TaskGroup
from langgraph_sdk.client import LangGraphClient

from conftest import WAIT_S
from graphs import Gate
from threadkeep.postgres.pool import Conn
from threadkeep.tables import runs
from threadkeep.tables.runs import RunPosition
from threadkeep.threads import follow


def _status(data: Any) -> Any:
    """`run_done`, where the data says so; otherwise the data."""
    return data.get("status", data) if isinstance(data, dict) else data


class Reader:
    """Collects the events of a thread's stream."""

    def __init__(self, client: LangGraphClient, thread_id: str, **options: Any) -> None:
        self.parts: list[Any] = []
        self._stream = client.threads.join_stream(thread_id, **options)
        self._fresh = anyio.Event()

    async def read(self) -> None:
        async for part in await self._stream:
            self.parts.append(part)
            self._fresh.set()
            self._fresh = anyio.Event()

    async def ended(self, runs: int) -> None:
        """Wait until the stream has the ends of so many runs."""
        with anyio.fail_after(5):
            while sum(_status(part.data) == "run_done" for part in self.parts) < runs:
                await self._fresh.wait()

    @property
    def events(self) -> list[tuple[str, Any]]:
        return [(part.event, _status(part.data)) for part in self.parts]


async def _reading(tasks: TaskGroup, reader: Reader) -> None:
    tasks.start_soon(reader.read)
    await anyio.sleep(0.3)


async def test_thread_stream_goes_on_over_runs_and_is_picked_up_where_it_was_left(client: LangGraphClient) -> None:
    """Protocol: GET /threads/{id}/stream: ids on every event, `run_done` after each run."""
    thread_id = (await client.threads.create())["thread_id"]
    reader = Reader(client, thread_id)
    async with anyio.create_task_group() as tasks:
        await _reading(tasks, reader)
        await client.runs.wait(thread_id, "chain", input={"items": ["one"]})
        await client.runs.create(thread_id, "counter", input=1)
        await reader.ended(2)
        tasks.cancel_scope.cancel()

    names = [name for name, _ in reader.events]
    assert names == ["metadata", "values", "values", "values", "metadata", "metadata", "values", "metadata"]
    assert all(part.id for part in reader.parts)
    again = Reader(client, thread_id, last_event_id=reader.parts[2].id)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again.read)
        await again.ended(2)
        tasks.cancel_scope.cancel()
    assert again.events == reader.events[3:]


async def test_lifecycle_mode_has_only_starts_and_ends(client: LangGraphClient) -> None:
    """Protocol: `stream_mode=lifecycle`."""
    thread_id = (await client.threads.create())["thread_id"]
    reader = Reader(client, thread_id, stream_mode=["lifecycle"])
    async with anyio.create_task_group() as tasks:
        await _reading(tasks, reader)
        await client.runs.wait(thread_id, "chain", input={"items": []})
        await reader.ended(1)
        tasks.cancel_scope.cancel()

    assert [name for name, _ in reader.events] == ["metadata", "metadata"]


async def test_thread_stream_is_picked_up_within_the_second_of_two_quick_runs(client: LangGraphClient) -> None:
    """Protocol: `Last-Event-ID`: no event of any run is repeated."""
    thread_id = (await client.threads.create())["thread_id"]
    reader = Reader(client, thread_id)
    async with anyio.create_task_group() as tasks:
        await _reading(tasks, reader)
        await client.runs.wait(thread_id, "chain", input={"items": ["one"]})
        await client.runs.wait(thread_id, "chain", input={"items": ["two"]})
        await reader.ended(2)
        tasks.cancel_scope.cancel()

    again = Reader(client, thread_id, last_event_id=reader.parts[6].id)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again.read)
        await again.ended(1)
        tasks.cancel_scope.cancel()
    assert again.events == reader.events[7:]


@asynccontextmanager
async def _opened(http: httpx.AsyncClient, thread_id: str, mode: str) -> AsyncIterator[AsyncIterator[str]]:
    """The names of the events of a stream whose response has just begun."""
    async with http.stream("GET", f"/threads/{thread_id}/stream", params={"stream_mode": mode}) as answer:
        names = (line.removeprefix("event: ") async for line in answer.aiter_lines() if line.startswith("event: "))
        with anyio.fail_after(WAIT_S):
            yield names


async def test_what_begins_after_the_response_is_in_the_stream(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: a client need not wait until the server has begun to follow the thread."""
    has_ended, last_position = anyio.Event(), runs.last_position

    async def slowly(*arguments: Any, **options: Any) -> int:
        with anyio.move_on_after(0.3):
            await has_ended.wait()
        return await last_position(*arguments, **options)

    monkeypatch.setattr(runs, "last_position", slowly)
    monkeypatch.setattr(follow, "POLL_S", 0.1)
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "chain", "input": {"items": []}}
    async with _opened(http, thread_id, "run_modes") as names:
        await http.post(f"/threads/{thread_id}/runs/wait", json=run)
        has_ended.set()
        assert [await anext(names) for _ in range(3)] == ["metadata", "values", "values"]
    async with _opened(http, thread_id, "state_update") as names:
        await http.post(f"/threads/{thread_id}/state", json={"values": {"items": ["more"]}})
        assert await anext(names) == "state_update"


async def test_run_that_is_created_while_a_stream_begins_is_in_it_once(
    http: httpx.AsyncClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: it is active, and newer than the position of the stream."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    listed = runs.list_positions

    async def after_a_new_run(conn: Conn, thread: UUID, *, position: int | None) -> list[RunPosition]:
        if position is None:
            await http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "gated", "input": {"items": []}})
        return await listed(conn, thread, position=position)

    monkeypatch.setattr(runs, "list_positions", after_a_new_run)
    async with _opened(http, thread_id, "lifecycle") as names:
        gate.open()
        assert [await anext(names) for _ in range(2)] == ["metadata", "metadata"]
        await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "chain", "input": {"items": []}})
        assert [await anext(names) for _ in range(2)] == ["metadata", "metadata"]
        with anyio.move_on_after(0.2) as more:
            await anext(names)
    assert more.cancelled_caught
