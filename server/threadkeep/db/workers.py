"""Workers: one row a process, renewed by a heartbeat for all its runs at once.

A process whose row is gone is dead to the others: its runs are put back. Only Postgres's clock is compared.
"""

from typing import Any
from uuid import UUID

from psycopg import Connection

from threadkeep.db.pool import Conn


async def create(conn: Conn, worker_id: UUID) -> None:
    """Say that this process is there."""
    await conn.execute("INSERT INTO workers (worker_id) VALUES (%(worker_id)s)", {"worker_id": worker_id})


def renew(conn: Connection[Any], worker_id: UUID) -> bool:
    """Say that this process is still there; False where the others took it for dead meanwhile."""
    row = conn.execute(
        """
        INSERT INTO workers (worker_id) VALUES (%(worker_id)s)
        ON CONFLICT (worker_id) DO UPDATE SET renewed_at = now()
        RETURNING xmax <> 0
        """,
        {"worker_id": worker_id},
    ).fetchone()
    return bool(row and row[0])


def delete(conn: Connection[Any], worker_id: UUID) -> None:
    """Say that this process has gone."""
    conn.execute("DELETE FROM workers WHERE worker_id = %(worker_id)s", {"worker_id": worker_id})


async def sweep(conn: Conn, lease_s: float) -> int:
    """Forget the processes that have been silent for `lease_s` seconds; how many."""
    done = await conn.execute(
        "DELETE FROM workers WHERE renewed_at < now() - make_interval(secs => %(lease_s)s)", {"lease_s": lease_s}
    )
    return done.rowcount
