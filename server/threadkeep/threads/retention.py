"""Retention: deletes or prunes threads, on request or when their time to live ends.

`delete` deletes a thread with all its rows. `keep_latest` deletes all its checkpoints except the newest.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from threadkeep.base.problems import UnsupportedField
from threadkeep.persistence.checkpointer import Checkpointer, TransactionCheckpoints
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.project import CheckpointerTTL
from threadkeep.tables import thread_expiry, threads
from threadkeep.threads.history import ThreadParts

log = logging.getLogger(__name__)

EXPIRE_S = 10.0
EXPIRE_BATCH = 500
"""The most threads in one round, unless langgraph.json sets another limit."""
PRUNE_BATCH = 50
"""The most threads that are pruned at once. Each takes several statements while all their rows are locked."""
DELETE_BATCH = 50
"""The most threads that one transaction deletes for a client. Their running runs, and the writes that are committed in
the same batch, wait for it."""


async def delete(parts: ThreadParts, filters: Filters, thread_ids: Sequence[UUID]) -> list[UUID]:
    """Delete threads with all their rows, and stop their runs in all processes. Returns the ids that existed.

    Each batch is a transaction. A cancellation in between leaves the remaining threads unchanged.
    """
    ordered = sorted(set(thread_ids))
    deleted: list[UUID] = []
    for start in range(0, len(ordered), DELETE_BATCH):
        async with parts.pool.connection(filters) as conn:
            deleted += await threads.delete(conn, filters, ordered[start : start + DELETE_BATCH])
    return deleted


async def prune(parts: ThreadParts, filters: Filters, thread_ids: Sequence[UUID]) -> int:
    """Delete the old checkpoints of threads, and return the number of threads. Busy threads are skipped.

    UnsupportedField, without any change, if a thread's graph has a DeltaChannel, because its old checkpoints hold parts of
    its value.
    """
    async with parts.pool.connection(filters) as conn, conn.transaction():
        free = await threads.lock_idle(conn, filters, thread_ids)
        try:
            await _prune(parts.checkpoints, conn, free)
        except NotImplementedError:
            # The exception leaves the transaction, which rolls back what was already deleted.
            raise UnsupportedField(
                "keep_latest can't prune a thread whose graph uses a DeltaChannel", field="strategy"
            ) from None
    return len(free)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadExpiry:
    """Duty: delete or prune the threads whose time to live has ended."""

    pool: Pool
    checkpoints: Checkpointer
    ttl: CheckpointerTTL | None
    """`checkpointer.ttl` of langgraph.json."""
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        minutes = self.ttl.sweep_interval_minutes if self.ttl else None
        return minutes * 60 if minutes else EXPIRE_S

    async def run_once(self) -> None:
        """Delete or prune a batch of threads. The next round continues."""
        limit = (self.ttl.sweep_limit if self.ttl else None) or EXPIRE_BATCH
        async with self.pool.connection() as conn, conn.transaction():
            deleted = await thread_expiry.lock_expired(conn, "delete", limit)
            if deleted:
                await threads.delete(conn, UNRESTRICTED, deleted)
        async with self.pool.connection() as conn, conn.transaction():
            # In a transaction of its own, so that threads that can't be pruned do not undo the deletions.
            pruned = await thread_expiry.lock_expired(conn, "keep_latest", min(limit, PRUNE_BATCH))
            for thread_id in pruned:
                await self._prune_if_possible(conn, thread_id)
            if pruned:
                # Also the threads that can't be pruned, because each round would find them first.
                await thread_expiry.mark_pruned(conn, pruned)
        if deleted or pruned:
            log.info("threads expired", extra={"deleted": len(deleted), "pruned": len(pruned)})

    async def _prune_if_possible(self, conn: Conn, thread_id: UUID) -> None:
        try:
            await _prune(self.checkpoints, conn, [thread_id])
        except NotImplementedError:
            log.warning("thread not pruned: its graph uses a DeltaChannel", extra={"thread_id": str(thread_id)})


async def _prune(checkpoints: Checkpointer, conn: Conn, thread_ids: Sequence[UUID]) -> None:
    """Delete the old checkpoints of locked threads. NotImplementedError as in LangGraph's `aprune`."""
    bound = TransactionCheckpoints(checkpoints, conn)
    await bound.aprune([str(thread_id) for thread_id in thread_ids], strategy="keep_latest")
