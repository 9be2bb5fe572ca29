"""A server whose tables are in their own schema, beside another program's tables of the same names."""

from collections.abc import Iterator

import anyio
import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from threadkeep.postgres import migrate
from threadkeep.settings import Settings

NAME = "test_own_schema"


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The URI of a database in which `public` is taken."""
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {NAME}")
        uri = psycopg.conninfo.make_conninfo(postgres, dbname=NAME)
        with psycopg.connect(uri, autocommit=True) as theirs:
            for table in ("threads", "runs", "checkpoints", "store"):
                theirs.execute(f"CREATE TABLE public.{table} (theirs text)")
            theirs.execute("CREATE SCHEMA own")
        yield psycopg.conninfo.make_conninfo(uri, options="-c search_path=own,public")
        conn.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


async def test_a_server_works_in_a_schema_of_its_own(settings: Settings, database: str) -> None:
    """Ours: every connection keeps the search path that the operator chose."""
    await migrate.migrate(database)
    run = {"assistant_id": "chain", "input": {"items": ["in"]}}

    async with (
        serving(settings.model_copy(update={"database_uri": database})) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread_id}/runs/wait", json=run)
        queued = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()
        with anyio.fail_after(WAIT_S):
            values = (await http.get(f"/threads/{thread_id}/runs/{queued['run_id']}/join")).json()
        assert (await http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {}})).is_success
        assert (await http.get("/readyz")).is_success

    assert values == {"items": ["in", "first", "second", "in", "first", "second"]}
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM own.runs").fetchone() == (2,)
        assert conn.execute("SELECT count(*) FROM public.runs").fetchone() == (0,)
