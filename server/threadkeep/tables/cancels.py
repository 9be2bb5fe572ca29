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
class Target:
    """Which runs: of a thread, by id, by status; None: whichever."""

    thread_id: UUID | None = None
    run_ids: Sequence[UUID] | None = None
    statuses: Sequence[str] = ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """A run that was told to stop. `was_running`: its process still has to close it."""

    run_id: UUID
    was_running: bool


async def cancel(pool: Pool, filters: Filters, target: Target, action: CancelAction, reason: str) -> list[Cancelled]:
    """Cancel what `target` names and the caller may see, in one transaction; which runs that were."""
    parameters: dict[str, object] = {
        "thread_id": target.thread_id,
        "run_ids": None if target.run_ids is None else list(target.run_ids),
        "statuses": list(target.statuses),
        "action": action,
        "reason": reason,
        "match": filters.jsonb,
    }
    async with pool.pipeline(filters) as conn:
        await _lock(conn, parameters)
        done = await conn.execute(
            """
            WITH cancelled AS (
                UPDATE runs
                   SET status        = CASE runs.status WHEN 'pending' THEN 'interrupted' ELSE runs.status END,
                       finished_at   = CASE runs.status WHEN 'pending' THEN now() END,
                       cancel_action = %(action)s,
                       cancel_reason = %(reason)s,
                       updated_at    = now()
                  FROM threads
                 WHERE threads.thread_id = runs.thread_id AND threads.metadata @> %(match)s
                   AND (%(thread_id)s::uuid IS NULL OR runs.thread_id = %(thread_id)s)
                   AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s))
                   AND runs.status = ANY(%(statuses)s) AND runs.status IN ('pending', 'running')
                RETURNING run_id, runs.status = 'running' AS was_running
            )
            SELECT run_id, was_running,
                   pg_notify('threadkeep', 'run:' || run_id),
                   CASE WHEN was_running THEN pg_notify('threadkeep', 'cancel') END
              FROM cancelled
            """,
            parameters,
        )
        await _settle_threads(conn, parameters)
    return [Cancelled(run_id=row[0], was_running=row[1]) for row in await done.fetchall()]


async def _lock(conn: Conn, parameters: dict[str, object]) -> None:
    """Hold the rows of the threads concerned, in one order, so that two cancels can't wait for each other."""
    await conn.execute(
        """
        SELECT FROM threads
         WHERE metadata @> %(match)s
           AND thread_id IN (
            SELECT thread_id FROM runs
             WHERE status IN ('pending', 'running')
               AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
               AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s)))
         ORDER BY thread_id
           FOR UPDATE
        """,
        parameters,
    )


async def _settle_threads(conn: Conn, parameters: dict[str, object]) -> None:
    """A thread on which nothing runs or waits any more shows what it held before; rolled back runs leave no row."""
    await conn.execute(
        """
        UPDATE threads
           SET status = CASE WHEN interrupts <> '{}' THEN 'interrupted' WHEN error IS NOT NULL THEN 'error' ELSE 'idle' END,
               updated_at = now()
         WHERE status = 'busy' AND metadata @> %(match)s
           AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
           AND (%(run_ids)s::uuid[] IS NULL
                OR thread_id IN (SELECT thread_id FROM runs WHERE run_id = ANY(%(run_ids)s)))
           AND NOT EXISTS (SELECT FROM runs
                            WHERE runs.thread_id = threads.thread_id AND runs.status IN ('pending', 'running'))
        """,
        parameters,
    )
    await conn.execute(
        """
        DELETE FROM runs
         WHERE %(action)s = 'rollback' AND cancel_action = 'rollback' AND started_at IS NULL
           AND status = 'interrupted'
           AND EXISTS (SELECT FROM threads WHERE threads.thread_id = runs.thread_id AND threads.metadata @> %(match)s)
           AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
           AND (%(run_ids)s::uuid[] IS NULL OR run_id = ANY(%(run_ids)s))
        """,
        parameters,
    )


async def wanted(conn: Conn, worker_id: UUID, run_ids: Sequence[UUID]) -> Sequence[tuple[UUID, CancelAction, str]]:
    """Which of the runs that this process executes are to stop: id, action, reason. Those that are gone, too.

    Gone by a crash is not deleted: there the process has lost its lease as well, and with it its runs.
    """
    cursor = await conn.execute(
        """
        SELECT live.run_id, coalesce(runs.cancel_action, 'interrupt'),
               CASE WHEN runs.run_id IS NULL THEN 'the thread was deleted'
                    ELSE coalesce(runs.cancel_reason, 'cancelled') END
          FROM unnest(%(run_ids)s::uuid[]) AS live (run_id) LEFT JOIN runs ON runs.run_id = live.run_id
         WHERE (runs.run_id IS NULL AND EXISTS (SELECT FROM witnesses WHERE worker_id = %(worker_id)s))
            OR (runs.worker_id = %(worker_id)s AND runs.status = 'running' AND runs.cancel_action IS NOT NULL)
        """,
        {"worker_id": worker_id, "run_ids": list(run_ids)},
    )
    return await cursor.fetchall()


async def tell_of_deletion(conn: Conn, thread_ids: Sequence[UUID]) -> None:
    """Wake those who execute or follow runs of threads that this transaction deletes: they will find them gone."""
    await conn.execute(
        """
        SELECT pg_notify('threadkeep', 'run:' || run_id),
               CASE WHEN status = 'running' THEN pg_notify('threadkeep', 'cancel') END
          FROM runs
         WHERE thread_id = ANY(%(thread_ids)s) AND status IN ('pending', 'running')
        """,
        {"thread_ids": list(thread_ids)},
    )
