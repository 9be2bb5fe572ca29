"""Event recorder: writes the events of runs to `run_events`, for resumable streams and readers in other processes.

Only some runs are recorded: background runs, resumable runs, and runs that have a reader in another process. The
recorder reads the ring as any reader does. It writes early if the ring is nearly full. One statement writes the events
of all runs in one interval, because a transaction for each stream would cost more than its tokens.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final
from uuid import UUID

import anyio

from threadkeep.postgres.batch_writer import BatchWriter
from threadkeep.postgres.listen import RECORD
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry
from threadkeep.runs.event_log import EventLog, LogEvent, LogItem, Recording
from threadkeep.runs.execution import Execution, Executions
from threadkeep.runs.lease import Lease
from threadkeep.tables import run_events, runs
from threadkeep.tables.run_events import RunEvent, RunEventBatch

log = logging.getLogger(__name__)

BEAT_S = 0.2
"""Seconds between two writes. All recorded runs write their events at the same time."""
BATCH_EVENTS = 500
"""The most events of one run in one write."""
BATCH_CHARACTERS: Final = 4 * 1024 * 1024
"""The most characters in one statement. It bounds the memory for many large events."""


class EventRecorder:
    """Records the events of the runs of one process."""

    def __init__(self, writer: "BatchWriter[RunEventBatch, None]", executions: Executions, lease: Lease) -> None:
        self._writer = writer
        self._executions = executions
        self._lease = lease

    def record(self, execution: Execution) -> None:
        """Write the run's events from now on, beginning with those in the ring."""
        execution.log.is_wanted = True
        recording = execution.log.recording = Recording()
        self._executions.start_task(self._record(execution, recording), name=f"record {execution.run_id}")

    async def write(self, batch: RunEventBatch) -> None:
        """Write events of a run, in one batch with those of other runs. Waits while Postgres is unavailable."""
        await retry(lambda: self._writer.write(batch))

    async def _record(self, execution: Execution, recording: Recording) -> None:
        try:
            await self._write_all(execution)
        except Exception:
            log.exception("events of a run not recorded", extra={"run_id": str(execution.run_id)})
        finally:
            recording.done.set()

    async def _write_all(self, execution: Execution) -> None:
        # The lease of now: under a later one this process must not write for the run.
        events, worker_id = execution.log, self._lease.worker_id
        position = events.starts_after
        while not execution.is_lost:
            items = events.events_after(position)
            for start in range(0, len(items), BATCH_EVENTS):
                await self.write(_batch(execution.run_id, worker_id, items[start : start + BATCH_EVENTS]))
            if items:
                position = items[-1].position
            # The log is sealed, so no event will follow.
            elif events.state != "open":
                return
            else:
                await events.wait_change()
            await _wait_for_beat(events)


@asynccontextmanager
async def recording(pool: Pool, executions: Executions, lease: Lease) -> AsyncGenerator[EventRecorder]:
    """Yield a recorder that works until the block ends."""
    writer = BatchWriter(partial(_append, pool), size=_characters, most=BATCH_CHARACTERS)
    async with writer.run():
        yield EventRecorder(writer, executions, lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedRuns:
    """Duty: begin to record the runs of this process that have a reader in another process."""

    pool: Pool
    executions: Executions
    recorder: EventRecorder
    topic: ClassVar[str | None] = RECORD
    interval_s: float = 5.0

    async def run_once(self) -> None:
        """Find the followed runs, and record them."""
        unrecorded = [
            execution.run_id
            for execution in self.executions
            if execution.is_durable and execution.log.recording is None
        ]
        if not unrecorded:
            return
        async with self.pool.connection() as conn:
            followed = await runs.runs_to_record(conn, unrecorded)
        for run_id in followed:
            execution = self.executions.get(run_id)
            # The run may have ended, or another caller may have begun to record it, during the query.
            if execution is not None and execution.log.recording is None and execution.log.state == "open":
                self.recorder.record(execution)


async def _wait_for_beat(events: EventLog) -> None:
    """Wait for the next write, so that events gather. Returns early if the ring fills up."""
    if events.recording is None or events.state != "open" or events.is_crowded:
        return
    hurry = events.recording.hurry = anyio.Event()
    # The remainder lets all runs of this process write at the same moment, and so in one transaction.
    with anyio.move_on_after(BEAT_S - anyio.current_time() % BEAT_S):
        await hurry.wait()


def _batch(run_id: UUID, worker_id: UUID, items: list[LogItem]) -> RunEventBatch:
    events = [
        RunEvent(position=item.position, event=item.name, data=item.data.decode())
        for item in items
        # A gap stands for events that left the ring before they were written, so there is nothing to store.
        if isinstance(item, LogEvent)
    ]
    return RunEventBatch(run_id, worker_id, events)


def _characters(batch: RunEventBatch) -> int:
    return sum(len(event.data) for event in batch.events)


async def _append(pool: Pool, batches: list[RunEventBatch]) -> Sequence[None]:
    async with pool.connection() as conn:
        await run_events.append(conn, batches)
    return [None] * len(batches)
