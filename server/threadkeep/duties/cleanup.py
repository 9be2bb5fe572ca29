"""Leftovers: what stays for a while after its time, and then goes: threads of stateless runs, idempotency keys."""

import logging

import anyio

from threadkeep.postgres.retry import AWAY
from threadkeep.postgres.tenancy import EVERYTHING
from threadkeep.runs.engine import Engine
from threadkeep.tables import idempotency_keys, thread_expiry, threads

log = logging.getLogger(__name__)

CLEAR_S = 10.0
"""Between two looks."""
BATCH = 500
"""Deleted in one transaction."""


async def clear(engine: Engine) -> None:
    """Clear on a timer, until cancelled."""
    while True:
        try:
            while await clear_once(engine):
                pass
        except AWAY:
            log.warning("leftovers can't be cleared", exc_info=True)
        await anyio.sleep(CLEAR_S)


async def clear_once(engine: Engine) -> bool:
    """Delete a batch of each; whether there may be more."""
    async with engine.pool.connection() as conn, conn.transaction():
        gone = await thread_expiry.lock_temporary(conn, BATCH)
        if gone:
            await threads.delete(conn, EVERYTHING, gone)
    async with engine.pool.connection() as conn:
        forgotten = await idempotency_keys.sweep(conn, BATCH)
    return BATCH in {len(gone), forgotten}
