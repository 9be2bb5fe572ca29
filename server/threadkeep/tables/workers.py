"""Workers: one row a process, renewed by a heartbeat for all its runs at once. The row is the process's lease.

A process whose row is gone is dead to the others: its runs are put back, and whatever it still writes for them is
refused (`check_leases`). A row that is gone never comes back. Only Postgres's clock is compared.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from threadkeep.postgres.pool import Conn


async def create(conn: Conn, worker_id: UUID, graph_ids: Iterable[str]) -> None:
    """Say that this process is there, and which graphs it serves."""
    await conn.execute(
        """
        WITH marker AS (INSERT INTO crash_markers (worker_id) VALUES (%(worker_id)s))
        INSERT INTO workers (worker_id, project_id, graph_ids) VALUES (%(worker_id)s, %(project)s, %(graph_ids)s)
        """,
        {"worker_id": worker_id, "project": conn.project_id, "graph_ids": list(graph_ids)},
    )


def renew(conn: Connection[Any], worker_id: UUID) -> bool:
    """Say that this process is still there; False where its lease is lost: the others took it for dead meanwhile, or
    Postgres crashed and may have lost what it wrote."""
    row = conn.execute(
        """
        UPDATE workers
           SET heartbeat_at = now()
         WHERE worker_id = %(worker_id)s AND EXISTS (SELECT FROM crash_markers WHERE worker_id = %(worker_id)s)
        RETURNING true
        """,
        {"worker_id": worker_id},
    ).fetchone()
    return row is not None


def is_lease_lost(failure: BaseException) -> bool:
    """Whether Postgres refused a write because the process has lost its lease (function `check_leases`)."""
    return isinstance(failure, psycopg.Error) and failure.sqlstate == "TK001"


def is_fenced(failure: BaseException) -> bool:
    """Whether Postgres refused a write because the process does not execute the run any more (function `check_leases`).

    The lease is lost, or the run alone: it was deleted with its thread, has ended, or was put back in the queue.
    """
    return isinstance(failure, psycopg.Error) and failure.sqlstate in {"TK001", "TK002"}


async def delete(conn: Conn, worker_id: UUID) -> None:
    """Say that this process has gone."""
    await conn.execute(
        """
        WITH marker AS (DELETE FROM crash_markers WHERE worker_id = %(worker_id)s)
        DELETE FROM workers WHERE worker_id = %(worker_id)s
        """,
        {"worker_id": worker_id},
    )


async def delete_expired(conn: Conn, own_id: UUID, lease_s: float) -> int:
    """Forget the project's other processes that have been silent for `lease_s` seconds; how many.

    One that writes at this moment is passed over, until its transaction has ended.
    """
    done = await conn.execute(
        """
        WITH silent AS (
            SELECT worker_id
              FROM workers
             WHERE project_id = %(project)s AND heartbeat_at < now() - make_interval(secs => %(lease_s)s)
               AND worker_id <> %(own_id)s
               FOR UPDATE SKIP LOCKED
        ), markers_gone AS (
            DELETE FROM crash_markers USING silent WHERE crash_markers.worker_id = silent.worker_id
        )
        DELETE FROM workers USING silent WHERE workers.worker_id = silent.worker_id
        """,
        {"project": conn.project_id, "own_id": own_id, "lease_s": lease_s},
    )
    return done.rowcount


async def requeue_runs(conn: Conn, worker_id: UUID) -> int:
    """Return this process's running runs to the queue, the attempt not counted: it is stopping. How many."""
    cursor = await conn.execute("SELECT requeue_runs(%(worker_id)s, '{}', 0, false)", {"worker_id": worker_id})
    row = await cursor.fetchone()
    return row[0] if row else 0


async def requeue_orphaned_runs(conn: Conn, worker_id: UUID, executed: Sequence[UUID], grace_s: float) -> int:
    """Return to the queue what this process is said to run and does not: its end could not be written, or its
    beginning was not heard of. Only what began over `grace_s` seconds ago; how many."""
    cursor = await conn.execute(
        "SELECT requeue_runs(%(worker_id)s, %(executed)s::uuid[], %(grace_s)s, true)",
        {"worker_id": worker_id, "executed": list(executed), "grace_s": grace_s},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def recover_runs(conn: Conn, max_attempts: int) -> Sequence[UUID]:
    """Put the project's runs of dead processes back in the queue, or end those that were tried often enough; which."""
    cursor = await conn.execute(
        "SELECT recover_runs(%(project)s, %(max_attempts)s, %(error)s)",
        {
            "project": conn.project_id,
            "max_attempts": max_attempts,
            "error": Jsonb({"error": "WorkerDied", "message": "the process died each time that it ran this"}),
        },
    )
    return [row[0] for row in await cursor.fetchall()]
