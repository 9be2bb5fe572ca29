"""Two transactions on one thread: the later one waits, and sees the changes of the first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest

from conftest import WAIT_S
from new_runs import new_run
from threadkeep.base import ids
from threadkeep.persistence import group_commit
from threadkeep.persistence.group_commit import Fence, GroupCommit, WriteSet
from threadkeep.persistence.write_behind import WriteBehind
from threadkeep.postgres import pool
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import cancels, queue, threads, workers
from threadkeep.tables.cancels import RunSelection
from threadkeep.tables.queue import ClaimedRun, RunFinalState
from threadkeep.tables.run_creation import open_run_creator

WORKER, OTHER_WORKER = ids.uuid7(), ids.uuid7()
CHECKPOINTS = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        async with api.connection() as conn:
            await workers.create(conn, WORKER, ["chain"])
            await workers.create(conn, OTHER_WORKER, ["chain"])
        yield api


@pytest.fixture
async def commits(settings: Settings) -> AsyncIterator[GroupCommit]:
    async with (
        pool.open_runs_pool(settings, str(settings.database_uri)) as runs,
        group_commit.open_group_commit(runs) as commits,
    ):
        yield commits


async def _create(api: Pool, thread_id: UUID, worker_id: UUID | None = None, **changed: Any) -> UUID:
    """A run, which a process begins at once, or which waits."""
    new = replace(new_run(thread_id, WORKER), worker_id=worker_id, **changed)
    async with open_run_creator(api) as openings:
        await openings.create_run(UNRESTRICTED, new)
    return new.run_id


async def _claim(api: Pool) -> ClaimedRun | None:
    async with api.connection() as conn:
        return await queue.claim(conn, WORKER, ["chain"])


async def _claimed(api: Pool, thread_id: UUID) -> ClaimedRun:
    """A run that a process executes."""
    await _create(api, thread_id)
    claimed = await _claim(api)
    assert claimed is not None
    assert claimed.thread_id == thread_id
    return claimed


def _writes(commits: GroupCommit, run: ClaimedRun) -> WriteBehind:
    return WriteBehind(commits, Fence(run.run_id, run.worker_id))


def _checkpoint(run: ClaimedRun, name: str = "1") -> WriteSet:
    """A checkpoint with a blob, and a write of the step that it begins."""
    thread_id, metadata = str(run.thread_id), f'{{"run_id": "{run.run_id}"}}'
    return WriteSet(
        blobs=[(thread_id, "", "items", name, "msgpack", b"1")],
        checkpoints=[(thread_id, "", name, None, f'{{"channel_versions": {{"items": "{name}"}}}}', metadata)],
        inserts=[(thread_id, "", name, "task", "", 0, "items", "msgpack", b"1")],
    )


def _end(run: ClaimedRun) -> Any:
    ending = RunFinalState(status="success", thread_status="idle", values=b'{"items": []}', interrupts={}, error=None)
    return queue.finish_request(run, ending, followed=False)


async def _rows(api: Pool, thread_id: UUID) -> dict[str, int]:
    """How many rows of the thread each table of the checkpointer holds."""
    held: dict[str, int] = {}
    async with api.connection() as conn:
        for table in CHECKPOINTS:
            query: Any = f"SELECT count(*) FROM {table} WHERE thread_id = %s"
            [held[table]] = await (await conn.execute(query, [str(thread_id)])).fetchone() or [0]
    return held


async def _run(api: Pool, run_id: UUID) -> tuple[str, UUID | None] | None:
    """Its status and the process that executes it."""
    async with api.connection() as conn:
        cursor = await conn.execute("SELECT status, worker_id FROM runs WHERE run_id = %s", [run_id])
        return await cursor.fetchone()


@asynccontextmanager
async def _held(api: Pool, thread_id: UUID) -> AsyncIterator[Conn]:
    """A transaction that holds the thread."""
    async with api.connection() as conn, conn.transaction():
        assert await threads.lock(conn, UNRESTRICTED, thread_id, within_s=WAIT_S)
        yield conn


async def _until_blocked(api: Pool) -> None:
    """Wait until a statement waits for a lock."""
    with anyio.fail_after(WAIT_S):
        async with api.connection() as conn:
            while not await (
                await conn.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
            ).fetchone():
                await anyio.sleep(0.01)


async def test_a_change_sees_the_run_that_was_created_while_it_began(api: Pool) -> None:
    """Ours: `now()` is the time before the lock, and a run that is due since then would not be seen."""
    thread_id = ids.uuid7()
    await _create(api, thread_id)
    assert await _claim(api) is not None
    async with api.connection() as conn, conn.transaction():
        await conn.execute("SELECT now()")
        run_id = await _create(api, other := ids.uuid7())
        assert await threads.lock(conn, UNRESTRICTED, other, within_s=WAIT_S)
        assert await threads.active_run_id(conn, other) == run_id


async def test_run_on_a_held_thread_is_not_claimed(api: Pool) -> None:
    """Ours: a delayed or queued run does not begin beside a change of the state. The next thread's run does."""
    thread_id, free = ids.uuid7(), ids.uuid7()
    first, second = await _create(api, thread_id), await _create(api, free)

    async with _held(api, thread_id):
        claimed = await _claim(api)
        assert claimed is not None
        assert claimed.run_id == second
        assert await _claim(api) is None
        async with api.connection() as conn:
            assert await queue.seconds_to_next(conn, ["chain"]) == queue.HELD_S

    claimed = await _claim(api)
    assert claimed is not None
    assert claimed.run_id == first


