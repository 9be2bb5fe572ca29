"""Principal rows: how many crons or assistants a principal has, of whatever process.

The count is exact under concurrency: an advisory lock of the principal is held until the transaction ends that creates
one more.
"""

from collections.abc import Mapping
from typing import Final, Literal, LiteralString, TypeAlias

from threadkeep.postgres.pool import Conn

CappedTable: TypeAlias = Literal["crons", "assistants"]
COUNTS: Final[Mapping[CappedTable, LiteralString]] = {
    "crons": """
        SELECT count(*)
          FROM crons
         WHERE project_id = %(project)s AND principal ->> 'identity' = %(identity)s::text
        """,
    "assistants": """
        SELECT count(*)
          FROM assistants
         WHERE project_id = %(project)s AND principal = %(identity)s::text
        """,
}


async def lock_and_count(conn: Conn, table: CappedTable, identity: str) -> int:
    """Wait until nobody else creates a row of the table for the principal, and count those that there are."""
    await conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s::text, 0))",
        {"name": f"threadkeep {table} {conn.project_id} {identity}"},
    )
    # A statement of its own: it sees the rows of those who held the lock before.
    cursor = await conn.execute(COUNTS[table], {"project": conn.project_id, "identity": identity})
    row = await cursor.fetchone()
    return row[0] if row else 0
