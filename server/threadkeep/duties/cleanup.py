"""Cleanup: deletes what stays for a while after its time: threads of stateless runs, and idempotency keys."""

from dataclasses import dataclass
from typing import ClassVar

from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import EVERYTHING
from threadkeep.tables import idempotency_keys, thread_expiry, threads

CLEANUP_S = 10.0
"""Between two rounds."""
BATCH = 500
"""Deleted in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """Duty: delete temporary threads and idempotency keys whose time is over."""

    pool: Pool
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        return CLEANUP_S

    async def run_once(self) -> None:
        """Delete batches until nothing is left."""
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
