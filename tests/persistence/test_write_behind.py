"""Write-behind: writes of a run that its graph does not wait for, and the end of the run after them."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint

from conftest import WAIT_S
from new_runs import new_run
from threadkeep.base import ids
from threadkeep.base.json import RawJson
from threadkeep.persistence import group_commit
from threadkeep.persistence.checkpointer import DURABILITY_KEY, WRITE_BEHIND_KEY, Checkpointer
from threadkeep.persistence.group_commit import Fence, GroupCommit, WriteSet
from threadkeep.persistence.write_behind import MAX_PENDING_WRITES, WriteBehind
from threadkeep.postgres import pool
from threadkeep.postgres.batch_writer import PendingWrite
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import queue, workers
from threadkeep.tables.queue import ClaimedRun, RunFinalState
from threadkeep.tables.run_creation import open_run_creator

WORKER = ids.uuid7()


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        async with api.connection() as conn:
            await workers.create(conn, WORKER, ["chain"])
        yield api


@asynccontextmanager
async def _committing(settings: Settings, batches: list[int]) -> AsyncIterator[GroupCommit]:
    """A group commit, and how many callers' each transaction was."""
    async with (
        pool.open_runs_pool(settings, str(settings.database_uri)) as runs,
        group_commit.open_group_commit(runs, lambda callers, _: batches.append(callers)) as commits,
    ):
        yield commits


@pytest.fixture
def batches() -> list[int]:
    return []


@pytest.fixture
async def commits(settings: Settings, batches: list[int]) -> AsyncIterator[GroupCommit]:
    async with _committing(settings, batches) as commits:
        yield commits


@pytest.fixture
async def checkpoints(settings: Settings, commits: GroupCommit) -> AsyncIterator[Checkpointer]:
    async with pool.open_runs_pool(settings, str(settings.database_uri)) as runs:
        yield Checkpointer(runs, commits)


async def test_writes_without_a_waiting_caller_are_committed_with_the_end_of_the_run(
    api: Pool, commits: GroupCommit, batches: list[int]
) -> None:
    """Ours: one transaction for a short run, however many steps it had."""
    claimed = await _running(api)
    writes = _writes(commits, claimed)

    for number in range(5):
        await writes.submit(_blob(claimed.thread_id, number))
    assert await writes.finish_run(_end(claimed)) is True

    assert batches == [6]
    assert await _blobs(api) == 5
    assert await _status(api, claimed.run_id) == "success"


async def test_writes_are_committed_soon_although_no_caller_waits(api: Pool, commits: GroupCommit) -> None:
    """Ours: a step of a long run is kept long before the run ends."""
    claimed = await _running(api)
    await _writes(commits, claimed).submit(_blob(claimed.thread_id, 0))

    with anyio.fail_after(WAIT_S):
        await commits.drain()

    assert await _blobs(api) == 1


async def test_a_run_that_is_faster_than_postgres_waits(api: Pool, commits: GroupCommit) -> None:
    """Ours: the writes in progress are bounded."""
    claimed = await _running(api)
    writes = _writes(commits, claimed)

    for number in range(MAX_PENDING_WRITES + 1):
        await writes.submit(_blob(claimed.thread_id, number))

    assert await _blobs(api) == MAX_PENDING_WRITES + 1


async def test_nothing_is_written_after_a_failed_write(api: Pool, commits: GroupCommit) -> None:
    """Ours: a run whose checkpoint is refused has not succeeded, and others do not notice."""
    claimed, other = await _running(api), await _running(api)
    writes, good = _writes(commits, claimed), _writes(commits, other)
    await writes.submit(_blob("a NUL \0", 0))
    await good.submit(_blob(other.thread_id, 0))

    with pytest.raises(psycopg.DataError):
        await writes.finish_run(_end(claimed))
    assert await good.finish_run(_end(other)) is True

    assert writes.failure is not None
    assert await _status(api, claimed.run_id) == "running"
    assert await _status(api, other.run_id) == "success"