async def test_a_thread_is_claimed_once_by_many_at_once(api: Pool) -> None:
    """Ours: each run by one, and one run of a thread at a time."""
    several = [ids.uuid7() for _ in range(4)]
    for thread_id in several * 2:
        await _create(api, thread_id)
    claimed: list[ClaimedRun | None] = []

    async def claim() -> None:
        claimed.append(await _claim(api))

    async with anyio.create_task_group() as tasks:
        for _ in range(12):
            tasks.start_soon(claim)
    while run := await _claim(api):
        claimed.append(run)

    assert sorted(run.thread_id for run in claimed if run) == sorted(several)


async def test_a_write_of_a_deleted_run_is_refused(api: Pool, commits: GroupCommit) -> None:
    """Ours: nothing appears of a thread that is gone. Other runs of the same transaction are written."""
    run, other = await _claimed(api, ids.uuid7()), await _claimed(api, ids.uuid7())
    async with api.connection() as conn:
        assert await threads.delete(conn, UNRESTRICTED, [run.thread_id]) == [run.thread_id]

    handed = [commits.submit(rows) for rows in (_checkpoint(run), _checkpoint(other))]
    for one, each in zip(handed, (run, other), strict=True):
        one.item.fence = Fence(each.run_id, each.worker_id)
    with pytest.raises(psycopg.Error) as refused:
        await handed[0].result()
    await handed[1].result()

    assert workers.is_fenced(refused.value)
    assert not workers.is_lease_lost(refused.value)
    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 0)
    assert await _rows(api, other.thread_id) == dict.fromkeys(CHECKPOINTS, 1)


@pytest.mark.parametrize("action", ["delete", "requeue", "roll back"])
async def test_a_transaction_that_takes_a_run_away_waits_for_its_write(
    api: Pool, commits: GroupCommit, action: str
) -> None:
    """Ours: a write that is being committed comes before, and the next one is refused."""
    run = await _claimed(api, ids.uuid7())
    writes = _writes(commits, run)

    async def take() -> None:
        async with api.connection() as conn:
            if action == "delete":
                await threads.delete(conn, UNRESTRICTED, [run.thread_id])
            elif action == "requeue":
                await workers.requeue_orphaned_runs(conn, WORKER, [], 0)
            else:
                assert await queue.rollback(conn, run)

    async with api.connection() as writing, writing.transaction():
        await group_commit.write_all(writing, [rows := _checkpoint(run)])
        rows.fence = writes.fence
        await writing.execute("SELECT check_leases(%s, %s)", [[run.run_id], [run.worker_id]])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await _until_blocked(api)
            await writing.execute("COMMIT")
            await writing.execute("BEGIN")

    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 1 if action == "requeue" else 0)
    if action == "roll back":
        return
    with pytest.raises(psycopg.Error) as refused:
        await writes.write(_checkpoint(run, "2"))
    assert workers.is_fenced(refused.value)


async def test_the_end_of_a_run_waits_for_writes_that_its_cancelled_graph_left(api: Pool, commits: GroupCommit) -> None:
    """Ours: a rollback comes after all writes of the run, also those that its graph would have waited for."""
    run = await _claimed(api, ids.uuid7())
    writes = _writes(commits, run)
    cancelled = anyio.CancelScope()
    rows_then: list[dict[str, int]] = []

    async def write() -> None:
        with cancelled:
            await writes.write(_checkpoint(run))

    async def settle() -> None:
        await writes.close_and_settle()
        rows_then.append(await _rows(api, run.thread_id))

    async with api.connection() as conn, conn.transaction():
        await conn.execute("SELECT FROM workers FOR UPDATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await _until_blocked(api)
            cancelled.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writes.close_and_settle)
            await anyio.wait_all_tasks_blocked()
            assert len(tasks._tasks) == 1
            await conn.execute("COMMIT")
            await conn.execute("BEGIN")

    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 1)
    async with api.connection() as conn:
        assert await queue.rollback(conn, run)
    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 0)


