"""Follow a thread in the protocol v2: read its runs in order from a position, whichever process executes them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, TypeAlias
from uuid import UUID

import anyio

from threadkeep.api.protocol_v2 import events
from threadkeep.api.protocol_v2.events import ProtocolEvent
from threadkeep.api.protocol_v2.subscription import CHANNELS
from threadkeep.api.protocol_v2.translation import RunTranslator
from threadkeep.base.problems import NotFound
from threadkeep.postgres.listen import WakeEvent, thread_topic
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.event_log import Gap
from threadkeep.runs.follow import Follower
from threadkeep.tables import run_events as stored_events
from threadkeep.tables import runs, thread_runs
from threadkeep.tables.runs import FINAL
from threadkeep.tables.thread_runs import RunEnd, ThreadRun

RECENT_RUNS_S: Final = 120.0
"""A client without a position also gets the runs of the last seconds, because it opens its stream after `run.start`."""
RECORDING_S: Final = 3600.0
"""Seconds after its end for which the events of a run on a watched thread are stored."""
POLL_S: Final = 5.0

ProtocolItem: TypeAlias = ProtocolEvent | Gap


async def record_thread_events(follower: Follower, filters: Filters, thread_id: UUID) -> int:
    """Store the events of the thread's runs from now on. Return the queue position after which runs are recent.

    Await it before the client is told that it is subscribed, so that the events of a run it then starts are stored.
    Raise NotFound if the caller has no such thread.
    """

    async def record() -> int | None:
        async with follower.pool.shielded(filters) as conn:
            return await thread_runs.record_thread_events(conn, filters, thread_id, RECORDING_S, RECENT_RUNS_S)

    recent = await retry_conflicts(record)
    if recent is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return recent


async def follow_protocol(
    follower: Follower,
    filters: Filters,
    thread_id: UUID,
    *,
    recent: int,
    since: int | None,
    channels: frozenset[str] = CHANNELS,
) -> AsyncGenerator[ProtocolItem]:
    """Yield the events of a watched thread after `since`.

    Without `since`, or if the thread has not reached it, yield the events of the runs after `recent`, the result of
    `record_thread_events`. Events outside `channels` may be among them. It ends when the process stops. Raise NotFound
    if the thread is deleted.
    """
    # Before the first read, so that no run starts unnoticed in between.
    with follower.wakeups.subscribe(thread_topic(thread_id)) as signal:
        floor, since = (
            (recent, None) if since is None else await _floor(follower, filters, thread_id, recent=recent, since=since)
        )
        thread_runs_ahead = await _runs(follower, filters, thread_id, floor)
        finished_ids: set[UUID] = set()
        while not follower.signals.leaving.is_set():
            run = next((row for row in thread_runs_ahead if row.run_id not in finished_ids and row.due), None)
            if run is None:
                if not await _woken(follower, signal):
                    # Prolongs the recording, and raises NotFound if the thread was deleted.
                    await record_thread_events(follower, filters, thread_id)
                thread_runs_ahead = await _runs(follower, filters, thread_id, floor)
                continue
            async with aclosing(_run(follower, filters, thread_id, RunTranslator(run, channels))) as run_items:
                async for item in run_items:
                    if isinstance(item, Gap) or since is None or events.is_new(item.seq, since):
                        yield item
            finished_ids.add(run.run_id)
            # Only the first run moves the floor. An earlier one may be delayed, and come later.
            if thread_runs_ahead[0].run_id == run.run_id:
                floor = run.queue_position


async def _runs(follower: Follower, filters: Filters, thread_id: UUID, floor: int) -> list[ThreadRun]:
    # Clients disconnect at any time, and a statement that is cancelled would cost its connection.
    async with follower.pool.shielded(filters) as conn:
        return await thread_runs.list_thread_runs(conn, filters, thread_id, position=floor)


async def _woken(follower: Follower, signal: WakeEvent) -> bool:
    """Wait for a notification or the end of the process. Return False after POLL_S seconds without a notification."""
    woken = False
    async with anyio.create_task_group() as tasks:

        async def stop() -> None:
            await follower.signals.leaving.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(stop)
        woken = await signal.wait(POLL_S)
        tasks.cancel_scope.cancel()
    return woken


async def _floor(
    follower: Follower, filters: Filters, thread_id: UUID, *, recent: int, since: int
) -> tuple[int, int | None]:
    """Return the queue position after which runs are read, and `since` if the thread has reached it."""
    async with follower.pool.shielded(filters) as conn:
        last = await runs.last_position(conn, thread_id)
    is_reached = since <= events.end_seq(last, events.LAST_INDEX)
    return (events.queue_position(since, last) - 1, since) if is_reached else (recent, None)


async def _run(
    follower: Follower, filters: Filters, thread_id: UUID, translation: RunTranslator
) -> AsyncGenerator[ProtocolItem]:
    """Yield one run's events and its end. If the process stops first, no event of the end is sent."""
    run_id, position = translation.run.run_id, 0
    replayed = await _replayed(follower, filters, run_id)
    while True:
        async with aclosing(follower.events(filters, run_id, position)) as items:
            async for item in items:
                position = item.position
                if isinstance(item, Gap):
                    yield item
                    continue
                for event in translation.translate(item, live=position > replayed):
                    yield event
        # The log also ends if the process of the run has died. Another process then continues the run.
        ending = await _ending(follower, filters, thread_id, run_id)
        if ending is None or ending.status in FINAL:
            for event in translation.translate_end(ending):
                yield event
            return
        if follower.signals.leaving.is_set():
            return


async def _ending(follower: Follower, filters: Filters, thread_id: UUID, run_id: UUID) -> RunEnd | None:
    async with follower.pool.shielded(filters) as conn:
        return await thread_runs.run_end(conn, filters, thread_id, run_id)


async def _replayed(follower: Follower, filters: Filters, run_id: UUID) -> int:
    """Return the position of the last event that existed before the reader."""
    if (execution := follower.executions.get(run_id)) is not None:
        # Without a reader, the executor encodes no events.
        execution.log.is_wanted = True
        return execution.log.last_position
    async with follower.pool.shielded(filters) as conn:
        return await stored_events.last_position(conn, run_id)
