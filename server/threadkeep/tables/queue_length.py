"""Queue length: the number of pending runs of all principals and of one principal, for the quotas."""

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
