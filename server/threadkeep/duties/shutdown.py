"""Drain: what becomes of the runs of a process that is told to stop.

At once it says that it is not ready and claims no more runs; for a while it still takes requests, for those who send
them look at that only now and then. Runs get their time; the rest are stopped and put back in the queue for another
process. Only then do the streams end, and with them the connections that uvicorn waits for.
"""

import logging

import anyio

from threadkeep.runs.engine import Engine
from threadkeep.tables import workers

log = logging.getLogger(__name__)

OPENING_S = 0.02
"""How often it is looked whether a run that has a slot is there."""
PUT_BACK_S = 5.0
"""How long the last write may take; after it the others take the runs over by themselves."""


async def drain_when_told(engine: Engine) -> None:
    """Wait until the process is told to stop, and some more, in which requests are still taken; then drain."""
    await engine.stopping.wait()
    lingered_s = min(engine.settings.linger_s, engine.settings.drain_s)
    with anyio.move_on_after(lingered_s):
        await engine.hurried.wait()
    await drain(engine, within_s=engine.settings.drain_s - lingered_s)


async def drain(engine: Engine, *, within_s: float | None = None) -> None:
    """Let the runs end, within `drain_s` seconds, and put back what is left. A second call finds nothing to do."""
    engine.stopping.set()
    engine.slots.drain()
    with anyio.move_on_after(engine.settings.drain_s if within_s is None else within_s, shield=True):
        await _ended_or_hurried(engine)
    engine.leaving.set()
    engine.live.stop()
    put_back = 0
    with anyio.move_on_after(PUT_BACK_S, shield=True):
        await engine.commits.idle()  # before another process goes on from the last checkpoint
        async with engine.pool.connection() as conn:
            put_back = await workers.put_back(conn, engine.worker_id)
            await workers.delete(conn, engine.worker_id)
    if put_back:
        log.info("runs were put back in the queue", extra={"runs": put_back})


async def _ended_or_hurried(engine: Engine) -> None:
    async with anyio.create_task_group() as waiting:

        async def until_ended() -> None:
            while engine.live.all() or engine.slots.running:
                if live := next(iter(engine.live.all().values()), None):
                    await live.gone.wait()
                else:  # it has its slot, and is being opened: put back, it would be made twice by a client that asks again
                    await anyio.sleep(OPENING_S)
            waiting.cancel_scope.cancel()

        waiting.start_soon(until_ended)
        await engine.hurried.wait()
        waiting.cancel_scope.cancel()
