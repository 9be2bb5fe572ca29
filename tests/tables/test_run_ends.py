"""Runs that end at once: one statement for each table writes what a call for each run would write."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from new_runs import new_run
from threadkeep.base import ids
from threadkeep.persistence.group_commit import WriteSet, write_all
from threadkeep.postgres import pool
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import cancels, queue, workers
from threadkeep.tables.cancels import RunSelection
from threadkeep.tables.queue import ClaimedRun, FinishRequest, RunFinalState
from threadkeep.tables.run_creation import open_run_creator

WORKER, OTHER_WORKER, ASSISTANT = ids.uuid7(), ids.uuid7(), ids.uuid7()
ENDINGS = {
    "success": RunFinalState(
        status="success",
        thread_status="idle",
        values=b'{"messages": [{"type": "human", "content": "a title"}], "n": 1.0}',
        interrupts={},
        error=None,
        output_keys=["n"],
    ),
    "interrupt": RunFinalState(
        status="success",
        thread_status="interrupted",
        values=b'{"n": null}',
        interrupts={"task": [{"value": "?", "id": "1"}]},
        error=None,
    ),
    "error": RunFinalState(
        status="error",
        thread_status="error",
        values=None,
        interrupts={},
        error={"error": "ValueError", "message": "no"},
    ),
}


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        async with api.connection() as conn:
            await workers.create(conn, WORKER, ["chain"])
            await workers.create(conn, OTHER_WORKER, ["chain"])
        yield api


@pytest.fixture
async def runs(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_runs_pool(settings, str(settings.database_uri)) as runs:
        yield runs


async def _claimed(api: Pool, **changed: Any) -> ClaimedRun:
    """A run on a thread of its own that `WORKER` executes."""
    new = replace(new_run(ids.uuid7(), None), assistant_id=ASSISTANT, **changed)
    async with open_run_creator(api) as openings:
        await openings.create_run(UNRESTRICTED, new)
    async with api.connection() as conn:
        claimed = await queue.claim(conn, WORKER, ["chain"])
    assert claimed is not None
    assert claimed.run_id == new.run_id
    return claimed


async def _finished_together(runs: Pool, ends: Sequence[FinishRequest]) -> list[bool | None]:
    async with runs.connection() as conn:
        results = await write_all(conn, [WriteSet(run_result=end) for end in ends])
    return [results[str(end.finished_run)] for end in ends]


async def _rows(api: Pool, run: ClaimedRun) -> dict[str, Any]:
    """The columns of the run and of its thread, without ids and with times only as whether they are set."""
    async with api.connection() as conn:
        cursor = await conn.execute(
            """
            SELECT to_jsonb(runs), to_jsonb(threads), threads.ephemeral_until - runs.finished_at
              FROM runs JOIN threads USING (thread_id)
             WHERE run_id = %(run_id)s
            """,
            {"run_id": run.run_id},
        )
        row = await cursor.fetchone()
    assert row is not None
    columns = {f"run {name}": value for name, value in row[0].load().items()}
    columns |= {f"thread {name}": value for name, value in row[1].load().items()}
    for name in columns:
        if name.endswith(("_at", "_until", "_after")):
            columns[name] = columns[name] is not None
    for name in ("run run_id", "run thread_id", "run queue_position", "thread thread_id"):
        del columns[name]
    return columns | {"ephemeral": row[2] is not None}


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_runs_that_end_together_leave_the_rows_of_runs_that_end_alone(
    api: Pool, runs: Pool, *, ephemeral: bool
) -> None:
    """Ours: three runs or more end by one statement for each table."""
    together = [await _claimed(api, ephemeral=ephemeral) for _ in ENDINGS]
    alone = [await _claimed(api, ephemeral=ephemeral) for _ in ENDINGS]
    waiting = replace(new_run(together[0].thread_id, None), assistant_id=ASSISTANT, create_thread=False)
    async with open_run_creator(api) as openings:
        await openings.create_run(UNRESTRICTED, waiting)
        await openings.create_run(UNRESTRICTED, replace(waiting, run_id=ids.uuid7(), thread_id=alone[0].thread_id))

    ends = [_end(run, name) for run, name in zip(together, ENDINGS, strict=True)]
    assert await _finished_together(runs, ends) == [True] * 3
    for run, name in zip(alone, ENDINGS, strict=True):
        assert await queue.finish(api, _end(run, name)) is True

    rows = [await _rows(api, run) for run in together]
    assert rows == [await _rows(api, run) for run in alone]
    assert [row["thread status"] for row in rows] == ["busy", "interrupted", "error"]
    assert [row["thread title"] for row in rows] == [None if ephemeral else "a title", None, None]
    assert {name: rows[2][name] for name in ("run error", "thread values")} == {
        "run error": ENDINGS["error"].error,
        "thread values": None,
    }


async def test_each_run_that_ends_with_others_has_its_own_result(api: Pool, runs: Pool) -> None:
    """Ours: those that another process owns, whose thread is locked or that are to be rolled back hinder no other."""
    good, locked, stolen, rolled_back, other = [await _claimed(api) for _ in range(5)]
    await cancels.cancel(api, UNRESTRICTED, RunSelection(run_ids=[rolled_back.run_id]), "rollback", "asked")
    async with api.connection() as conn:
        await conn.execute("UPDATE runs SET worker_id = %s WHERE run_id = %s", [OTHER_WORKER, stolen.run_id])
        before = [await _rows(api, run) for run in (locked, stolen, rolled_back)]
        async with conn.transaction():
            await queue.lock_thread(conn, locked.thread_id)
            ends = [_end(run, "success") for run in (good, locked, stolen, rolled_back, other)]
            assert await _finished_together(runs, ends) == [True, None, False, None, True]

    assert [await _rows(api, run) for run in (locked, stolen, rolled_back)] == before
    assert await _status(api, good.run_id) == await _status(api, other.run_id) == "success"


def _end(run: ClaimedRun, name: str) -> FinishRequest:
    return queue.finish_request(run, ENDINGS[name], followed=True)


async def _status(api: Pool, run_id: UUID) -> str | None:
    async with api.connection() as conn:
        cursor = await conn.execute("SELECT status FROM runs WHERE run_id = %s", [run_id])
        row = await cursor.fetchone()
    return row and row[0]
