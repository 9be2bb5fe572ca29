"""Drain: what becomes of the runs of a process that stops."""

import logging

import anyio

from threadkeep.db import workers
from threadkeep.engine.engine import Engine

log = logging.getLogger(__name__)

PUT_BACK_S = 5.0
"""How long the last write may take; after it the others take the runs over by themselves."""


async def drain(engine: Engine) -> None:
    """Give the runs their time to end, then stop them and put them back in the queue for another process."""
    engine.slots.drain()
    with anyio.move_on_after(engine.settings.drain_s, shield=True):
        while live := next(iter(engine.live.all().values()), None):
            await live.wait()
            await anyio.lowlevel.checkpoint()
    engine.tasks.cancel_scope.cancel()
    put_back = 0
    with anyio.move_on_after(PUT_BACK_S, shield=True):
        async with engine.pool.connection() as conn:
            put_back = await workers.put_back(conn, engine.worker_id)
            await workers.delete(conn, engine.worker_id)
    log.info("server stopped", extra={"runs_put_back": put_back})
