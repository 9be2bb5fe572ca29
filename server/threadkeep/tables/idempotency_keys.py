"""Idempotency keys: what a request that names one has made, so that the same request again makes nothing more.

The ids are chosen before anything is made. `completed` is set in the transaction that makes it, and the ids are primary
keys: whoever dies, hangs or races in between, nothing is made twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A key as a principal sent it with one request."""

    principal: str
    """Empty while there is no authentication."""
    key: str
    request_sha256: bytes
    """A digest of what is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A claim on a key, by one request in one process."""

    reservation: UUID
    worker_id: UUID
    thread_ids: Sequence[UUID]
    result_ids: Sequence[UUID]
    reservation_s: float
    """After so long another request may take it over; at once where the process is dead."""
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """What a key stands for."""

    request_sha256: bytes
    thread_ids: Sequence[UUID]
    result_ids: Sequence[UUID]
    completed: bool
    """It has been made."""


async def reserve(conn: Conn, key: IdempotencyKey, wanted: Reservation) -> StoredKey | None:
    """Take a key that is free, or that whoever took it has left; None where it is another's or was used.

    One that was left keeps its ids, so that if its first taker makes something after all, only one of the two can.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(StoredKey))
    await cursor.execute(
        """
        INSERT INTO idempotency_keys AS held
               (project_id, principal, key, request_sha256, thread_ids, result_ids, reservation_id, worker_id,
                reserved_until, expires_at)
        VALUES (%(project)s, %(principal)s, %(key)s, %(request)s, %(thread_ids)s, %(ids)s, %(reservation)s,
                %(worker_id)s, now() + make_interval(secs => %(reservation_s)s), now() + make_interval(secs => %(ttl_s)s))
        ON CONFLICT (project_id, principal, key) DO UPDATE
           SET request_sha256 = EXCLUDED.request_sha256,
               thread_ids     = CASE WHEN held.expires_at < now() THEN EXCLUDED.thread_ids ELSE held.thread_ids END,
               result_ids     = CASE WHEN held.expires_at < now() THEN EXCLUDED.result_ids ELSE held.result_ids END,
               completed      = false,
               reservation_id = EXCLUDED.reservation_id,
               worker_id      = EXCLUDED.worker_id,
               reserved_until = EXCLUDED.reserved_until,
               expires_at     = EXCLUDED.expires_at
         WHERE held.expires_at < now()
            OR (NOT held.completed AND held.request_sha256 = EXCLUDED.request_sha256
                AND (held.reserved_until < now()
                     OR NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = held.worker_id)))
        RETURNING request_sha256, thread_ids, result_ids, completed
        """,
        {
            "project": conn.project_id,
            "principal": key.principal,
            "key": key.key,
            "request": key.request_sha256,
            "thread_ids": list(wanted.thread_ids),
            "ids": list(wanted.result_ids),
            "reservation": wanted.reservation,
            "worker_id": wanted.worker_id,
            "reservation_s": wanted.reservation_s,
            "ttl_s": wanted.ttl_s,
        },
    )
    return await cursor.fetchone()


async def get(conn: Conn, key: IdempotencyKey) -> StoredKey | None:
    """What the key stands for; None where it is free."""
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
    """Say, in the transaction that makes it, that it is made: the run, if it was let in, or whatever else.

    A thread that was made for the run alone then stays as long as the key.
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
    """Give back a key with which nothing was made."""
    await conn.execute(
        """
        DELETE FROM idempotency_keys
         WHERE project_id = %(project)s AND principal = %(principal)s AND key = %(key)s
           AND reservation_id = %(reservation)s AND NOT completed
        """,
        {"project": conn.project_id, "principal": key.principal, "key": key.key, "reservation": reservation},
    )


async def delete_expired(conn: Conn, limit: int) -> int:
    """Forget up to `limit` keys whose time is over; how many."""
    done = await conn.execute(
        """
        DELETE FROM idempotency_keys
         WHERE (project_id, principal, key) IN (
            SELECT project_id, principal, key FROM idempotency_keys
             WHERE project_id = %(project)s AND expires_at < now()
             ORDER BY expires_at
             LIMIT %(limit)s
               FOR UPDATE SKIP LOCKED)
        """,
        {"project": conn.project_id, "limit": limit},
    )
    return done.rowcount
