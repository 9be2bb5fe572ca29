"""Cancels: stops runs by id, by thread or by status.

A pending run ends at once. A running run gets a cancel request, and its process stops and finishes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.runs import CancelAction

ACTIVE = ("pending", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSelection:
    """Selects runs by thread, id and status. None selects all."""

    thread_id: UUID | None = None
    run_ids: Sequence[UUID] | None = None
    statuses: Sequence[str] = ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun:
    """A cancelled run. `was_running`: its process still has to finish it."""

    run_id: UUID
    was_running: bool


async def cancel(
    pool: Pool, filters: Filters, target: RunSelection, action: CancelAction, reason: str
) -> list[CancelledRun]:
    """Cancel the selected runs that the caller may see, in one transaction. Returns the cancelled runs."""
    async with pool.connection(filters) as conn:
        cursor = await conn.execute(
            """
            SELECT run_id, was_running
              FROM cancel_runs(of_project => %(project)s, of_thread => %(thread_id)s::uuid,
                               run_ids => %(run_ids)s::uuid[], statuses => %(statuses)s::text[], action => %(action)s,
                               reason => %(reason)s, match => %(match)s)
            """,
            {
                "thread_id": target.thread_id,
                "run_ids": None if target.run_ids is None else list(target.run_ids),
                "statuses": list(target.statuses),
                "action": action,
                "reason": reason,
                "project": conn.project_id,
                "match": filters.jsonb,
            },
        )
        cancelled = [CancelledRun(run_id=row[0], was_running=row[1]) for row in await cursor.fetchall()]
        for run in cancelled:
            # A pending run that is rolled back has no row any more, which would say whose it was.
            conn.note_change(target.thread_id, None if action == "rollback" else run.run_id)
        return cancelled


async def cancel_requests(
    conn: Conn, worker_id: UUID, run_ids: Sequence[UUID]
) -> Sequence[tuple[UUID, CancelAction, str]]:
    """The id, action and reason of each run of this process that must stop. Deleted runs are included.

    A run that a crash of Postgres lost does not count as deleted. The process has then also lost its lease.
    """
    cursor = await conn.execute(
        """
        SELECT live.run_id, coalesce(runs.cancel_action, 'interrupt'),
               CASE WHEN runs.run_id IS NULL THEN 'the thread was deleted'
                    ELSE coalesce(runs.cancel_reason, 'cancelled') END
          FROM unnest(%(run_ids)s::uuid[]) AS live (run_id) LEFT JOIN runs ON runs.run_id = live.run_id -- for deleted runs
         WHERE (runs.run_id IS NULL AND EXISTS (SELECT FROM crash_markers WHERE worker_id = %(worker_id)s))
            OR (runs.worker_id = %(worker_id)s AND runs.status = 'running' AND runs.cancel_action IS NOT NULL)
        """,
        {"worker_id": worker_id, "run_ids": list(run_ids)},
    )
    return await cursor.fetchall()
