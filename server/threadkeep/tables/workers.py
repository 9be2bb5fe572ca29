"""Workers: one row a process, renewed by a heartbeat for all its runs at once. The row is the process's lease.

A process whose row is gone is dead to the others: its runs are put back, and whatever it still writes for them is
refused (`hold_lease`). A row that is gone never comes back. Only Postgres's clock is compared.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from threadkeep.postgres.pool import Conn


async def create(conn: Conn, worker_id: UUID) -> None:
    """Say that this process is there."""
    await conn.execute(
        """
        WITH witness AS (INSERT INTO witnesses (worker_id) VALUES (%(worker_id)s))
        INSERT INTO workers (worker_id) VALUES (%(worker_id)s)
        """,
        {"worker_id": worker_id},
    )


def renew(conn: Connection[Any], worker_id: UUID) -> bool:
    """Say that this process is still there; False where its lease is lost: the others took it for dead meanwhile, or
    Postgres crashed and may have lost what it wrote."""
    row = conn.execute(
        """
        UPDATE workers
           SET renewed_at = now()
         WHERE worker_id = %(worker_id)s AND EXISTS (SELECT FROM witnesses WHERE worker_id = %(worker_id)s)
        RETURNING true
        """,
        {"worker_id": worker_id},
    ).fetchone()
    return row is not None


def lease_lost(failure: BaseException) -> bool:
    """Whether it is the error of the function `hold_lease`, which a transaction for a run asks (`persistence/group_commit.py`)."""
    return isinstance(failure, psycopg.Error) and failure.sqlstate == "TK001"


async def delete(conn: Conn, worker_id: UUID) -> None:
    """Say that this process has gone."""
    await conn.execute(
        """
        WITH witness AS (DELETE FROM witnesses WHERE worker_id = %(worker_id)s)
        DELETE FROM workers WHERE worker_id = %(worker_id)s
        """,
        {"worker_id": worker_id},
    )


async def sweep(conn: Conn, own_id: UUID, lease_s: float) -> int:
    """Forget the other processes that have been silent for `lease_s` seconds; how many.

    One that writes at this moment is passed over, until its transaction has ended.
    """
    done = await conn.execute(
        """
        WITH silent AS (
            SELECT worker_id
              FROM workers
             WHERE renewed_at < now() - make_interval(secs => %(lease_s)s) AND worker_id <> %(own_id)s
               FOR UPDATE SKIP LOCKED
        ), witnesses_gone AS (
            DELETE FROM witnesses USING silent WHERE witnesses.worker_id = silent.worker_id
        )
        DELETE FROM workers USING silent WHERE workers.worker_id = silent.worker_id
        """,
        {"own_id": own_id, "lease_s": lease_s},
    )
    return done.rowcount


async def put_back(conn: Conn, worker_id: UUID) -> int:
    """Return this process's running runs to the queue, the attempt not counted: it is stopping. How many."""
    done = await conn.execute(
        """
        UPDATE runs
           SET status = 'pending', worker_id = NULL, attempt = greatest(attempt - 1, 0), kept = true, updated_at = now()
         WHERE worker_id = %(worker_id)s AND status = 'running'
        """,
        {"worker_id": worker_id},
    )
    if done.rowcount:
        await conn.execute("SELECT pg_notify('threadkeep', 'pending')")
    return done.rowcount


async def put_back_lost(conn: Conn, worker_id: UUID, executed: Sequence[UUID], grace_s: float) -> int:
    """Return to the queue what this process is said to run and does not: its end could not be written, or its
    beginning was not heard of. Only what began over `grace_s` seconds ago; how many."""
    done = await conn.execute(
        """
        UPDATE runs
           SET status = 'pending', worker_id = NULL, kept = true, updated_at = now()
         WHERE worker_id = %(worker_id)s AND status = 'running' AND run_id <> ALL(%(executed)s)
           AND started_at < now() - make_interval(secs => %(grace_s)s)
        """,
        {"worker_id": worker_id, "executed": list(executed), "grace_s": grace_s},
    )
    return done.rowcount


async def take_over(conn: Conn, max_attempts: int) -> Sequence[UUID]:
    """Put the runs of dead processes back in the queue, or end those that were tried often enough; which."""
    cursor = await conn.execute(
        """
        WITH orphans AS (
            SELECT run_id, thread_id, attempt
              FROM runs
             WHERE status = 'running'
               AND NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = runs.worker_id)
               FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE runs
               SET status      = CASE WHEN orphans.attempt >= %(max_attempts)s THEN 'error' ELSE 'pending' END,
                   finished_at = CASE WHEN orphans.attempt >= %(max_attempts)s THEN now() END,
                   error       = CASE WHEN orphans.attempt >= %(max_attempts)s THEN %(error)s END,
                   worker_id   = NULL,
                   kept        = true,
                   updated_at  = now()
              FROM orphans
             WHERE runs.run_id = orphans.run_id
            RETURNING runs.run_id, runs.thread_id, runs.status
        ), failed AS (
            UPDATE threads
               SET status = CASE WHEN EXISTS (SELECT FROM runs WHERE runs.thread_id = threads.thread_id
                                                AND runs.status = 'pending') THEN 'busy' ELSE 'error' END,
                   error = %(error)s, updated_at = now()
             WHERE thread_id IN (SELECT thread_id FROM moved WHERE status = 'error')
        )
        SELECT run_id, pg_notify('threadkeep', 'pending'), pg_notify('threadkeep', 'run:' || run_id) FROM moved
        """,
        {
            "max_attempts": max_attempts,
            "error": Jsonb({"error": "WorkerDied", "message": "the process died each time that it ran this"}),
        },
    )
    return [row[0] for row in await cursor.fetchall()]
