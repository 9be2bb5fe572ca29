"""Retention: the rows that are deleted when the time to live of a thread is over."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import psycopg
import pytest

from graphs import GRAPHS, delta_graph
from threadkeep.api.operation import STATE, AppState
from threadkeep.app import create_app
from threadkeep.base import ids
from threadkeep.graphs import SERVER, as_loaded_graph
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import threads
from threadkeep.tables.threads import NewThread, Ttl
from threadkeep.threads import history, updates
from threadkeep.threads.retention import ThreadExpiry
from threadkeep.threads.updates import Superstep, ThreadStateUpdate


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[AppState]:
    """A process that serves the test graphs."""
    loaded = {
        name: as_loaded_graph(name, graph, where="tests") for name, graph in {**GRAPHS, "delta": delta_graph()}.items()
    }
    app = await anyio.to_thread.run_sync(create_app, settings, str(settings.database_uri), loaded)
    async with app.router.lifespan_context(app) as state:
        opened: Any = state
        yield opened[STATE]


async def _thread(process: AppState, strategy: str | None, graph_id: str = "chain") -> UUID:
    """A thread with three checkpoints that lives for an hour."""
    ttl = Ttl(strategy=strategy, minutes=60) if strategy else None
    new = NewThread(thread_id=ids.uuid7(), metadata={"graph_id": graph_id}, ttl=ttl)
    steps = [
        Superstep(updates=[ThreadStateUpdate(values={"items": [word]}, as_node="first")]) for word in ("a", "b", "c")
    ]
    assert await updates.create_thread(process.threads, SERVER, new, steps) is not None
    return new.thread_id


async def expire_once(process: AppState) -> None:
    """One round of the duty."""
    await ThreadExpiry(pool=process.pool, checkpoints=process.threads.checkpoints, ttl=None).run_once()


async def _later(settings: Settings, minutes: int) -> None:
    """Let every thread have been touched so much earlier."""
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await conn.execute(
            """
            UPDATE threads
               SET updated_at   = updated_at - make_interval(mins => %(minutes)s),
                   ttl_pruned_at = ttl_pruned_at - make_interval(mins => %(minutes)s)
            """,
            {"minutes": minutes},
        )


async def _checkpoints(process: AppState, thread_id: UUID) -> int | None:
    """The number of the thread's checkpoints. None if the thread is deleted."""
    async with process.pool.connection() as conn:
        thread = await threads.get(conn, UNRESTRICTED, thread_id)
    if thread is None:
        return None
    wanted = history.HistoryRequest(limit=100)
    return len((await history.page(process.threads, SERVER, thread, wanted, lambda state: state)).states)


async def _left_over(settings: Settings, thread_id: UUID) -> int:
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri)) as conn:
        cursor = await conn.execute("SELECT count(*) FROM checkpoints WHERE thread_id = %s", (str(thread_id),))
        return (await cursor.fetchone() or (0,))[0]


async def test_threads_go_when_their_time_is_over(process: AppState, settings: Settings) -> None:
    """Protocol: `ttl`, which the in-memory reference never sweeps."""
    deleted, pruned, kept = [await _thread(process, strategy) for strategy in ("delete", "keep_latest", None)]

    await _later(settings, 59)
    await expire_once(process)
    assert [await _checkpoints(process, one) for one in (deleted, pruned, kept)] == [3, 3, 3]

    await _later(settings, 2)
    await expire_once(process)
    assert [await _checkpoints(process, one) for one in (deleted, pruned, kept)] == [None, 1, 3]
    assert await _left_over(settings, deleted) == 0


async def test_thread_that_was_pruned_is_left_alone_until_it_is_touched(process: AppState, settings: Settings) -> None:
    """Ours: the sweep does not do the same again each time, and does not move the thread up in a list."""
    thread_id = await _thread(process, "keep_latest")
    await _later(settings, 61)
    async with process.pool.connection() as conn:
        before = await threads.get(conn, UNRESTRICTED, thread_id)
        await expire_once(process)
        after = await threads.get(conn, UNRESTRICTED, thread_id)
    assert before is not None
    assert after is not None
    assert after.updated_at == before.updated_at

    change = updates.ThreadUpdate(
        checkpoint=history.LATEST, update=ThreadStateUpdate(values={"items": ["d"]}, as_node="first")
    )
    await updates.update_state(process.threads, SERVER, thread_id, change)
    await expire_once(process)
    assert await _checkpoints(process, thread_id) == 2

    await _later(settings, 61)
    await expire_once(process)
    assert await _checkpoints(process, thread_id) == 1


async def test_a_busy_thread_is_not_expired(process: AppState, settings: Settings) -> None:
    """Ours: a run that takes longer than its thread was to live ends in peace."""
    spared = [await _thread(process, strategy) for strategy in ("delete", "keep_latest")]
    async with process.pool.connection() as conn:
        await conn.execute("UPDATE threads SET status = 'busy'")
    await _later(settings, 61)

    await expire_once(process)

    assert [await _checkpoints(process, one) for one in spared] == [3, 3]


async def test_replicas_that_sweep_at_once_take_different_threads(process: AppState, settings: Settings) -> None:
    """Ours: locked rows are passed over."""
    there = [await _thread(process, strategy) for strategy in ("delete", "keep_latest") * 4]
    await _later(settings, 61)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(expire_once, process)

    assert [await _checkpoints(process, one) for one in there] == [None, 1] * 4


async def test_thread_that_can_not_be_pruned_does_not_stop_the_others(process: AppState, settings: Settings) -> None:
    """Ours: LangGraph refuses a DeltaChannel; the log says so."""
    spread, other = await _thread(process, "keep_latest", "delta"), await _thread(process, "keep_latest")
    await _later(settings, 61)

    await expire_once(process)

    assert [await _checkpoints(process, one) for one in (spread, other)] == [3, 1]
