"""Queue depth: how much waits in the queue of all processes."""

from threadkeep.postgres.pool import Conn


async def read(conn: Conn) -> tuple[int, float]:
    """How many pending runs are due, and for how many seconds the first of them has been; one scan of a partial index."""
    cursor = await conn.execute(
        """
        SELECT count(*), coalesce(extract(epoch FROM now() - min(run_after)), 0)::float
          FROM runs
         WHERE status = 'pending' AND run_after <= now()
        """
    )
    row = await cursor.fetchone()
    return (row[0], row[1]) if row else (0, 0.0)
