"""Cleanup: deletes what nobody reads again.

Threads of stateless runs and idempotency keys go when their time is over, the events of finished runs and webhooks that
could not be sent at an age. All processes do this, in small batches. Rows that another one deletes are skipped.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import idempotency_keys, run_events, thread_expiry, threads, webhook_deliveries

log = logging.getLogger(__name__)

CLEANUP_S = 4.0
"""Between two rounds. With `THREADKEEP_KEEP_STATELESS` it is how long the thread of a stateless run is there after it."""
FOLLOWED_S = 8.0
"""For how long a temporary thread that somebody follows is kept at each round: longer than until the next one."""
BATCH_SIZE = 500
"""Deleted in one transaction."""
RUNS_BATCH = 50
"""Runs whose events are deleted in one transaction; each may have thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """Duty: delete temporary threads, idempotency keys, events and webhooks whose time is over."""

    pool: Pool
    settings: Settings
    wakeups: NotificationHub
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        return CLEANUP_S

    async def run_once(self) -> None:
        """Keep the threads that somebody follows here. Of the others delete batches until nothing is left."""
        if followed := self.wakeups.topics():
            async with self.pool.connection() as conn:
                await thread_expiry.keep_temporary(conn, followed, FOLLOWED_S)
        while await self._delete_batch() or await self._delete_old_batch():
            pass

    async def _delete_batch(self) -> bool:
        """Delete a batch of temporary threads and of keys. True if there may be more."""
        async with self.pool.connection() as conn, conn.transaction():
            expired = await thread_expiry.lock_ephemeral(conn, BATCH_SIZE)
            if expired:
                await threads.delete(conn, UNRESTRICTED, expired)
        async with self.pool.connection() as conn:
            keys = await idempotency_keys.delete_expired(conn, BATCH_SIZE)
        return BATCH_SIZE in {len(expired), keys}

    async def _delete_old_batch(self) -> bool:
        """Delete the events of a batch of runs, and a batch of webhooks, by their ages. True if there may be more."""
        runs = webhooks = 0
        async with self.pool.connection() as conn:
            if age_s := self.settings.keep_events_s:
                runs = await run_events.delete_old(conn, age_s=age_s, limit=RUNS_BATCH)
            if age_s := self.settings.keep_webhooks_s:
                webhooks = await webhook_deliveries.delete_old(conn, age_s=age_s, limit=BATCH_SIZE)
        if webhooks:
            log.warning("webhooks were too old to be sent", extra={"deleted": webhooks})
        return runs == RUNS_BATCH or webhooks == BATCH_SIZE
