"""Expiry: threads whose time to live is over. It counts from `updated_at`, and a busy thread's is never over.

What decides stands in the thread's own row, so that it is read again once the row is locked.
"""

from collections.abc import Sequence
from uuid import UUID

from threadkeep.postgres.pool import Conn


async def lock_expired(conn: Conn, strategy: str, limit: int) -> list[UUID]:
    """Up to `limit` threads that are due, the oldest first; other replicas pass them over until the transaction ends.

    A thread whose old checkpoints are gone (`keep_latest`) is due again when it was touched since.
    """
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE project_id = %(project)s AND ttl_strategy = %(strategy)s AND expires_at < now() AND status <> 'busy'
           AND (ttl_pruned_at IS NULL OR ttl_pruned_at < updated_at)
         ORDER BY expires_at
         LIMIT %(limit)s
           FOR UPDATE SKIP LOCKED
        """,
        {"project": conn.project_id, "strategy": strategy, "limit": limit},
    )
    return [row[0] for row in await cursor.fetchall()]


async def lock_ephemeral(conn: Conn, limit: int) -> list[UUID]:
    """Up to `limit` temporary threads that are no longer needed, likewise. One with a webhook still to be sent stays."""
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
    """Keep for `ttl_s` seconds more the temporary threads that somebody follows: by a topic of theirs, or of a run."""
    await conn.execute(
        """
        WITH followed AS (
            SELECT thread_id FROM runs WHERE run_id = ANY(%(run_ids)s)
             UNION
            SELECT unnest(%(thread_ids)s::uuid[])
        ), kept AS (
            SELECT thread_id
              FROM threads
              JOIN followed USING (thread_id)
             WHERE project_id = %(project)s AND ephemeral_until < now() + make_interval(secs => %(ttl_s)s)
               FOR UPDATE OF threads SKIP LOCKED
        )
        UPDATE threads
           SET ephemeral_until = now() + make_interval(secs => %(ttl_s)s)
          FROM kept
         WHERE threads.thread_id = kept.thread_id
        """,
        {
            "run_ids": _ids(topics, "run:"),
            "thread_ids": _ids(topics, "thread:"),
            "project": conn.project_id,
            "ttl_s": ttl_s,
        },
    )


def _ids(topics: Sequence[str], prefix: str) -> list[UUID]:
    return [UUID(topic.removeprefix(prefix)) for topic in topics if topic.startswith(prefix)]


async def mark_pruned(conn: Conn, thread_ids: Sequence[UUID]) -> None:
    """Say that the threads have had their due."""
    await conn.execute(
        "UPDATE threads SET ttl_pruned_at = now() WHERE thread_id = ANY(%(thread_ids)s)",
        {"thread_ids": list(thread_ids)},
    )
