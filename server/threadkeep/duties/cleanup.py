"""Cleanup: deletes expired rows.

Threads of stateless runs and idempotency keys have an expiry time. Events of finished runs, and webhooks that could not
be sent, are deleted at an age. All processes do this in small batches. Rows locked by another process are skipped.
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
"""Seconds between two rounds. The thread of a stateless run exists up to `THREADKEEP_KEEP_STATELESS` plus this time."""
FOLLOWED_S = 8.0
"""Seconds by which each round extends an ephemeral thread with a reader. It is longer than the pause between rounds."""
BATCH_SIZE = 500
"""Rows that are deleted in one transaction."""
RUNS_BATCH = 50
"""Runs whose events are deleted in one transaction. Each may have thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """Duty: delete expired ephemeral threads, idempotency keys, events and webhooks."""

    pool: Pool
    settings: Settings
    wakeups: NotificationHub
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        return CLEANUP_S

    async def run_once(self) -> None:
        """Extend the threads that have a reader in this process. Then delete batches until nothing is left."""
        # First, because a reader may have come after the thread expired.
        if followed := self.wakeups.topics():
            async with self.pool.connection() as conn:
                await thread_expiry.keep_temporary(conn, followed, FOLLOWED_S)
        while await self._delete_batch() or await self._delete_old_batch():
            pass

    async def _delete_batch(self) -> bool:
        """Delete a batch of ephemeral threads and a batch of keys. True if there may be more."""
        async with self.pool.connection() as conn, conn.transaction():
            expired = await thread_expiry.lock_ephemeral(conn, BATCH_SIZE)
            if expired:
                await threads.delete(conn, UNRESTRICTED, expired)
        async with self.pool.connection() as conn:
            keys = await idempotency_keys.delete_expired(conn, BATCH_SIZE)
        return BATCH_SIZE in {len(expired), keys}

    async def _delete_old_batch(self) -> bool:
        """Delete the old events of a batch of runs, and a batch of old webhooks. True if there may be more."""
        runs = webhooks = 0
        async with self.pool.connection() as conn:
            if age_s := self.settings.keep_events_s:
                runs = await run_events.delete_old(conn, age_s=age_s, limit=RUNS_BATCH)
            if age_s := self.settings.keep_webhooks_s:
                webhooks = await webhook_deliveries.delete_old(conn, age_s=age_s, limit=BATCH_SIZE)
        if webhooks:
            log.warning("webhooks dropped: too old to be sent", extra={"deleted": webhooks})
        return runs == RUNS_BATCH or webhooks == BATCH_SIZE
