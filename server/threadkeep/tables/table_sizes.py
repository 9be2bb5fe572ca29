"""Table sizes: estimated row counts for the metrics. Postgres maintains these numbers for its autovacuum."""

from typing import Final

from threadkeep.postgres.pool import Conn

MEASURED: Final = (
    "threads",
    "runs",
    "run_events",
    "run_undo_log",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "store",
    "store_vectors",
    "store_item_counts",
    "crons",
    "assistants",
    "assistant_versions",
    "webhook_deliveries",
    "task_pushes",
    "idempotency_keys",
    "api_keys",
    "sealing_keys",
    "workers",
    "crash_markers",
)


async def read(conn: Conn) -> dict[str, int]:
    """The estimated number of rows by table, for all projects in the database."""
    # A count would read each table at every scrape of the metrics.
    cursor = await conn.execute(
        """
        SELECT name, pg_stat_get_live_tuples(to_regclass(name))
          FROM unnest(%(names)s::text[]) AS name
         WHERE to_regclass(name) IS NOT NULL -- without a vector index there is no store_vectors
        """,
        {"names": list(MEASURED)},
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}
