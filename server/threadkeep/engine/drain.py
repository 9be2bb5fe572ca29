"""Drain: what becomes of the runs of a process that is told to stop.

No new run starts; those that go on get their time; the rest are stopped and put back in the queue for another
process. Only then do the streams end, and with them the connections that uvicorn waits for.
"""

import logging

import anyio

from threadkeep.db import workers
from threadkeep.engine.engine import Engine

log = logging.getLogger(__name__)

PUT_BACK_S = 5.0
"""How long the last write may take; after it the others take the runs over by themselves."""


async def drain_when_told(engine: Engine) -> None:
    """Wait until the process is told to stop, then drain."""
    await engine.stopping.wait()
    await drain(engine)


async def drain(engine: Engine) -> None:
    """Let the runs end, `drain_s` seconds at most, and put back what is left. A second call finds nothing to do."""
    engine.slots.drain()
    with anyio.move_on_after(engine.settings.drain_s, shield=True):
        while live := next(iter(engine.live.all().values()), None):
            await live.gone.wait()
    engine.tasks.cancel_scope.cancel()
    put_back = 0
    with anyio.move_on_after(PUT_BACK_S, shield=True):
        async with engine.pool.connection() as conn:
            put_back = await workers.put_back(conn, engine.worker_id)
            await workers.delete(conn, engine.worker_id)
    if put_back:
        log.info("runs were put back in the queue", extra={"runs": put_back})
