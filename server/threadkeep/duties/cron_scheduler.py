"""Scheduler: starts the runs of crons.

Every process schedules. Which of them fires a tick is decided by the cron's row, see `tables/crons.py`. Ticks that came
while no process was there are made up for by one run, not by one each.
"""

import logging
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from threadkeep.base.problems import Problem
from threadkeep.duties import cron_schedule
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.retry import AWAY
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.admission import Admission, enqueue_in
from threadkeep.runs.assistants import Assistants, Chosen
from threadkeep.runs.engine import Engine
from threadkeep.runs.request import RunSpec
from threadkeep.tables import crons, queue
from threadkeep.tables.crons import CRONS, Due, Tick

log = logging.getLogger(__name__)

POLL_S = 5.0
"""How often crons are looked at though nobody said that there is a new one."""


async def schedule(engine: Engine) -> None:
    """Fire ticks as they come, until cancelled."""
    with engine.wakeups.on(CRONS) as signal:
        while True:
            wait_s = POLL_S
            try:
                wait_s = await schedule_once(engine)
            except AWAY:
                log.warning("crons can't be read", exc_info=True)
            await signal.wait(wait_s)


async def schedule_once(engine: Engine) -> float:
    """Fire every tick that is due; seconds until the next is, `POLL_S` at most."""
    assistants = Assistants(engine.pool, engine.graphs)
    async with engine.pool.connection() as conn:
        now = await crons.clock(conn)
        due = await crons.due(conn, now)
    for one in due:
        try:
            await _fire(engine, assistants, one)
        except AWAY:
            raise
        except Exception:
            log.exception("cron could not be fired", extra={"cron_id": str(one.cron_id)})
    async with engine.pool.connection() as conn:
        next_s = await crons.seconds_to_next(conn, now)
    return POLL_S if next_s is None else max(0.0, min(POLL_S, next_s))


async def _fire(engine: Engine, assistants: Assistants, due: Due) -> None:
    """Open the tick's run and move the cron on, in one transaction; nothing where another process did.

    The thread is locked before the cron, in the order in which a thread that is deleted takes its crons along.
    """
    filters = Filters(due.filters.load())
    chosen = await _chosen(assistants, filters, due)
    async with engine.pool.connection() as conn, conn.transaction():
        if due.thread_id is not None:
            await queue.lock_thread(conn, due.thread_id)
        cron = await crons.claim(conn, due.cron_id)
        if cron is None:
            return
        now = await crons.clock(conn)
        if chosen is not None and not (cron.end_time and cron.end_time < now):
            await _open(engine, conn, filters, (cron, chosen))
        await crons.advance(conn, cron.cron_id, await _next(cron, now))


async def _chosen(assistants: Assistants, filters: Filters, due: Due) -> Chosen | None:
    """The cron's assistant; None, with a line in the log, where it or its graph is gone."""
    try:
        return await assistants.choose(filters, str(due.assistant_id))
    except Problem:
        fields = {"cron_id": str(due.cron_id), "assistant_id": str(due.assistant_id)}
        log.warning("cron passed over: its assistant or graph is gone", extra=fields)
        return None


async def _open(engine: Engine, conn: Conn, filters: Filters, tick: tuple[Tick, Chosen]) -> None:
    cron, chosen = tick
    try:
        asked = _admission(cron, chosen)
        engine.webhooks.check(asked.spec.webhook)
    except (ValidationError, Problem):
        log.warning("cron passed over: its runs are no longer allowed", extra={"cron_id": str(cron.cron_id)})
        return
    run = await enqueue_in(engine, conn, filters, asked)
    if run is None:
        log.info("cron passed over: its thread is busy", extra={"cron_id": str(cron.cron_id)})
        return
    log.info("cron fired", extra={"cron_id": str(cron.cron_id), "run_id": str(run.run_id)})


def _admission(cron: Tick, chosen: Chosen) -> Admission:
    """The run of one tick; it knows its cron, as on the reference, by its metadata and its `configurable`."""
    payload: dict[str, Any] = cron.payload.load()
    mark = {"cron_id": str(cron.cron_id)}
    spec = RunSpec.model_validate(payload)
    config = {**spec.config, "configurable": {**spec.config.get("configurable", {}), **mark}}
    return Admission(
        spec=spec.model_copy(update={"config": config}),
        chosen=chosen,
        thread_id=cron.thread_id,
        metadata={**cron.metadata.load(), **mark},
        multitask_strategy=payload.get("multitask_strategy", "enqueue"),
        temporary=cron.on_run_completed == "delete",
        kept=True,
        user=cron.principal.load() if cron.principal else None,
    )


async def _next(cron: Tick, now: datetime) -> datetime | None:
    """The next tick; None, with a line in the log, where the zone has gone from the machine's list."""
    try:
        zone = await cron_schedule.zone(cron.timezone)
        return cron_schedule.next_run_date(cron.schedule, zone, now, cron.end_time)
    except Problem:
        log.warning("cron stopped: its schedule has no next date here", extra={"cron_id": str(cron.cron_id)})
        return None
