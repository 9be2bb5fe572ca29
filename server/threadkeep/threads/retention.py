"""Retention: what of threads goes, when a client says so or when their time to live is over.

`delete` takes a thread with all it has; `keep_latest` takes the checkpoints behind its newest.
"""

import logging
from collections.abc import Sequence
from uuid import UUID

import anyio

from threadkeep.base.problems import Unsupported
from threadkeep.postgres.retry import AWAY
from threadkeep.postgres.tenancy import EVERYTHING, Filters
from threadkeep.runs.engine import Engine
from threadkeep.tables import cancels, thread_expiry, threads

log = logging.getLogger(__name__)

PRUNE_BATCH = 50
"""Threads pruned at once, at most; fewer than are deleted, for each takes several statements, and their rows are locked meanwhile."""


async def delete(engine: Engine, filters: Filters, thread_ids: Sequence[UUID]) -> list[UUID]:
    """Delete threads, and stop the runs that go on on them: here at once, elsewhere by a wake-up; which there were."""
    async with engine.pool.connection(filters) as conn, conn.transaction():
        await cancels.tell_of_deletion(conn, await threads.lock(conn, filters, thread_ids))
        gone = await threads.delete(conn, filters, thread_ids)
    for live in list(engine.live.all().values()):
        if live.thread_id in gone:
            live.cancel("interrupt", "the thread was deleted")
    return gone


async def keep_latest(engine: Engine, filters: Filters, thread_ids: Sequence[UUID]) -> int:
    """Take the old checkpoints of threads; of how many. Busy ones are passed over.

    Unsupported, and nothing done, where a thread's graph has a DeltaChannel, whose values are spread over them.
    """
    async with engine.pool.connection(filters) as conn, conn.transaction():
        free = await threads.lock_free(conn, filters, thread_ids)
        try:
            await engine.saver.scoped(filters).aprune([str(thread_id) for thread_id in free], strategy="keep_latest")
        except NotImplementedError:
            raise Unsupported(
                "keep_latest can't prune a thread whose graph uses a DeltaChannel", field="strategy"
            ) from None
    return len(free)


async def expire(engine: Engine) -> None:
    """End the threads whose time is over, on a timer, until cancelled."""
    while True:
        try:
            await expire_once(engine)
        except AWAY:
            log.warning("expired threads can't be ended", exc_info=True)
        await anyio.sleep(engine.expiry.every_s)


async def expire_once(engine: Engine) -> None:
    """Delete or prune a batch of threads whose time is over; what is left comes next time."""
    limit = engine.expiry.limit
    async with engine.pool.connection() as conn, conn.transaction():
        gone = await thread_expiry.lock_expired(conn, "delete", limit)
        if gone:
            await threads.delete(conn, EVERYTHING, gone)
    async with engine.pool.connection() as conn, conn.transaction():
        pruned = await thread_expiry.lock_expired(conn, "keep_latest", min(limit, PRUNE_BATCH))
        for thread_id in pruned:
            await _prune(engine, thread_id)
        if pruned:
            await thread_expiry.mark_swept(conn, pruned)
    if gone or pruned:
        log.info("threads expired", extra={"deleted": len(gone), "pruned": len(pruned)})


async def _prune(engine: Engine, thread_id: UUID) -> None:
    try:
        await engine.saver.aprune([str(thread_id)], strategy="keep_latest")
    except NotImplementedError:
        log.warning(
            "a thread can't be pruned: its graph uses a DeltaChannel", extra={"expired_thread_id": str(thread_id)}
        )
