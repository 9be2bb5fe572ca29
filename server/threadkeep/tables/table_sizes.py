"""Table sizes: estimates, for the metrics. Nothing is counted: Postgres keeps these figures for its autovacuum."""

from typing import Final

from threadkeep.postgres.pool import Conn

MEASURED: Final = (
    "threads",
    "runs",
    "run_events",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "store",
    "crons",
    "assistants",
    "assistant_versions",
    "webhook_deliveries",
    "idempotency_keys",
)


async def read(conn: Conn) -> dict[str, int]:
    """The estimated rows of each table, by name, of all projects that share the database."""
    cursor = await conn.execute(
        """
        SELECT name, pg_stat_get_live_tuples(to_regclass(name))
          FROM unnest(%(names)s::text[]) AS name
         WHERE to_regclass(name) IS NOT NULL
        """,
        {"names": list(MEASURED)},
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}
