"""Schema: docs/schema.sql is what the migrations make."""

import anyio.to_thread
from anyio import Path

import schema


async def test_the_schema_in_the_docs_is_that_of_a_migrated_database(database: str) -> None:
    """Ours: a migration comes with `make schema`, so that the tables can be read in one place."""
    assert await Path(schema.FILE).read_text() == await anyio.to_thread.run_sync(schema.dump, database)
