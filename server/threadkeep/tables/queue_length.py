"""Backlog: how many runs wait in the queue, of all and of one principal."""

from dataclasses import dataclass

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn


@dataclass(slots=True, kw_only=True)
class PendingCounts:
    """A count, to which whoever has made it adds what it lets in."""

    total: int
    """Of all principals; no more is counted than was asked for."""
    principal: int


async def count_pending(conn: Conn, identity: str | None, *, at_most: int) -> PendingCounts:
    """The runs that wait for their turn; the principal's own by the index `runs_pending_principal`."""
    cursor = conn.cursor(row_factory=rows.row_factory(PendingCounts))
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
