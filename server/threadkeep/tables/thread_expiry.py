"""Thread expiry: locks threads whose time to live has ended. It starts at `updated_at`. Busy threads never expire.

The conditions use only columns of the thread's own row, because Postgres checks these again after it locks the row.
"""

from collections.abc import Sequence
from uuid import UUID

from threadkeep.postgres.pool import Conn


async def lock_expired(conn: Conn, strategy: str, limit: int) -> list[UUID]:
    """Lock up to `limit` expired threads, the oldest first. Other processes skip them until the transaction ends.

    A pruned thread (`keep_latest`) expires again only after a later update.
    """
    # As strong as the lock of `delete_threads`, which may follow in this transaction.
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE project_id = %(project)s AND ttl_strategy = %(strategy)s AND expires_at < now() AND status <> 'busy'
           AND (ttl_pruned_at IS NULL OR ttl_pruned_at < updated_at) -- pruning does not change `updated_at`
         ORDER BY expires_at
         LIMIT %(limit)s
           FOR UPDATE SKIP LOCKED
        """,
        {"project": conn.project_id, "strategy": strategy, "limit": limit},
    )
    return [row[0] for row in await cursor.fetchall()]


async def lock_ephemeral(conn: Conn, limit: int) -> list[UUID]:
    """Lock up to `limit` expired ephemeral threads, in the same way. A thread with an unsent webhook is skipped."""
    # A delivery is inserted by the end of a run. Before that the thread is busy, so this condition needs no second
    # check.
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE project_id = %(project)s AND ephemeral_until < now() AND status <> 'busy'
           AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE webhook_deliveries.thread_id = threads.thread_id)
         ORDER BY ephemeral_until
         LIMIT %(limit)s
           FOR UPDATE SKIP LOCKED
        """,
        {"project": conn.project_id, "limit": limit},
    )
    return [row[0] for row in await cursor.fetchall()]


async def keep_temporary(conn: Conn, topics: Sequence[str], ttl_s: float) -> None:
    """Extend the followed ephemeral threads by `ttl_s` seconds. `topics` are the topics of their readers."""
    await conn.execute(
        """
        WITH followed AS (
            SELECT thread_id FROM runs WHERE run_id = ANY(%(run_ids)s)
             UNION
            SELECT unnest(%(thread_ids)s::uuid[])
        ), extended AS (
            SELECT thread_id
              FROM threads
              JOIN followed USING (thread_id)
             WHERE project_id = %(project)s AND ephemeral_until < now() + make_interval(secs => %(ttl_s)s)
               FOR UPDATE OF threads SKIP LOCKED -- the next round extends a locked one
        )
        UPDATE threads
           SET ephemeral_until = now() + make_interval(secs => %(ttl_s)s)
          FROM extended
         WHERE threads.thread_id = extended.thread_id
        """,
        {
            "run_ids": _ids(topics, "run:"),  # only readers subscribe to these topics
            "thread_ids": _ids(topics, "thread:"),
            "project": conn.project_id,
            "ttl_s": ttl_s,
        },
    )


def _ids(topics: Sequence[str], prefix: str) -> list[UUID]:
    return [UUID(topic.removeprefix(prefix)) for topic in topics if topic.startswith(prefix)]


async def mark_pruned(conn: Conn, thread_ids: Sequence[UUID]) -> None:
    """Record that the threads were pruned."""
    await conn.execute(
        "UPDATE threads SET ttl_pruned_at = now() WHERE thread_id = ANY(%(thread_ids)s)",
        {"thread_ids": list(thread_ids)},
    )
