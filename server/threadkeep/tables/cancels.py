"""Cancels: runs told to stop, one, several, or all of a status.

One that waits ends at once. One that runs is marked, and its process, wherever it is, stops it and closes it.
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
    """Which runs: of a thread, by id, by status; None: whichever."""

    thread_id: UUID | None = None
    run_ids: Sequence[UUID] | None = None
    statuses: Sequence[str] = ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun:
    """A run that was told to stop. `was_running`: its process still has to close it."""

    run_id: UUID
    was_running: bool


async def cancel(
    pool: Pool, filters: Filters, target: RunSelection, action: CancelAction, reason: str
) -> list[CancelledRun]:
    """Cancel what `target` names and the caller may see, in one transaction; which runs that were."""
    async with pool.connection(filters) as conn:
        done = await conn.execute(
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
        return [CancelledRun(run_id=row[0], was_running=row[1]) for row in await done.fetchall()]


async def cancel_requests(
    conn: Conn, worker_id: UUID, run_ids: Sequence[UUID]
) -> Sequence[tuple[UUID, CancelAction, str]]:
    """Which of the runs that this process executes are to stop: id, action, reason. Those that are gone, too.

    Gone by a crash is not deleted: there the process has lost its lease as well, and with it its runs.
    """
    cursor = await conn.execute(
        """
        SELECT live.run_id, coalesce(runs.cancel_action, 'interrupt'),
               CASE WHEN runs.run_id IS NULL THEN 'the thread was deleted'
                    ELSE coalesce(runs.cancel_reason, 'cancelled') END
          FROM unnest(%(run_ids)s::uuid[]) AS live (run_id) LEFT JOIN runs ON runs.run_id = live.run_id
         WHERE (runs.run_id IS NULL AND EXISTS (SELECT FROM crash_markers WHERE worker_id = %(worker_id)s))
            OR (runs.worker_id = %(worker_id)s AND runs.status = 'running' AND runs.cancel_action IS NOT NULL)
        """,
        {"worker_id": worker_id, "run_ids": list(run_ids)},
    )
    return await cursor.fetchall()
