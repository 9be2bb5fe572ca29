"""Cleanup: deletes what stays for a while after its time: threads of stateless runs, and idempotency keys."""

from dataclasses import dataclass
from typing import ClassVar

from threadkeep.postgres.listen import Wakeups
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import EVERYTHING
from threadkeep.tables import idempotency_keys, thread_expiry, threads
from threadkeep.tables.queue import TEMPORARY_S

CLEANUP_S = 4.0
"""Between two rounds. With `TEMPORARY_S` it is how long the thread of a stateless run is there after the run."""
BATCH = 500
"""Deleted in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """Duty: delete temporary threads and idempotency keys whose time is over."""

    pool: Pool
    wakeups: Wakeups
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        return CLEANUP_S

    async def run_once(self) -> None:
        """Keep the threads that somebody follows here. Of the others delete batches until nothing is left."""
        if followed := self.wakeups.topics():
            async with self.pool.connection() as conn:
                await thread_expiry.keep_temporary(conn, followed, TEMPORARY_S)
        while await self._delete_batch():
            pass

    async def _delete_batch(self) -> bool:
        """Delete a batch of each. True if there may be more."""
        async with self.pool.connection() as conn, conn.transaction():
            expired = await thread_expiry.lock_temporary(conn, BATCH)
            if expired:
                await threads.delete(conn, EVERYTHING, expired)
        async with self.pool.connection() as conn:
            keys = await idempotency_keys.sweep(conn, BATCH)
        return BATCH in {len(expired), keys}
