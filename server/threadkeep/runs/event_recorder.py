"""Event recorder: writes the events of runs to `run_events`, so that they can be read later and in other processes.

Only some runs are recorded: background runs, resumable ones, and those that somebody follows in another process. The
recorder reads the ring as any reader does, and never lets the run outrun it by more than the ring holds. What all runs
have to write in one beat goes into one statement: a transaction for each stream would cost more than its tokens.
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
"""All recorded runs write their events in this beat."""
BATCH_EVENTS = 500
"""Events of one run that are written at once."""
BATCH_CHARACTERS: Final = 4 * 1024 * 1024
"""Of one statement, so that many large events are not put together in memory."""


class EventRecorder:
    """Records the runs of one process."""

    def __init__(self, writer: "BatchWriter[RunEventBatch, None]", executions: Executions, lease: Lease) -> None:
        self._writer = writer
        self._executions = executions
        self._lease = lease

    def record(self, execution: Execution) -> None:
        """From here on write the run's events, beginning with what the ring holds."""
        execution.log.is_wanted = True
        recording = execution.log.recording = Recording()
        self._executions.start_task(self._record(execution, recording), name=f"record {execution.run_id}")

    async def write(self, batch: RunEventBatch) -> None:
        """Write some events of a run, together with those of the other runs. Waits while Postgres is away."""
        await retry(lambda: self._writer.write(batch))

    async def _record(self, execution: Execution, recording: Recording) -> None:
        try:
            await self._write_all(execution)
        except Exception:
            log.exception("events of a run not recorded", extra={"run_id": str(execution.run_id)})
        finally:
            recording.done.set()

    async def _write_all(self, execution: Execution) -> None:
        events, worker_id = execution.log, self._lease.worker_id
        position = events.starts_after
        while not execution.is_lost:
            items = events.events_after(position)
            for start in range(0, len(items), BATCH_EVENTS):
                await self.write(_batch(execution.run_id, worker_id, items[start : start + BATCH_EVENTS]))
            if items:
                position = items[-1].position
            elif events.state != "open":
                return
            else:
                await events.wait_change()
            await _wait_for_beat(events)


@asynccontextmanager
async def recording(pool: Pool, executions: Executions, lease: Lease) -> AsyncGenerator[EventRecorder]:
    """A recorder that works until the block ends."""
    writer = BatchWriter(partial(_append, pool), size=_characters, most=BATCH_CHARACTERS)
    async with writer.run():
        yield EventRecorder(writer, executions, lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedRuns:
    """Duty: begin to record the runs of this process that somebody follows in another one."""

    pool: Pool
    executions: Executions
    recorder: EventRecorder
    topic: ClassVar[str | None] = RECORD
    interval_s: float = 5.0

    async def run_once(self) -> None:
        """Look which runs are followed, and record those."""
        unrecorded = [each.run_id for each in self.executions if each.is_durable and each.log.recording is None]
        if not unrecorded:
            return
        async with self.pool.connection() as conn:
            followed = await runs.runs_to_record(conn, unrecorded)
        for run_id in followed:
            execution = self.executions.get(run_id)
            if execution is not None and execution.log.recording is None and execution.log.state == "open":
                self.recorder.record(execution)


async def _wait_for_beat(events: EventLog) -> None:
    """Let events gather. None may fall out of the ring."""
    if events.recording is None or events.state != "open" or events.is_crowded:
        return
    hurry = events.recording.hurry = anyio.Event()
    with anyio.move_on_after(BEAT_S - anyio.current_time() % BEAT_S):
        await hurry.wait()


def _batch(run_id: UUID, worker_id: UUID, items: list[LogItem]) -> RunEventBatch:
    events = [
        RunEvent(position=item.position, event=item.name, data=item.data.decode())
        for item in items
        if isinstance(item, LogEvent)
    ]
    return RunEventBatch(run_id, worker_id, events)


def _characters(batch: RunEventBatch) -> int:
    return sum(len(event.data) for event in batch.events)


async def _append(pool: Pool, batches: list[RunEventBatch]) -> Sequence[None]:
    async with pool.connection() as conn:
        await run_events.append(conn, batches)
    return [None] * len(batches)
