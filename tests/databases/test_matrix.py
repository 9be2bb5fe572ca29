"""The same runs on each kind of database that people have: none of them fails."""

import json
from typing import Any

import anyio
import httpx
import psycopg
import pytest

from conftest import serving
from databases.conftest import NAME, OWNER, RUNS, Databases, Pooled
from threadkeep.base.problems import StartupError
from threadkeep.postgres import migrate, session
from threadkeep.postgres.pool import open_api_pool
from threadkeep.postgres.tenancy import enable_row_security
from threadkeep.settings import Settings
from threadkeep.tables import TENANT_TABLES

WAIT_S = 30.0 + RUNS
ITEMS = ["in", "first", "second"]


async def runs_at_once(settings: Settings, uri: str, **more: Any) -> dict[str, Any]:
    """Run the graph `chain` RUNS times at once, half of them by the queue. Returns what `/info` says."""
    served = settings.model_copy(update={"database_uri": uri, "queue_timeout_s": WAIT_S, **more})
    outcomes: list[Any] = []
    limits = httpx.Limits(max_connections=None)
    async with (
        serving(served, keep_alive_s=75) as url,  # as `threadkeep serve` has it
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, limits=limits) as http,
        anyio.create_task_group() as tasks,
    ):
        for number in range(RUNS):
            tasks.start_soon(_one_run, http, number, outcomes)
        while len(outcomes) < RUNS:
            await anyio.sleep(0.05)
        info = (await http.get("/info")).json()
        ready = (await http.get("/readyz")).json()
    assert outcomes == [ITEMS] * RUNS
    assert ready["ready"], ready
    return info


async def _one_run(http: httpx.AsyncClient, number: int, outcomes: list[Any]) -> None:
    thread_id = (await http.post("/threads", json={"metadata": {"number": number}})).json()["thread_id"]
    run = {"assistant_id": "chain", "input": {"items": ["in"]}}
    if number % 2:
        answer = await http.post(f"/threads/{thread_id}/runs/wait", json=run)
    else:
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()["run_id"]
        answer = await http.get(f"/threads/{thread_id}/runs/{run_id}/join")
    stored = await http.put("/store/items", json={"namespace": ["n", str(number)], "key": "k", "value": {"é": "—"}})
    state = (await http.get(f"/threads/{thread_id}/state")).json()
    values = answer.json()
    outcomes.append(values.get("items") if stored.is_success and state["values"] == values else [answer.text, state])


@pytest.mark.parametrize("pooled", [("session", 40)], indirect=True)
async def test_a_session_pooler_is_used_as_postgres_itself(settings: Settings, pooled: Pooled) -> None:
    """Issue: a pooler in session mode simply works."""
    await migrate.migrate(pooled.through)
    info = await runs_at_once(settings, pooled.through)

    assert info["database"] == {"pooler": "session", "wake_ups": "listen"}


