"""Events of several runs that are written together."""

from contextlib import aclosing
from uuid import UUID

import anyio
import psycopg

from new_runs import new_run
from threadkeep.base import ids
from threadkeep.base.signals import ProcessSignals
from threadkeep.postgres import pool
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.runs.event_log import RING_EVENTS, EventLog, Gap
from threadkeep.runs.event_recorder import recording
from threadkeep.runs.execution import Execution, Executions, Outcome
from threadkeep.runs.follow import Follower
from threadkeep.runs.lease import Lease
from threadkeep.runs.request import GraphRunOptions
from threadkeep.settings import Settings
from threadkeep.tables import run_events
from threadkeep.tables.run_creation import create_run_in_transaction
from threadkeep.tables.run_events import PAGE_SIZE, RunEvent, RunEventBatch

WORKER = ids.uuid7()


async def test_concurrent_runs_share_a_statement_and_each_gets_its_own_result(settings: Settings) -> None:
    """Ours: a run that is another worker's gets none, and takes nothing from the others."""
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        runs = [await _run(api) for _ in range(3)]
        async with recording(api, Executions(), Lease()) as recorder, anyio.create_task_group() as tasks:
            for number, run_id in enumerate(runs):
                worker = ids.uuid7() if number == 1 else WORKER
                tasks.start_soon(recorder.write, RunEventBatch(run_id, worker, _said(f'"{number}"', '"more"')))
        results = [await _read(api, run_id) for run_id in runs]

    assert results == [['"0"', '"more"'], [], ['"2"', '"more"']]


async def test_a_failed_batch_does_not_fail_others(settings: Settings) -> None:
    """Ours: the others of the same statement are written all the same."""
    failed: list[UUID] = []

    async def write(run_id: UUID, said: str) -> None:
        try:
            await recorder.write(RunEventBatch(run_id, WORKER, _said(said)))
        except psycopg.DataError:
            failed.append(run_id)

    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        runs = [await _run(api) for _ in range(3)]
        async with recording(api, Executions(), Lease()) as recorder, anyio.create_task_group() as tasks:
            for run_id, said in zip(runs, ['"good"', '"\x00"', '"good too"'], strict=True):
                tasks.start_soon(write, run_id, said)
        results = [await _read(api, run_id) for run_id in runs]

    assert failed == [runs[1]]
    assert results == [['"good"'], [], ['"good too"']]


async def test_events_that_have_left_the_ring_are_read_in_pages(settings: Settings) -> None:
    """Ours: a slow reader of a long run holds one page in memory, and not all that it has missed."""
    missed = 2 * PAGE_SIZE
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        run_id = await _run(api)
        execution = _ended(run_id, missed + RING_EVENTS)
        async with api.connection() as conn:
            await run_events.append(conn, [RunEventBatch(run_id, WORKER, _said(*["1"] * missed))])
        follower = Follower(pool=api, wakeups=NotificationHub(), executions=Executions(), signals=ProcessSignals())
        async with aclosing(follower.events(UNRESTRICTED, run_id, 0, execution)) as events:
            first = await anext(events)
            async with api.connection() as conn:
                await conn.execute("DELETE FROM run_events WHERE position > %s", [PAGE_SIZE])
            items = [first, *[item async for item in events]]

    positions = [item.position for item in items]
    assert positions == [*range(1, PAGE_SIZE + 1), *range(missed, missed + RING_EVENTS + 1)]
    assert [item for item in items if isinstance(item, Gap)] == [Gap(missed)]


def _ended(run_id: UUID, events: int) -> Execution:
    """An execution in this process that has ended after so many events."""
    execution = Execution(
        run_id=run_id,
        thread_id=ids.uuid7(),
        assistant_id=ids.uuid7(),
        graph_id="chain",
        spec=GraphRunOptions(),
        log=EventLog(is_wanted=True),
    )
    for _ in range(events):
        execution.log.append("custom", b"1")
    execution.begin_finish()
    execution.finish(Outcome("success", b"{}"))
    return execution


def _said(*data: str) -> list[RunEvent]:
    return [RunEvent(position=position, event="custom", data=one) for position, one in enumerate(data, 1)]


async def _read(api: pool.Pool, run_id: UUID) -> list[str]:
    async with api.connection() as conn:
        return [event.data for event in await run_events.read(conn, run_id, 0)]


async def _run(api: pool.Pool) -> UUID:
    run = new_run(ids.uuid7(), WORKER)
    async with api.connection() as conn, conn.transaction():
        await create_run_in_transaction(conn, UNRESTRICTED, run)
    return run.run_id