async def test_run_that_lost_a_write_in_an_outage_fails_no_other(api: Pool, commits: GroupCommit) -> None:
    """Ours: ends that share a transaction after the outage."""
    claimed, other = await _running(api), await _running(api)
    missing = PendingWrite[WriteSet, Any](_blob(claimed.thread_id, 0), lambda: None)
    missing.set_result(None, psycopg.OperationalError("no answer for 30 s"))
    end = commits.submit(WriteSet(run_result=_end(claimed), fence=Fence(claimed.run_id, WORKER), depends_on=(missing,)))
    good = commits.submit(WriteSet(run_result=_end(other), fence=Fence(other.run_id, WORKER)))

    with pytest.raises(psycopg.OperationalError) as lost:
        await end.result()

    assert lost.value is missing.error
    assert await good.result() is True
    assert await _status(api, claimed.run_id) == "running"
    assert await _status(api, other.run_id) == "success"


async def test_the_next_write_reports_an_earlier_failed_write(api: Pool, commits: GroupCommit) -> None:
    """Ours: a long run stops at its next step, not at its end."""
    writes = _writes(commits, await _running(api))
    await writes.submit(_blob("a NUL \0", 0))
    await commits.drain()

    with pytest.raises(psycopg.DataError):
        await writes.submit(_blob(uuid.uuid4(), 1))
    with pytest.raises(psycopg.DataError):
        await writes.flush()


async def test_an_abandoned_graph_writes_nothing_more(api: Pool, commits: GroupCommit) -> None:
    """Ours: its run is closed."""
    claimed = await _running(api)
    writes = _writes(commits, claimed)
    await writes.finish_run(_end(claimed))

    with pytest.raises(RuntimeError):
        await writes.submit(_blob(claimed.thread_id, 0))


async def test_writes_of_a_lost_lease_are_refused_with_the_end(api: Pool, commits: GroupCommit) -> None:
    """Ours: fencing, in the transaction that would make them."""
    claimed = await _running(api)
    writes = _writes(commits, claimed)
    await writes.submit(_blob(claimed.thread_id, 0))
    async with api.connection() as conn:
        await workers.delete(conn, WORKER)

    with pytest.raises(psycopg.Error) as refused:
        await writes.finish_run(_end(claimed))

    assert workers.is_lease_lost(refused.value)
    assert await _blobs(api) == 0
    assert await _status(api, claimed.run_id) == "running"


async def test_the_end_of_a_run_on_a_locked_thread_does_not_delay_others(api: Pool, commits: GroupCommit) -> None:
    """Ours: it is said to be held, and is then closed alone, behind whoever holds the thread."""
    held, free = await _running(api), await _running(api)
    async with api.connection() as conn, conn.transaction():
        await queue.lock_thread(conn, held.thread_id)
        found = dict[str, bool | None]()

        async def end(name: str, claimed: ClaimedRun) -> None:
            found[name] = await _writes(commits, claimed).finish_run(_end(claimed))

        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end, "held", held)
                tasks.start_soon(end, "free", free)

    assert found == {"held": None, "free": True}
    assert await queue.finish(api, _end(held)) is True
    assert await _status(api, held.run_id) == "success"


