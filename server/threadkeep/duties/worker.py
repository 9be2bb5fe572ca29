"""Worker: takes pending runs off the queue, when there is a slot for them.

It takes a slot first and a run then, so that a run is never claimed by a process that can't execute it.
"""

import logging

import anyio

from threadkeep.postgres.listen import CANCEL, PENDING
from threadkeep.postgres.retry import AWAY
from threadkeep.runs.engine import Engine
from threadkeep.runs.execution import start
from threadkeep.runs.graph_call import Job
from threadkeep.tables import cancels, queue
from threadkeep.tables.queue import Claimed

log = logging.getLogger(__name__)

POLL_S = 5.0
"""How often the queue is looked at though nobody said that there is something in it."""


async def work(engine: Engine) -> None:
    """Execute what is in the queue, until cancelled."""
    with engine.wakeups.on(PENDING) as signal:
        while True:
            wait_s = POLL_S
            try:
                while await claim_once(engine):
                    pass
                wait_s = await _until_next(engine)
            except AWAY:
                log.warning("the queue can't be read", exc_info=True)
            await signal.wait(wait_s)


async def claim_once(engine: Engine) -> bool:
    """Start one pending run; False where there was none to start, or the process is stopping."""
    async with engine.pool.connection() as conn:
        if engine.stopping.is_set() or not await queue.any_due(conn):
            return False
    async with engine.slots.hold_patiently() as slot:
        claimed = None if engine.stopping.is_set() else await _claim(engine)
        if claimed is not None:
            if claimed.waited_s is not None and claimed.attempt == 1:
                engine.metrics.queue_wait.observe(claimed.waited_s)
            start(engine, Job.of(claimed, engine.commits), slot.passed_on(), watched=True)
    return claimed is not None


async def _claim(engine: Engine) -> Claimed | None:
    """Shielded: a run that was claimed is started, or it would look as if it ran."""
    claimed = None
    with anyio.CancelScope(shield=True):
        async with engine.pool.connection() as conn:
            claimed = await queue.claim(conn, engine.worker_id)
    return claimed


async def _until_next(engine: Engine) -> float:
    async with engine.pool.connection() as conn:
        due_s = await queue.seconds_to_next(conn)
    return POLL_S if due_s is None else max(0.0, min(POLL_S, due_s))


async def obey_cancels(engine: Engine) -> None:
    """Stop the runs of this process that another one was asked to cancel, until cancelled."""
    with engine.wakeups.on(CANCEL) as signal:
        while True:
            try:
                await obey_cancels_once(engine)
            except AWAY:
                log.warning("cancels can't be read", exc_info=True)
            await signal.wait(POLL_S)


async def obey_cancels_once(engine: Engine) -> None:
    """Stop what is to be stopped now."""
    stored = [live.run_id for live in engine.live.all().values() if live.durable]
    if not stored:
        return
    async with engine.pool.connection() as conn:
        wanted = await cancels.wanted(conn, engine.worker_id, stored)
    for run_id, action, reason in wanted:
        if live := engine.live.get(run_id):
            live.cancel(action, reason)
