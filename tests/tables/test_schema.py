"""Schema: docs/schema.sql equals the schema of a migrated database."""

import os

import anyio.to_thread
import pytest
from anyio import Path

import schema


@pytest.mark.skipif("TEST_POSTGRES_BIN" in os.environ, reason="the page is of the embedded Postgres")
async def test_the_schema_in_the_docs_is_that_of_a_migrated_database(database: str) -> None:
    """Ours: a migration comes with `make schema`, so that the tables can be read in one place."""
    assert await Path(schema.FILE).read_text() == await anyio.to_thread.run_sync(schema.dump, database)
