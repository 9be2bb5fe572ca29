"""Follow: the events and the answer of a run, wherever and whenever it is executed.

In the executing process a reader reads the ring. Elsewhere or later it reads `run_events`, woken by LISTEN with a slow
poll. A reader of a run that waits here goes over to the ring when the run starts here.
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
"""A follower looks again after so many seconds although nobody woke it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Follows runs for the readers of this process."""

    pool: Pool
    wakeups: NotificationHub
    executions: Executions
    signals: ProcessSignals

    async def events(
        self, filters: Filters, run_id: UUID, after: int | None, execution: Execution | None = None
    ) -> AsyncGenerator[LogItem, None]:
        """The run's events behind position `after`, until it ends. `after=None`: only those from now on.

        `execution` is read even if it has ended already.
        """
        position = await self._newest(filters, run_id) if after is None else after
        execution = execution or self.executions.get(run_id)
        while True:
            if execution is not None:
                execution.log.is_wanted = True
            source = (
                self._stored(filters, run_id, position)
                if execution is None
                else self._ring(filters, execution, position)
            )
            async with aclosing(source) as items:
                async for item in items:
                    position = item.position
                    yield item
            before, execution = execution, self.executions.get(run_id)
            if before is None and execution is None:
                return
            if before is not None and (before.outcome is not None or self.signals.stopping.is_set()):
                return

    async def answer(self, filters: Filters, thread_id: UUID, run_id: UUID) -> bytes:
        """The run's answer as JSON, when it has ended. NotFound if there is no such run, or none any more."""
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
                if self.executions.get(run_id) is None:
                    await signal.wait(POLL_S)

    async def ended(self, filters: Filters, run_id: UUID) -> None:
        """Wait until the run has ended, or is gone."""
        with self.wakeups.subscribe(run_topic(run_id)) as signal:
            while True:
                if execution := self.executions.get(run_id):
                    await execution.wait_result()
                status = await self.status(filters, run_id)
                if status is None or status in FINAL:
                    return
                await signal.wait(POLL_S)

    async def status(self, filters: Filters, run_id: UUID) -> RunStatus | None:
        """The run's status, as soon as Postgres can say it. None if there is no such run."""
        return await retry(lambda: self._status(filters, run_id))

    async def _status(self, filters: Filters, run_id: UUID) -> RunStatus | None:
        async with self.pool.connection(filters) as conn:
            return await runs.status(conn, run_id)

    async def _newest(self, filters: Filters, run_id: UUID) -> int:
        if execution := self.executions.get(run_id):
            return execution.log.last_position
        async with self.pool.connection(filters) as conn:
            return await run_events.last_position(conn, run_id)

    async def _ring(self, filters: Filters, execution: Execution, position: int) -> AsyncGenerator[LogItem, None]:
        """The ring behind `position`. A gap at its beginning is filled from Postgres as far as that goes."""
        async with aclosing(execution.log.follow(position)) as ring:
            async for item in ring:
                if isinstance(item, Gap):
                    for missed in await self._between(filters, execution.run_id, position, item.position):
                        position = missed.position
                        yield missed
                    if position >= item.position:
                        continue
                position = item.position
                yield item

    async def _between(self, filters: Filters, run_id: UUID, after: int, until: int) -> list[LogEvent]:
        events: list[LogEvent] = []
        async with self.pool.connection(filters) as conn:
            while after < until and (page := await run_events.read(conn, run_id, after)):
                events.extend(_event(row) for row in page)
                after = page[-1].position
        return [event for event in events if event.position <= until]

    async def _stored(self, filters: Filters, run_id: UUID, position: int) -> AsyncGenerator[LogItem, None]:
        """What Postgres holds, as it comes. Ends with the run, or when this process starts to execute it.

        If the events of a finished run were deleted, that is a gap.
        """
        began = position
        with self.wakeups.subscribe(run_topic(run_id)) as signal:
            while True:
                status, page = await retry(partial(self._look, filters, run_id, position))
                for row in page:
                    position = row.position
                    yield _event(row)
                if len(page) == PAGE_SIZE:
                    continue
                if status is None or status in FINAL or self.executions.get(run_id) is not None:
                    break
                await signal.wait(POLL_S)
        if status in FINAL and position == began and (until := await self._deleted_until(filters, run_id)) > position:
            yield Gap(until)

    async def _deleted_until(self, filters: Filters, run_id: UUID) -> int:
        async with self.pool.connection(filters) as conn:
            return await run_events.deleted_until(conn, run_id)

    async def _look(self, filters: Filters, run_id: UUID, position: int) -> tuple[RunStatus | None, list[RunEvent]]:
        """The status, then the events: what comes between the two is read the next time."""
        async with self.pool.connection(filters) as conn:
            return await runs.record_events(conn, run_id), await run_events.read(conn, run_id, position)

    async def _stored_answer(self, filters: Filters, thread_id: UUID, run_id: UUID) -> StoredResult | None:
        """If the run goes on elsewhere, that process is told that somebody waits, and its end wakes us."""
        async with self.pool.connection(filters) as conn:
            stored = await runs.get_result(conn, filters, thread_id, run_id)
            if stored is not None and stored.status not in FINAL and await runs.record_events(conn, run_id) in FINAL:
                stored = await runs.get_result(conn, filters, thread_id, run_id)
        return stored


def _event(row: RunEvent) -> LogEvent:
    return LogEvent(row.position, row.event, row.data.encode())


def _answer_of(stored: StoredResult) -> bytes:
    """The answer of a run that ended before: the thread's values, its open interrupts, or the run's error."""
    if stored.status in {"error", "timeout"} and stored.error is not None:
        return json.dumps({"__error__": stored.error})
    if (open_interrupts := stored.interrupts.load()) and stored.values is not None:
        values: Any = stored.values.load()
        asked = [interrupt for several in open_interrupts.values() for interrupt in several]
        return json.dumps(add_key(values, INTERRUPT, asked))
    return json.dumps(stored.values)