async def test_a_rollback_that_comes_before_the_end_is_made_by_the_end(api: Pool, commits: GroupCommit) -> None:
    """Ours: it was acknowledged while the run was running, so the run leaves nothing, though its graph has ended."""
    run = await _claimed(api, ids.uuid7())
    writes = _writes(commits, run)
    await writes.write(_checkpoint(run))
    [cancelled] = await cancels.cancel(api, UNRESTRICTED, RunSelection(run_ids=[run.run_id]), "rollback", "asked")
    assert cancelled.was_running

    assert await writes.finish_run(_end(run)) is None
    assert await queue.finish(api, _end(run)) is True

    assert await _run(api, run.run_id) is None
    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 0)
    async with api.connection() as conn:
        thread = await threads.get(conn, UNRESTRICTED, run.thread_id)
    assert thread is not None
    assert (thread.status, thread.values) == ("idle", None)


async def _die(api: Pool) -> None:
    async with api.connection() as conn:
        await workers.delete(conn, WORKER)


async def _recover(api: Pool, max_attempts: int = 3) -> list[UUID]:
    async with api.connection() as conn:
        return list(await workers.recover_runs(conn, max_attempts))


async def test_runs_of_a_dead_process_are_recovered_but_not_on_a_held_thread(api: Pool) -> None:
    """Ours: the thread is locked before its run, as everywhere, and nobody waits."""
    held, free = await _claimed(api, ids.uuid7()), await _claimed(api, ids.uuid7())
    await _die(api)

    async with _held(api, held.thread_id):
        assert await _recover(api) == [free.run_id]
    assert await _recover(api) == [held.run_id]

    assert await _run(api, held.run_id) == ("pending", None)
    assert await _run(api, free.run_id) == ("pending", None)


@pytest.mark.parametrize("before", [True, False])
async def test_rolled_back_run_of_a_dead_process_leaves_nothing(api: Pool, commits: GroupCommit, before: bool) -> None:
    """Ours: no other process begins it again only to take it back, whether it died before it heard or after."""
    run = await _claimed(api, ids.uuid7())
    await _writes(commits, run).write(_checkpoint(run))
    target = RunSelection(thread_id=run.thread_id)
    if before:
        await cancels.cancel(api, UNRESTRICTED, target, "rollback", "asked")
    await _die(api)
    assert await _recover(api) == [run.run_id]
    if not before:
        assert await _run(api, run.run_id) == ("pending", None)
        await cancels.cancel(api, UNRESTRICTED, target, "rollback", "asked")

    assert await _run(api, run.run_id) is None
    assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 0)
    async with api.connection() as conn:
        thread = await threads.get(conn, UNRESTRICTED, run.thread_id)
    assert thread is not None
    assert thread.status == "idle"


async def test_deletions_of_the_same_threads_do_not_wait_for_each_other_forever(
    api: Pool, commits: GroupCommit
) -> None:
    """Ours: threads and runs are locked in one order, by a deletion, and by a group commit of many runs."""
    runs = [await _claimed(api, ids.uuid7()) for _ in range(10)]
    wanted = [run.thread_id for run in runs]

    async def delete(several: list[UUID]) -> None:
        async with api.connection() as conn:
            await threads.delete(conn, UNRESTRICTED, several)

    async def write(run: ClaimedRun) -> None:
        with pytest.raises(psycopg.Error) as refused:
            await write_on(_writes(commits, run), _checkpoint(run))
        assert workers.is_fenced(refused.value)

    async def write_on(writes: WriteBehind, rows: WriteSet) -> None:
        while True:
            await writes.write(rows)

    with anyio.fail_after(WAIT_S * 2):
        async with anyio.create_task_group() as tasks:
            for run in runs:
                tasks.start_soon(write, run)
            tasks.start_soon(delete, wanted)
            tasks.start_soon(delete, wanted[::-1])

    for run in runs:
        assert await _rows(api, run.thread_id) == dict.fromkeys(CHECKPOINTS, 0)


async def test_a_run_created_while_its_thread_is_deleted_makes_the_thread_anew(api: Pool) -> None:
    """Ours: `if_not_exists=create` on a thread that goes at this moment."""
    thread_id = ids.uuid7()
    await _create(api, thread_id)
    created: list[UUID] = []

    async def create() -> None:
        created.append(await _create(api, thread_id))

    async with api.connection() as conn, conn.transaction():
        await threads.delete(conn, UNRESTRICTED, [thread_id])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create)
            await _until_blocked(api)
            await conn.execute("COMMIT")
            await conn.execute("BEGIN")

    assert await _run(api, created[0]) == ("pending", None)
