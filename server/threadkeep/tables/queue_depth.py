"""Queue depth: how much waits in the queue of all processes."""

from threadkeep.postgres.pool import Conn


async def queue_depth(conn: Conn) -> tuple[int, float]:
    """How many pending runs are due, and for how many seconds the first of them has been; one scan of a partial index."""
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
    """How many runs of this project are due whose graph no live process serves, by graph, the most first.

    The run of a cron counts as soon as the cron is due.
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
