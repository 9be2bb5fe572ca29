"""Principal rows: counts the crons or assistants of a principal.

The count is exact under concurrency, because the transaction that adds a row holds an advisory lock of the principal.
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
    """Lock the principal against other new rows of the table, and count its rows."""
    await conn.execute(
        # Two principals with the same hash only wait for each other.
        "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s::text, 0))",
        {"name": f"threadkeep {table} {conn.project_id} {identity}"},
    )
    # A separate statement, so that it sees the rows of the transactions that held the lock before.
    cursor = await conn.execute(COUNTS[table], {"project": conn.project_id, "identity": identity})
    row = await cursor.fetchone()
    return row[0] if row else 0
