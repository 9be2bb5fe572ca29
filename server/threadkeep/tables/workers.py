"""Workers: one row for each process, which is the lease for all its runs. A heartbeat renews it. Also the fencing.

If the row is deleted, the other processes consider the process dead. Its runs return to the queue, and its later writes
for them are refused (`check_leases`). A deleted row never returns. Only the clock of Postgres is used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn

MAX_LISTED: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """A process that serves the project."""

    worker_id: UUID
    """Its lease. A process that lost its lease continues with another id."""
    started_at: datetime
    """When it took this lease."""
    heartbeat_at: datetime
    heartbeat_age_s: float
    """Seconds since its last heartbeat, by the clock of Postgres."""
    graph_ids: Sequence[str]
    """The graphs that it runs. Empty: it has the role `api`."""
    run_slots: int | None
    """Graphs that it runs at once. null: a process of an earlier version."""
    running: int
    """Its runs that have a row. Runs without a thread may have none."""


async def search(conn: Conn) -> list[WorkerProcess]:
    """The project's processes, the oldest first."""
    cursor = conn.cursor(row_factory=rows.row_factory(WorkerProcess))
    await cursor.execute(
        """
        SELECT worker_id, started_at, heartbeat_at, graph_ids, run_slots,
               greatest(extract(epoch FROM clock_timestamp() - heartbeat_at), 0)::float AS heartbeat_age_s,
               (SELECT count(*) FROM runs WHERE runs.worker_id = workers.worker_id AND status = 'running') AS running
          FROM workers
         WHERE project_id = %(project)s
         ORDER BY started_at, worker_id
         LIMIT %(limit)s
        """,
        {"project": conn.project_id, "limit": MAX_LISTED},
    )
    return await cursor.fetchall()


async def executed_graphs(conn: Conn) -> set[str]:
    """The graphs of the project whose runs a live process claims."""
    # A process of the role `api` has no graphs, so `unnest` returns no row for it.
    cursor = await conn.execute(
        "SELECT DISTINCT unnest(graph_ids) FROM workers WHERE project_id = %(project)s", {"project": conn.project_id}
    )
    return {row[0] for row in await cursor.fetchall()}


async def any_lives(conn: Conn, worker_ids: Sequence[UUID]) -> bool:
    """Whether one of these processes has a row: it runs, or has been silent for less than its lease."""
    cursor = await conn.execute(
        "SELECT EXISTS (SELECT FROM workers WHERE worker_id = ANY(%(worker_ids)s))", {"worker_ids": list(worker_ids)}
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def create(conn: Conn, worker_id: UUID, graph_ids: Iterable[str], *, run_slots: int | None = None) -> None:
    """Insert the row of this process, with the graphs whose runs it claims, and how many it runs at once."""
    await conn.execute(
        """
        WITH marker AS (INSERT INTO crash_markers (worker_id) VALUES (%(worker_id)s)) -- never one row without the other
        INSERT INTO workers (worker_id, project_id, graph_ids, run_slots)
        VALUES (%(worker_id)s, %(project)s, %(graph_ids)s, %(run_slots)s)
        """,
        {
            "worker_id": worker_id,
            "project": conn.project_id,
            "graph_ids": list(graph_ids),
            "run_slots": run_slots,
        },
    )


def renew(conn: Connection[Any], worker_id: UUID) -> bool:
    """Renew the lease of this process. False if it is lost.

    It is lost if another process deleted it, or if Postgres crashed and may have lost the latest writes.
    """
    # The heartbeat has a thread and a connection of its own, so a graph that blocks the event loop does not stop it.
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
    # psycopg has no classes for SQLSTATEs of our own.
    return isinstance(failure, psycopg.Error) and failure.sqlstate == "TK001"


def is_fenced(failure: BaseException) -> bool:
    """Whether Postgres refused a write because this process no longer owns the run (function `check_leases`).

    Either the lease is lost, or only the run: it was deleted with its thread, has ended, or returned to the queue.
    """
    return isinstance(failure, psycopg.Error) and failure.sqlstate in {"TK001", "TK002"}


async def delete(conn: Conn, worker_id: UUID) -> None:
    """Delete the row of this process, because it stops."""
    await conn.execute(
        """
        WITH marker AS (DELETE FROM crash_markers WHERE worker_id = %(worker_id)s)
        DELETE FROM workers WHERE worker_id = %(worker_id)s
        """,
        {"worker_id": worker_id},
    )


async def delete_expired(conn: Conn, own_id: UUID, lease_s: float) -> int:
    """Delete the project's other processes without a heartbeat for `lease_s` seconds. Returns their number.

    A process that is writing is skipped until its transaction has ended.
    """
    cursor = await conn.execute(
        """
        WITH silent AS (
            SELECT worker_id
              FROM workers
             WHERE project_id = %(project)s AND heartbeat_at < now() - make_interval(secs => %(lease_s)s)
               AND worker_id <> %(own_id)s
               FOR UPDATE SKIP LOCKED -- a transaction that writes for a run holds KEY SHARE (`check_leases`)
        ), markers_gone AS (
            DELETE FROM crash_markers USING silent WHERE crash_markers.worker_id = silent.worker_id
        )
        DELETE FROM workers USING silent WHERE workers.worker_id = silent.worker_id
        """,
        {"project": conn.project_id, "own_id": own_id, "lease_s": lease_s},
    )
    return cursor.rowcount


async def requeue_runs(conn: Conn, worker_id: UUID) -> int:
    """Return the running runs of a stopping process to the queue. The attempt does not count. Returns their number."""
    # The process has stopped its graphs: no run is executed any more, and none needs a grace period.
    cursor = await conn.execute("SELECT requeue_runs(%(worker_id)s, '{}', 0, false)", {"worker_id": worker_id})
    row = await cursor.fetchone()
    return _note_requeued(conn, row[0] if row else 0)


async def requeue_orphaned_runs(conn: Conn, worker_id: UUID, executed: Sequence[UUID], grace_s: float) -> int:
    """Return runs to the queue that are `running` here but not in `executed`. Returns their number.

    Their result could not be written, or the reply to their creation was lost. Only runs that started over `grace_s`
    seconds ago are returned.
    """
    cursor = await conn.execute(
        # A run that was claimed a moment ago is not in `executed` yet, so it gets a grace period.
        "SELECT requeue_runs(%(worker_id)s, %(executed)s::uuid[], %(grace_s)s, true)",
        {"worker_id": worker_id, "executed": list(executed), "grace_s": grace_s},
    )
    row = await cursor.fetchone()
    return _note_requeued(conn, row[0] if row else 0)


def _note_requeued(conn: Conn, runs: int) -> int:
    """Announce to the change streams that some runs were requeued. Returns their number."""
    # The function returns no ids. A note without ids is a gap, after which clients read their lists again.
    if runs:
        conn.note_change()
    return runs


async def recover_runs(conn: Conn, max_attempts: int) -> Sequence[UUID]:
    """Return the runs of dead processes to the queue, or end them after `max_attempts` attempts. Returns their ids."""
    cursor = await conn.execute(
        "SELECT recover_runs(%(project)s, %(max_attempts)s, %(error)s)",
        {
            "project": conn.project_id,
            "max_attempts": max_attempts,
            "error": Jsonb({"error": "WorkerDied", "message": "the process died each time that it ran this"}),
        },
    )
    recovered = [row[0] for row in await cursor.fetchall()]
    for run_id in recovered:
        conn.note_change(run_id=run_id)
    return recovered
