"""Queue depth: the number of pending runs, for the metrics and the quotas."""

from dataclasses import dataclass

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn


@dataclass(slots=True, kw_only=True)
class PendingCounts:
    """A count of pending runs. The caller adds the runs that it admits."""

    total: int
    """The runs of all principals, counted up to `at_most`."""
    principal: int


async def count_pending(conn: Conn, identity: str | None, *, at_most: int) -> PendingCounts:
    """Count the pending runs. The index `runs_pending_principal` finds those of the principal."""
    cursor = conn.cursor(row_factory=rows.row_factory(PendingCounts))
    # The total is counted only up to a limit, because a backlog may have millions of runs.
    await cursor.execute(
        """
        SELECT (SELECT count(*)
                  FROM (SELECT FROM runs
                         WHERE project_id = %(project)s AND status = 'pending' LIMIT %(at_most)s) AS waiting) AS total,
               (SELECT count(*)
                  FROM runs
                 WHERE project_id = %(project)s AND status = 'pending'
                   AND coalesce(principal ->> 'identity', '') = %(identity)s::text) AS principal
        """,
        {"project": conn.project_id, "identity": identity, "at_most": at_most},
    )
    return await cursor.fetchone() or PendingCounts(total=0, principal=0)


async def queue_depth(conn: Conn) -> tuple[int, float]:
    """The number of due runs, and the seconds that the first has been due. It scans a partial index once."""
    cursor = await conn.execute(
        """
        SELECT count(*), coalesce(extract(epoch FROM now() - min(run_after)), 0)::float
          FROM runs
         WHERE project_id = %(project)s AND status = 'pending' AND run_after <= now()
        """,
        {"project": conn.project_id},
    )
    row = await cursor.fetchone()
    return (row[0], row[1]) if row else (0, 0.0)


async def unserved(conn: Conn, *, limit: int) -> dict[str, int]:
    """The number of due runs by graph, for graphs that no live process serves, the most first.

    A due cron counts as a run.
    """
    # No process fires the crons of a graph that none serves, so they stay due.
    cursor = await conn.execute(
        """
        SELECT graph_id, count(*)
          FROM (
            SELECT graph_id
              FROM runs
             WHERE project_id = %(project)s AND status = 'pending' AND run_after <= now()
             UNION ALL
            SELECT graph_id
              FROM crons JOIN assistants USING (project_id, assistant_id)
             WHERE project_id = %(project)s AND enabled AND next_run_date <= now()
          ) AS due
         GROUP BY graph_id
        HAVING NOT EXISTS (SELECT FROM workers WHERE project_id = %(project)s AND due.graph_id = ANY(graph_ids))
         ORDER BY count(*) DESC, graph_id
         LIMIT %(limit)s
        """,
        {"project": conn.project_id, "limit": limit},
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}
