"""Idempotency keys: the results of requests by their key, so that a repeated request has no second effect.

The ids are reserved before the rows are created. The transaction that creates the rows also sets `completed`, and the
ids are primary keys. So crashes, hangs and races create nothing twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """The key of one request of a principal."""

    principal: str
    """Empty without authentication."""
    key: str
    request_sha256: bytes
    """The digest of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The reservation of a key by one request in one process."""

    reservation: UUID
    worker_id: UUID
    thread_ids: Sequence[UUID]
    result_ids: Sequence[UUID]
    reservation_s: float
    """Seconds after which another request may take it over. If the process is dead, it may do so at once."""
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """The stored request and result of a key."""

    request_sha256: bytes
    thread_ids: Sequence[UUID]
    result_ids: Sequence[UUID]
    completed: bool
    """The rows with these ids were created."""


async def reserve(conn: Conn, key: IdempotencyKey, reservation: Reservation) -> StoredKey | None:
    """Reserve a key that is free or abandoned. None if another request has reserved or completed it.

    An abandoned key keeps its ids. So if the first request still continues, only one of the two can create the rows.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(StoredKey))
    # A conflict locks the row, so one of two requests decides after the other. An expired key is free for any request,
    # and an abandoned one only for the same.
    await cursor.execute(
        """
        INSERT INTO idempotency_keys AS stored
               (project_id, principal, key, request_sha256, thread_ids, result_ids, reservation_id, worker_id,
                reserved_until, expires_at)
        VALUES (%(project)s, %(principal)s, %(key)s, %(request)s, %(thread_ids)s, %(ids)s, %(reservation)s,
                %(worker_id)s, now() + make_interval(secs => %(reservation_s)s), now() + make_interval(secs => %(ttl_s)s))
        ON CONFLICT (project_id, principal, key) DO UPDATE
           SET request_sha256 = EXCLUDED.request_sha256,
               thread_ids     = CASE WHEN stored.expires_at < now() THEN EXCLUDED.thread_ids ELSE stored.thread_ids END,
               result_ids     = CASE WHEN stored.expires_at < now() THEN EXCLUDED.result_ids ELSE stored.result_ids END,
               completed      = false,
               reservation_id = EXCLUDED.reservation_id,
               worker_id      = EXCLUDED.worker_id,
               reserved_until = EXCLUDED.reserved_until,
               expires_at     = EXCLUDED.expires_at
         WHERE stored.expires_at < now()
            OR (NOT stored.completed AND stored.request_sha256 = EXCLUDED.request_sha256
                AND (stored.reserved_until < now()
                     OR NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = stored.worker_id)))
        RETURNING request_sha256, thread_ids, result_ids, completed
        """,
        {
            "project": conn.project_id,
            "principal": key.principal,
            "key": key.key,
            "request": key.request_sha256,
            "thread_ids": list(reservation.thread_ids),
            "ids": list(reservation.result_ids),
            "reservation": reservation.reservation,
            "worker_id": reservation.worker_id,
            "reservation_s": reservation.reservation_s,
            "ttl_s": reservation.ttl_s,
        },
    )
    return await cursor.fetchone()


async def get(conn: Conn, key: IdempotencyKey) -> StoredKey | None:
    """The stored key. None if it is free."""
    cursor = conn.cursor(row_factory=rows.row_factory(StoredKey))
    await cursor.execute(
        """
        SELECT request_sha256, thread_ids, result_ids, completed
          FROM idempotency_keys
         WHERE project_id = %(project)s AND principal = %(principal)s AND key = %(key)s
        """,
        {"project": conn.project_id, "principal": key.principal, "key": key.key},
    )
    return await cursor.fetchone()


async def complete(conn: Conn, key: IdempotencyKey, run_id: UUID | None = None) -> None:
    """Mark the key as completed, in the transaction that creates its rows.

    With a `run_id` it is only completed if that run was created. An ephemeral thread of the key then exists as long as
    the key.
    """
    await conn.execute(
        """
        WITH completed AS (
            UPDATE idempotency_keys
               SET completed = true
             WHERE project_id = %(project)s AND principal = %(principal)s AND key = %(key)s
               AND (%(run_id)s::uuid IS NULL OR EXISTS (SELECT FROM runs WHERE run_id = %(run_id)s))
            RETURNING thread_ids, expires_at
        )
        UPDATE threads
           SET ephemeral_until = completed.expires_at
          FROM completed
         WHERE threads.thread_id = ANY(completed.thread_ids) AND threads.ephemeral_until IS NOT NULL
        """,
        {"project": conn.project_id, "principal": key.principal, "key": key.key, "run_id": run_id},
    )


async def release(conn: Conn, key: IdempotencyKey, reservation: UUID) -> None:
    """Release a key whose request created nothing."""
    await conn.execute(
        """
        DELETE FROM idempotency_keys
         WHERE project_id = %(project)s AND principal = %(principal)s AND key = %(key)s
           AND reservation_id = %(reservation)s AND NOT completed -- another request may have taken it over
        """,
        {"project": conn.project_id, "principal": key.principal, "key": key.key, "reservation": reservation},
    )


async def delete_expired(conn: Conn, limit: int) -> int:
    """Delete up to `limit` expired keys, and return their number."""
    cursor = await conn.execute(
        """
        DELETE FROM idempotency_keys
         WHERE (project_id, principal, key) IN (
            SELECT project_id, principal, key FROM idempotency_keys
             WHERE project_id = %(project)s AND expires_at < now()
             ORDER BY expires_at
             LIMIT %(limit)s
               FOR UPDATE SKIP LOCKED) -- processes clean up at the same time
        """,
        {"project": conn.project_id, "limit": limit},
    )
    return cursor.rowcount
