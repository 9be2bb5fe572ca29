"""The stream of a whole thread."""

from typing import Any

import anyio
from anyio.abc import TaskGroup
from langgraph_sdk.client import LangGraphClient


def _status(data: Any) -> Any:
    """`run_done`, where the data says so; otherwise the data."""
    return data.get("status", data) if isinstance(data, dict) else data


class Reader:
    """Collects what a thread's stream says."""

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
        """Wait until so many runs have been told as done."""
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


async def test_lifecycle_mode_tells_beginnings_and_ends_only(client: LangGraphClient) -> None:
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
    """Protocol: `Last-Event-ID`: nothing of what was told comes again, of no run."""
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
