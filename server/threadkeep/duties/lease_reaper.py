"""Sweeper: at the start and on a timer, puts right what a dead process left behind."""

import logging

import anyio

from threadkeep.postgres.retry import AWAY
from threadkeep.runs.engine import Engine
from threadkeep.tables import workers

log = logging.getLogger(__name__)


async def sweep(engine: Engine) -> None:
    """Sweep on a timer, until cancelled."""
    while True:
        try:
            await sweep_once(engine)
        except AWAY:
            log.warning("the sweep could not be made", exc_info=True)
        await anyio.sleep(engine.settings.sweep_s)


async def sweep_once(engine: Engine) -> None:
    """Take over the runs of dead processes."""
    settings = engine.settings
    async with engine.pool.connection() as conn:
        if engine.lease.may_judge(settings.lease_s):
            await workers.sweep(conn, engine.worker_id, settings.lease_s)
        orphans = await workers.take_over(conn, settings.max_attempts)
        await workers.put_back_lost(conn, engine.worker_id, list(engine.live.all()), settings.lease_s)
    if orphans:
        engine.metrics.takeovers.inc(len(orphans))
        log.warning("runs of a dead process were taken over", extra={"runs": [str(run_id) for run_id in orphans]})
