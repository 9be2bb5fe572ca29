"""Follow: the events and the answer of a run, in this process or another, during the run or later (resumable streams).

In the executing process a reader reads the ring of the event log. In other processes, or after the run, it reads
`run_events`. LISTEN wakes it, and it also polls slowly. If the run starts in this process, the reader changes to the
ring.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.problems import NotFound
from threadkeep.base.signals import ProcessSignals
from threadkeep.postgres.listen import NotificationHub, run_topic
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.event_log import Gap, LogEvent, LogItem
from threadkeep.runs.execution import Execution, Executions
from threadkeep.runs.graph_runner import INTERRUPT, add_key
from threadkeep.tables import run_events, runs
from threadkeep.tables.run_events import PAGE_SIZE, RunEvent
from threadkeep.tables.runs import FINAL, RunStatus, StoredResult

POLL_S = 5.0
"""Seconds between two polls of a follower that gets no notification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Reads the events and answers of runs for the clients of this process."""

    pool: Pool
    wakeups: NotificationHub
    executions: Executions
    signals: ProcessSignals

    async def events(
        self,
        filters: Filters,
        run_id: UUID,
        start_position: int | None,
        execution: Execution | None = None,
        *,
        in_batches: bool = False,
    ) -> AsyncGenerator[LogItem, None]:
        """Yield the run's events after position `start_position` until it ends. None skips the events so far.

        `execution` is read even if it has already ended. `in_batches` as in `EventLog.follow`.
        """
        position = await self._newest(filters, run_id) if start_position is None else start_position
        execution = execution or self.executions.get(run_id)
        while True:
            if execution is None:
                source = self._stored(filters, run_id, position)
            else:
                # Without a reader a run adds no events to its log.
                execution.log.is_wanted = True
                source = self._ring(filters, execution, position, in_batches=in_batches)
            async with aclosing(source) as items:
                async for item in items:
                    position = item.position
                    yield item
            previous, execution = execution, self.executions.get(run_id)
            # The stored events have ended with the run, and it has not begun again in this process.
            if previous is None and execution is None:
                return
            # Without an outcome this process has lost the run, so its next events are in Postgres.
            if previous is not None and (previous.outcome is not None or self.signals.stopping.is_set()):
                return

    async def recorded_events(self, filters: Filters, run_id: UUID, after: int = 0) -> AsyncGenerator[LogItem, None]:
        """Yield the run's events after position `after` as they are recorded, until it ends.

        Each event is in Postgres before it is yielded. If the executing process dies, a reader in another process gets
        the same events.
        """
        async with aclosing(self._stored(filters, run_id, after, until_executed=False)) as items:
            async for item in items:
                yield item

    async def answer(self, filters: Filters, thread_id: UUID, run_id: UUID) -> bytes:
        """Wait for the run's answer as JSON. NotFound if there is no such run, or it was deleted."""
        with self.wakeups.subscribe(run_topic(run_id)) as signal:
            while True:
                execution = self.executions.get(run_id)
                if execution is not None and (outcome := await execution.wait_result()) is not None:
                    return outcome.answer
                stored = await retry(lambda: self._stored_answer(filters, thread_id, run_id))
                if stored is None:
                    raise NotFound("Run not found")
                if stored.status in FINAL:
                    return _answer_of(stored)
                # If the run has begun in this process meanwhile, the next round waits for its execution.
                if self.executions.get(run_id) is None:
                    await signal.wait(POLL_S)

    async def ended(self, filters: Filters, run_id: UUID) -> None:
        """Wait until the run has ended or was deleted."""
        with self.wakeups.subscribe(run_topic(run_id)) as signal:
            while True:
                if execution := self.executions.get(run_id):
                    await execution.wait_result()
                status = await self.status(filters, run_id)
                if status is None or status in FINAL:
                    return
                await signal.wait(POLL_S)

    async def status(self, filters: Filters, run_id: UUID) -> RunStatus | None:
        """The run's status. None if there is no such run. Waits while Postgres is unavailable."""
        return await retry(lambda: self._status(filters, run_id))

    async def _status(self, filters: Filters, run_id: UUID) -> RunStatus | None:
        async with self.pool.connection(filters) as conn:
            return await runs.status(conn, run_id)

    async def _newest(self, filters: Filters, run_id: UUID) -> int:
        if execution := self.executions.get(run_id):
            return execution.log.last_position
        async with self.pool.connection(filters) as conn:
            return await run_events.last_position(conn, run_id)

    async def _ring(
        self, filters: Filters, execution: Execution, position: int, *, in_batches: bool
    ) -> AsyncGenerator[LogItem, None]:
        """Yield the events after `position` from the ring. Stored events fill a gap at its beginning."""
        async with aclosing(execution.log.follow(position, in_batches=in_batches)) as ring:
            async for item in ring:
                if isinstance(item, Gap):
                    # In pages, because a reader may have missed many more events than the ring holds.
                    while position < item.position and (
                        page := await self._between(filters, execution.run_id, position, item.position)
                    ):
                        for missed in page:
                            position = missed.position
                            yield missed
                    if position >= item.position:
                        continue
                position = item.position
                yield item

    async def _between(self, filters: Filters, run_id: UUID, position: int, until: int) -> list[LogEvent]:
        """A page of the stored events after `position`, up to `until`."""
        async with self.pool.connection(filters) as conn:
            page = await run_events.read(conn, run_id, position)
        return [_event(row) for row in page if row.position <= until]

    async def _stored(
        self, filters: Filters, run_id: UUID, position: int, *, until_executed: bool = True
    ) -> AsyncGenerator[LogItem, None]:
        """Yield the events in Postgres as they arrive. Ends with the run, or when this process starts to execute it.

        If the events of a finished run were deleted, it yields a gap.
        """
        began = position
        with self.wakeups.subscribe(run_topic(run_id)) as signal:
            while True:
                status, page = await retry(partial(self._look, filters, run_id, position))
                for row in page:
                    position = row.position
                    yield _event(row)
                # A full page: more events may be stored already.
                if len(page) == PAGE_SIZE:
                    continue
                if status is None or status in FINAL or (until_executed and self.executions.get(run_id) is not None):
                    break
                await signal.wait(POLL_S)
        if status in FINAL and position == began and (until := await self._deleted_until(filters, run_id)) > position:
            yield Gap(until)

    async def _deleted_until(self, filters: Filters, run_id: UUID) -> int:
        async with self.pool.connection(filters) as conn:
            return await run_events.deleted_until(conn, run_id)

    async def _look(self, filters: Filters, run_id: UUID, position: int) -> tuple[RunStatus | None, list[RunEvent]]:
        """The status, then the events. Events written between the two statements are read the next time."""
        async with self.pool.connection(filters) as conn:
            return await runs.record_events(conn, run_id), await run_events.read(conn, run_id, position)

    async def _stored_answer(self, filters: Filters, thread_id: UUID, run_id: UUID) -> StoredResult | None:
        """The stored result. If the run still runs, mark it as followed, so that its end sends a notification."""
        async with self.pool.connection(filters) as conn:
            stored = await runs.get_result(conn, filters, thread_id, run_id)
            # The run may have ended between the two statements.
            if stored is not None and stored.status not in FINAL and await runs.record_events(conn, run_id) in FINAL:
                stored = await runs.get_result(conn, filters, thread_id, run_id)
        return stored


def _event(row: RunEvent) -> LogEvent:
    return LogEvent(row.position, row.event, row.data.encode())


def _answer_of(stored: StoredResult) -> bytes:
    """The answer of a finished run: the thread's values with open interrupts, or the run's error."""
    if stored.status in {"error", "timeout"} and stored.error is not None:
        return json.dumps({"__error__": stored.error})
    if (open_interrupts := stored.interrupts.load()) and stored.values is not None:
        values: Any = stored.values.load()
        interrupts = [interrupt for task_interrupts in open_interrupts.values() for interrupt in task_interrupts]
        return json.dumps(add_key(values, INTERRUPT, interrupts))
    return json.dumps(stored.values)
