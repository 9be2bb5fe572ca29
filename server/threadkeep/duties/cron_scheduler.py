"""Cron scheduler: starts the runs of crons.

Every process schedules the crons of its project for the graphs that it serves. The cron's row decides which process
starts the run (`tables/crons.py`). If several fire times were missed because no process was alive, one run replaces them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import ValidationError

from threadkeep.base.problems import Problem
from threadkeep.duties import cron_schedule
from threadkeep.graphs import LoadedGraph
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.assistants import AssistantCache, ResolvedAssistant
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.runs.service import Admitted, RunService
from threadkeep.tables import crons, queue
from threadkeep.tables.crons import CRONS, ClaimedCron, DueCron

log = logging.getLogger(__name__)

POLL_S = 5.0
"""Seconds between two polls if no notification arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronScheduler:
    """Duty: start the runs of crons that are due."""

    pool: Pool
    graphs: Mapping[str, LoadedGraph]
    runs: RunService
    topic: ClassVar[str | None] = CRONS
    interval_s: float = POLL_S

    async def run_once(self) -> float:
        """Fire every cron that is due. Returns the seconds until the next one is due, at most `POLL_S`."""
        assistants = AssistantCache(self.pool, self.graphs)
        async with self.pool.connection() as conn:
            now = await crons.database_time(conn)
            due = await crons.list_due(conn, now, list(self.graphs))
        for cron in due:
            try:
                await self._fire(assistants, cron)
            # Each other cron would fail too, so the round ends. A later round fires them.
            except TRANSIENT_ERRORS:
                raise
            except Exception:
                log.exception("cron not fired", extra={"cron_id": str(cron.cron_id)})
        async with self.pool.connection() as conn:
            next_s = await crons.seconds_to_next(conn, now)
        return POLL_S if next_s is None else max(0.0, min(POLL_S, next_s))

    async def _fire(self, assistants: AssistantCache, due: DueCron) -> None:
        """Start the run and set the cron's next fire time, in one transaction. Does nothing if another process did.

        The thread is locked before the cron. The deletion of a thread with its crons uses the same order.
        """
        # Before the transaction, because it takes a connection of its own.
        assistant = await _assistant(assistants, due)
        async with self.pool.connection() as conn, conn.transaction():
            if due.thread_id is not None:
                await queue.lock_thread(conn, due.thread_id)
            cron = await crons.claim(conn, due.cron_id)
            if cron is None:
                return
            now = await crons.database_time(conn)
            if assistant is not None and not (cron.end_time and cron.end_time < now):
                await self._start_run(conn, cron, assistant, Filters(due.metadata_filter.load()))
            await crons.advance(conn, cron.cron_id, await _next(cron, now))

    async def _start_run(self, conn: Conn, cron: ClaimedCron, assistant: ResolvedAssistant, filters: Filters) -> None:
        """Start the run. If the run is refused, log the reason. The cron continues at its next fire time."""
        fields = {"cron_id": str(cron.cron_id)}
        try:
            user = cron.principal.load() if cron.principal else None
            admitted = Admitted(request=_request(cron), filters=filters, assistant=assistant, user=user)
            run = await self.runs.fire(conn, admitted)
        except (ValidationError, Problem) as refused:
            log.warning("cron skipped: its run was refused", extra=fields | {"error_type": type(refused).__name__})
            return
        if run is None:
            log.info("cron skipped: its thread is busy", extra=fields)
            return
        log.info("cron fired", extra=fields | {"run_id": str(run.run_id)})


async def _assistant(assistants: AssistantCache, due: DueCron) -> ResolvedAssistant | None:
    """The cron's assistant. Its creator was allowed to read it. None if it or its graph no longer exists."""
    try:
        return await assistants.resolve(UNRESTRICTED, str(due.assistant_id))
    except Problem:
        fields = {"cron_id": str(due.cron_id), "assistant_id": str(due.assistant_id)}
        log.warning("cron skipped: its assistant or graph does not exist", extra=fields)
        return None


def _request(cron: ClaimedCron) -> RunRequest:
    """The run request of one fire time. As on the reference server, metadata and `configurable` contain the cron's id."""
    payload: dict[str, Any] = cron.payload.load()
    mark = {"cron_id": str(cron.cron_id)}
    return RunRequest(
        spec=GraphRunOptions.model_validate(payload),
        assistant=str(cron.assistant_id),
        thread_id=cron.thread_id,
        metadata={**cron.metadata.load(), **mark},
        multitask_strategy=payload.get("multitask_strategy", "enqueue"),
        temporary=cron.on_run_completed == "delete",
        configurable=mark,
    )


async def _next(cron: ClaimedCron, now: datetime) -> datetime | None:
    """The next fire time. None, with a warning in the log, if this machine no longer knows the time zone."""
    try:
        zone = await cron_schedule.load_timezone(cron.timezone)
        return cron_schedule.next_run_date(cron.schedule, zone, now, cron.end_time)
    except Problem:
        log.warning("cron stopped: its schedule has no next date", extra={"cron_id": str(cron.cron_id)})
        return None