@pytest.mark.parametrize("pooled", [("transaction", 3), ("transaction", 20)], indirect=True)
async def test_a_transaction_pooler_alone_is_noticed_and_polled(
    settings: Settings, pooled: Pooled, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue: transaction mode is detected, nothing is prepared, and one line and `/info` say so."""
    await migrate.migrate(pooled.through)
    info = await runs_at_once(settings, pooled.through)

    assert info["database"] == {"pooler": "transaction", "wake_ups": "polling"}
    assert [one.msg for one in caplog.records if "pooler" in one.msg] == [
        "Postgres is behind a transaction pooler: statements are not prepared"
    ]


@pytest.mark.parametrize("pooled", [("transaction", 6)], indirect=True)
async def test_a_transaction_pooler_with_the_direct_address_listens(settings: Settings, pooled: Pooled) -> None:
    """Issue: LISTEN and migrations go to Postgres itself."""
    await migrate.migrate(pooled.direct)
    info = await runs_at_once(settings, pooled.through, database_direct_uri=pooled.direct)

    assert info["database"] == {"pooler": "transaction", "wake_ups": "listen"}


@pytest.mark.parametrize("pooled", [("transaction", 6, "TimeZone = 'Asia/Kolkata'")], indirect=True)
async def test_a_role_in_kolkata_behind_a_transaction_pooler(settings: Settings, pooled: Pooled) -> None:
    """Issue: what can't be set there is tolerated."""
    await migrate.migrate(pooled.through)
    await runs_at_once(settings, pooled.through)


@pytest.mark.parametrize(
    "pooled",
    [("transaction", 6, "default_transaction_isolation = 'serializable'", "DateStyle = 'German'")],
    indirect=True,
)
async def test_settings_that_a_transaction_pooler_keeps_are_named(settings: Settings, pooled: Pooled) -> None:
    """Ours: the start is refused in a line, for nothing can be set in a session that is shared."""
    uri = pooled.through
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        with pytest.raises(
            StartupError, match=r"default_transaction_isolation = 'read committed' and DateStyle = 'ISO'"
        ):
            await session.check_shared_sessions(conn)
    assert await session.detect_pooler(uri) == "transaction"
    assert await session.detect_pooler(str(settings.database_uri)) == "none"


async def test_a_schema_of_its_own_beside_somebody_elses_tables(
    settings: Settings, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue: PGOPTIONS are kept on every connection, and `public` may hold tables of the same names."""
    uri = databases.make(NAME, owner=OWNER)
    taken = [f"CREATE TABLE {name} (theirs text)" for name in ("threads", "runs", "checkpoints", "store")]
    databases.execute(*taken, "CREATE SCHEMA own AUTHORIZATION {owner}", database=NAME, owner=OWNER)
    monkeypatch.setenv("PGOPTIONS", "-c search_path=own,public")
    await migrate.migrate(uri)
    await runs_at_once(settings, uri)

    with psycopg.connect(uri) as conn:
        assert conn.execute("SELECT count(*) FROM own.runs").fetchone() == (RUNS,)


async def test_a_schema_named_as_the_role_is_found_by_tenants(settings: Settings, databases: Databases) -> None:
    """Ours: "$user" in the search path is another schema after the switch to the role of row-level security."""
    uri = databases.make(NAME, owner=OWNER)
    databases.execute("CREATE SCHEMA AUTHORIZATION {owner}", database=NAME, owner=OWNER)
    databases.execute("CREATE TABLE threads (theirs text)", database=NAME)
    await migrate.migrate(uri)
    await runs_at_once(settings, uri)

    with psycopg.connect(uri) as conn:
        assert conn.execute("SELECT count(*) FROM databases_owner.runs").fetchone() == (RUNS,)


ODD = {
    "default_transaction_isolation": "serializable",
    "TimeZone": "Asia/Kolkata",
    "DateStyle": "German, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "statement_timeout": "200",
    "lock_timeout": "20",
    "client_encoding": "LATIN1",
    "row_security": "off",
}


async def test_a_role_whose_sessions_are_set_up_otherwise(settings: Settings, databases: Databases) -> None:
    """Issue: isolation level, DateStyle, time zone and timeouts of the role are not assumed."""
    uri = databases.make(NAME, owner=OWNER)
    for name, value in ODD.items():
        databases.execute(f"ALTER ROLE {{owner}} SET {name} = '{value}'", owner=OWNER)
    await migrate.migrate(uri)
    await runs_at_once(settings, uri)


async def test_postgres_15(settings: Settings, postgres_15: str) -> None:
    """Issue: as Debian 12 has it."""
    made = Databases(postgres_15)
    uri = made.make(NAME, owner=OWNER)
    await migrate.migrate(uri)
    info = await runs_at_once(settings, uri)

    assert json.dumps(info["database"]) == '{"pooler": "none", "wake_ups": "listen"}'


GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {server}",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
)
SERVER = "databases_server"


@pytest.mark.parametrize("owner_may", ["NOCREATEROLE", "CREATEROLE", "SUPERUSER"])
async def test_a_role_that_may_only_read_and_write_rows(
    settings: Settings, databases: Databases, owner_may: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue: an owner migrates; the server's own role can neither make nor change a table. It says once what that costs."""
    owner_uri = databases.make(NAME, owner=OWNER)
    databases.execute(f"ALTER ROLE {{owner}} {owner_may}", owner=OWNER)
    await migrate.migrate(owner_uri)
    databases.role(SERVER)
    databases.execute(*GRANTS, database=NAME, server=SERVER)
    uri = databases.address(NAME, SERVER)
    assert await migrate.migrate(uri) == []
    info = await runs_at_once(settings, uri)

    assert info["row_level_security"] is False
    caplog.clear()
    async with open_api_pool(settings, uri) as pool:
        await enable_row_security(pool, tables=TENANT_TABLES, needed=True)
    assert [one.msg for one in caplog.records] == [
        "row-level security is off: only the filters of statements separate tenants"
    ]


async def test_a_role_that_may_only_read_and_write_rows_switches_to_the_tenant_if_it_may(
    settings: Settings, databases: Databases
) -> None:
    """Ours: the rights on rows and one grant are all that row-level security takes."""
    owner_uri = databases.make(NAME, owner=OWNER)
    databases.execute("ALTER ROLE {owner} SUPERUSER", owner=OWNER)
    await migrate.migrate(owner_uri)
    databases.role(SERVER)
    databases.execute(*GRANTS, "GRANT threadkeep_tenant TO {server}", database=NAME, server=SERVER)
    async with open_api_pool(settings, databases.address(NAME, SERVER)) as pool:
        with pytest.raises(StartupError, match="NOINHERIT"):
            await enable_row_security(pool, tables=TENANT_TABLES, needed=True)

    again = (
        "REVOKE threadkeep_tenant FROM {server}",
        "ALTER ROLE {server} NOINHERIT",
        "GRANT threadkeep_tenant TO {server}",
    )
    databases.execute(*again, server=SERVER)
    info = await runs_at_once(settings, databases.address(NAME, SERVER))

    assert info["row_level_security"] is True