async def test_large_states_of_several_runs_go_in_several_transactions(
    commits: GroupCommit, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: a transaction and its waiting writes are bounded in bytes, too."""
    monkeypatch.setattr(group_commit, "ROW_BYTES", 1)  # so that 2,000 of them fill a transaction

    handed = [
        commits.submit(WriteSet(blobs=[(str(ids.uuid7()), "", "items", "1", "msgpack", b"x" * 1000)])) for _ in range(5)
    ]
    for one in handed:
        await one.result()

    assert batches == [2, 2, 1]


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_writes_before_their_checkpoint_are_saved_with_it(
    api: Pool, commits: GroupCommit, checkpoints: Checkpointer, durability: str
) -> None:
    """Ours: a graph goes on while a large checkpoint is serialised, and its process may be killed then."""
    claimed = await _running(api)
    writes, checkpoint = _writes(commits, claimed), empty_checkpoint()
    config = _config(claimed, writes, durability)
    place: Any = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    await checkpoints.aput_writes(place, [("items", 1), ("items", 2)], "task")
    await checkpoints.aput_writes(place, [("items", "the first stands")], "task")
    await checkpoints.aput_writes(place, [("__interrupt__", "replaced")], "other")
    await checkpoints.aput_writes(place, [("__interrupt__", 3)], "other")
    await commits.drain()
    assert await _saved_writes(api) == 0
    await checkpoints.aput(config, checkpoint, {}, {})

    saved = await checkpoints.aget_tuple(place)
    assert saved is not None
    assert sorted(saved.pending_writes or []) == [
        ("other", "__interrupt__", 3),
        ("task", "items", 1),
        ("task", "items", 2),
    ]
    await checkpoints.aput_writes(place, [("items", 4)], "third")
    await writes.flush()
    assert await _saved_writes(api) == 4


async def test_writes_whose_checkpoint_never_comes_are_not_saved(
    api: Pool, commits: GroupCommit, checkpoints: Checkpointer
) -> None:
    """Ours: no reader would find them, and no sweep would delete them."""
    claimed = await _running(api)
    writes = _writes(commits, claimed)
    config = _config(claimed, writes, "async")
    config["configurable"]["checkpoint_id"] = empty_checkpoint()["id"]

    await checkpoints.aput_writes(config, [("items", 1)], "task")
    await writes.close_and_settle()
    await commits.drain()

    assert await _saved_writes(api) == 0
    with pytest.raises(RuntimeError):
        await checkpoints.aput_writes(config, [("items", 2)], "task")


async def test_checkpoint_is_saved_though_its_graph_was_cancelled(
    api: Pool, commits: GroupCommit, checkpoints: Checkpointer
) -> None:
    """Ours: its writes may be handed in already, and a cancel reaches the task that saves the checkpoint alone."""
    claimed = await _running(api)
    writes, checkpoint = _writes(commits, claimed), empty_checkpoint()
    config = _config(claimed, writes, "sync")

    async with api.connection() as conn, conn.transaction():
        await conn.execute("SELECT FROM workers FOR UPDATE")  # a transaction of the group commit waits for it
        await writes.submit(_blob(claimed.thread_id, 0))
        await _until_blocked(api)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await checkpoints.aput(config, checkpoint, {}, {})
    await writes.close_and_settle()

    assert scope.cancelled_caught
    assert await checkpoints.aget_tuple(_config(claimed, writes, "sync")) is not None


async def _running(api: Pool) -> ClaimedRun:
    """A run that has begun."""
    run = new_run(ids.uuid7(), WORKER)
    async with open_run_creator(api) as openings:
        await openings.create_run(UNRESTRICTED, run)
    return ClaimedRun(
        run_id=run.run_id,
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        graph_id=run.graph_id,
        metadata=RawJson(b"{}"),
        kwargs=RawJson(b"{}"),
        principal=None,
        attempt=1,
        worker_id=WORKER,
        ephemeral=False,
        record_events=False,
    )


def _writes(commits: GroupCommit, claimed: ClaimedRun) -> WriteBehind:
    return WriteBehind(commits, Fence(claimed.run_id, claimed.worker_id))


def _config(claimed: ClaimedRun, writes: WriteBehind, durability: str) -> Any:
    """The config that a graph's first checkpoint is saved with."""
    named = {"thread_id": str(claimed.thread_id), "checkpoint_ns": ""}
    return {"configurable": {**named, WRITE_BEHIND_KEY: writes, DURABILITY_KEY: durability}}


def _end(claimed: ClaimedRun) -> Any:
    ending = RunFinalState(status="success", thread_status="idle", values=b'{"items": []}', interrupts={}, error=None)
    return queue.finish_request(claimed, ending, followed=False)


def _blob(thread_id: UUID | str, number: int) -> WriteSet:
    return WriteSet(blobs=[(str(thread_id), "", "items", str(number), "msgpack", b"1")], synchronous_commit=False)


async def _blobs(api: Pool) -> int:
    async with api.connection() as conn:
        row = await (await conn.execute("SELECT count(*) FROM checkpoint_blobs")).fetchone()
    return int(row[0]) if row else 0


async def _until_blocked(api: Pool) -> None:
    """Wait until a statement waits for a lock."""
    blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with anyio.fail_after(WAIT_S):
        async with api.connection() as conn:
            while not await (await conn.execute(blocked)).fetchone():
                await anyio.sleep(0.01)


async def _saved_writes(api: Pool) -> int:
    async with api.connection() as conn:
        row = await (await conn.execute("SELECT count(*) FROM checkpoint_writes")).fetchone()
    return int(row[0]) if row else 0


async def _status(api: Pool, run_id: UUID) -> str:
    async with api.connection() as conn:
        row = await (await conn.execute("SELECT status FROM runs WHERE run_id = %s", [run_id])).fetchone()
    return str(row[0]) if row else ""
