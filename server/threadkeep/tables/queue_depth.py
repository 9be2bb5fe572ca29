"""Queue depth: the pending runs of all processes, for the metrics."""

from threadkeep.postgres.pool import Conn


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
