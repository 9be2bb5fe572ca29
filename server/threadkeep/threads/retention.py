"""Retention: what of threads goes, when a client says so or when their time to live is over.

`delete` takes a thread with all it has; `keep_latest` takes the checkpoints behind its newest.
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
"""Of one round, unless langgraph.json says otherwise."""
PRUNE_BATCH = 50
"""Threads pruned at once, at most; fewer than are deleted, for each takes several statements, and their rows are locked meanwhile."""
DELETE_BATCH = 50
"""Threads that a client deletes at once, at most. A run of theirs that writes, and what else is committed with it, waits
as long."""


async def delete(parts: ThreadParts, filters: Filters, thread_ids: Sequence[UUID]) -> list[UUID]:
    """Delete threads with all that they have, and stop their runs in whatever process; which there were.

    Each batch is a transaction. Cancelled in between, some are gone and the rest are whole.
    """
    ordered = sorted(set(thread_ids))
    gone: list[UUID] = []
    for start in range(0, len(ordered), DELETE_BATCH):
        async with parts.pool.connection(filters) as conn:
            gone += await threads.delete(conn, filters, ordered[start : start + DELETE_BATCH])
    return gone


async def prune(parts: ThreadParts, filters: Filters, thread_ids: Sequence[UUID]) -> int:
    """Take the old checkpoints of threads; of how many. Busy ones are passed over.

    Unsupported, and nothing done, where a thread's graph has a DeltaChannel, whose values are spread over them.
    """
    async with parts.pool.connection(filters) as conn, conn.transaction():
        free = await threads.lock_idle(conn, filters, thread_ids)
        try:
            await _prune(parts.checkpoints, conn, free)
        except NotImplementedError:
            raise UnsupportedField(
                "keep_latest can't prune a thread whose graph uses a DeltaChannel", field="strategy"
            ) from None
    return len(free)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadExpiry:
    """Duty: end the threads whose time to live is over."""

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
        """Delete or prune a batch of threads. What is left comes next time."""
        limit = (self.ttl.sweep_limit if self.ttl else None) or EXPIRE_BATCH
        async with self.pool.connection() as conn, conn.transaction():
            gone = await thread_expiry.lock_expired(conn, "delete", limit)
            if gone:
                await threads.delete(conn, UNRESTRICTED, gone)
        async with self.pool.connection() as conn, conn.transaction():
            pruned = await thread_expiry.lock_expired(conn, "keep_latest", min(limit, PRUNE_BATCH))
            for thread_id in pruned:
                await self._prune_if_possible(conn, thread_id)
            if pruned:
                await thread_expiry.mark_pruned(conn, pruned)
        if gone or pruned:
            log.info("threads expired", extra={"deleted": len(gone), "pruned": len(pruned)})

    async def _prune_if_possible(self, conn: Conn, thread_id: UUID) -> None:
        try:
            await _prune(self.checkpoints, conn, [thread_id])
        except NotImplementedError:
            log.warning("a thread can't be pruned: its graph uses a DeltaChannel", extra={"thread_id": str(thread_id)})


async def _prune(checkpoints: Checkpointer, conn: Conn, thread_ids: Sequence[UUID]) -> None:
    """Take the old checkpoints of threads that the caller's transaction holds. NotImplementedError as LangGraph's."""
    bound = TransactionCheckpoints(checkpoints, conn)
    await bound.aprune([str(thread_id) for thread_id in thread_ids], strategy="keep_latest")
