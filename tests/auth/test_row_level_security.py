"""Row-level security: what Postgres itself shows to a request, whatever the statement forgot to say."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from psycopg import sql

from threadkeep.auth.ownership import store_prefix_of
from threadkeep.persistence.store import Store
from threadkeep.postgres import migrate
from threadkeep.postgres.pool import Conn, Pool, open_api_pool, open_runs_pool
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters, enable_row_security
from threadkeep.settings import Settings
from threadkeep.tables import TENANT_TABLES, assistants, threads
from threadkeep.tables.threads import NewThread

ADA = Filters({"owner": "ada"}, store_prefix=store_prefix_of("ada"))
BOB = Filters({"owner": "bob"}, store_prefix=store_prefix_of("bob"))


@pytest.fixture
async def pool(settings: Settings, database: str) -> AsyncIterator[Pool]:
    """The API's pool, with row-level security."""
    async with open_api_pool(settings, database) as pool:
        await enable_row_security(pool, tables=TENANT_TABLES, needed=True)
        assert pool.row_security
        yield pool


async def _counts(pool: Pool, filters: Filters = UNRESTRICTED) -> dict[str, int]:
    """How many rows a statement without a condition finds, by table."""
    async with pool.connection(filters) as conn:
        found: dict[str, int] = {}
        for table in TENANT_TABLES:
            cursor = await conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
            (found[table],) = await cursor.fetchone() or (-1,)
        return found


async def _furnish(database: str) -> UUID:
    """One row of Ada's in every table."""
    thread_id, run_id, assistant_id = uuid4(), uuid4(), uuid4()
    owned = json.dumps(ADA.metadata_filter)
    names = {"thread": thread_id, "run": run_id, "assistant": assistant_id, "owned": owned, "text": str(thread_id)}
    statements = (
        "INSERT INTO threads (thread_id, project_id, metadata) VALUES (%(thread)s, 'threadkeep', %(owned)s)",
        "INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status) "
        "VALUES (%(run)s, 'threadkeep', %(thread)s, %(assistant)s, 'chain', 'pending')",
        "INSERT INTO run_events (run_id, position, event, data) VALUES (%(run)s, 1, 'values', '{}')",
        "INSERT INTO run_undo_log (run_id, checkpoint_ns, checkpoint_id, task_id, idx, existed) "
        "VALUES (%(run)s, '', '1', '1', 0, false)",
        "INSERT INTO task_pushes (chain_id, config_id, project_id, thread_id, protocol, url) "
        "VALUES (%(run)s, '1', 'threadkeep', %(thread)s, '1.0', 'https://x.example')",
        "INSERT INTO assistants (project_id, assistant_id, graph_id, name, metadata) "
        "VALUES ('threadkeep', %(assistant)s, 'chain', 'hers', %(owned)s)",
        "INSERT INTO assistant_versions (project_id, assistant_id, version, graph_id, name, config, context, metadata) "
        "VALUES ('threadkeep', %(assistant)s, 1, 'chain', 'hers', '{}', '{}', %(owned)s)",
        "INSERT INTO crons (cron_id, project_id, assistant_id, thread_id, schedule, payload, metadata) "
        "VALUES (%(run)s, 'threadkeep', %(assistant)s, %(thread)s, '* * * * *', '{}', %(owned)s)",
        "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES (%(text)s, '1', '{}')",
        "INSERT INTO checkpoint_blobs (thread_id, channel, version, type) VALUES (%(text)s, 'items', '1', 'empty')",
        "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob) "
        "VALUES (%(text)s, '1', '1', 0, 'items', '')",
        "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES ('of another program', '1', '{}')",
        "INSERT INTO store (prefix, key, value) VALUES ('owner:ada.memories', 'note', '{}')",
    )
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        for statement in statements:
            await conn.execute(statement, names)  # pyright: ignore[reportArgumentType] - literals, all of them
    return thread_id


async def test_an_unfiltered_statement_of_another_user_finds_nothing(pool: Pool, database: str) -> None:
    """Issue: written by Ada, read by Bob through a deliberately unfiltered query: nothing."""
    await _furnish(database)

    assert await _counts(pool, BOB) == dict.fromkeys(TENANT_TABLES, 0)
    assert await _counts(pool, ADA) == dict.fromkeys(TENANT_TABLES, 1)
    assert await _counts(pool) == dict.fromkeys(TENANT_TABLES, 1) | {"checkpoints": 2}


async def test_an_unfiltered_write_of_another_user_changes_nothing(pool: Pool, database: str) -> None:
    """Ours: row-level security applies to writes too."""
    thread_id = await _furnish(database)

    assert await _changed(pool, 'UPDATE threads SET metadata = \'{"owner": "bob"}\'') == 0
    assert await _changed(pool, "DELETE FROM threads") == 0
    assert await _changed(pool, "DELETE FROM checkpoints") == 0
    assert await _changed(pool, "DELETE FROM store") == 0
    for forged in (
        "INSERT INTO threads (thread_id, project_id, metadata) "
        "VALUES (gen_random_uuid(), 'threadkeep', '{\"owner\": \"ada\"}')",
        "INSERT INTO store (prefix, key, value) VALUES ('owner:ada.memories', 'forged', '{}')",
        "INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status) "
        f"VALUES (gen_random_uuid(), 'threadkeep', '{thread_id}', gen_random_uuid(), 'chain', 'pending')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await _changed(pool, forged)
    assert await _counts(pool) == dict.fromkeys(TENANT_TABLES, 1) | {"checkpoints": 2}


async def _changed(pool: Pool, statement: str) -> int:
    """How many rows a statement of Bob's changes."""
    async with pool.connection(BOB) as conn:
        return (await conn.execute(statement)).rowcount  # pyright: ignore[reportArgumentType] - the tests' own


async def test_of_api_keys_a_request_sees_nothing_at_all(pool: Pool) -> None:
    """Ours: hashes of secrets are for the authenticator alone."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="api_keys"):
        await _changed(pool, "SELECT FROM api_keys")


async def test_a_pipeline_is_bound_in_its_own_round_trip_and_to_its_end(pool: Pool, database: str) -> None:
    """Ours: also behind a result that is read before its end."""
    await _furnish(database)

    async with pool.pipeline(BOB) as conn:
        first = await conn.execute("SELECT count(*) FROM threads")
        assert await first.fetchone() == (0,)
        second = await conn.execute("SELECT count(*) FROM threads")
    assert await second.fetchone() == (0,)
    async with pool.pipeline() as conn:
        third = await conn.execute("SELECT count(*), current_user = session_user FROM threads")
    assert await third.fetchone() == (1, True)


@pytest.mark.parametrize("take", [Pool.pipeline, Pool.connection], ids=["pipeline", "connection"])
async def test_a_connection_that_goes_back_is_nobodys(
    pool: Pool, take: Callable[[Pool, Filters], AbstractAsyncContextManager[Conn]]
) -> None:
    """Ours: also after an error, in the statement or in what was done with it."""

    async def fail(statement: str) -> None:
        async with take(pool, BOB) as conn:
            await conn.execute(statement)
            raise LookupError

    for statement in ("SELECT 1", "SELECT 1/0"):
        with pytest.raises((psycopg.errors.DivisionByZero, LookupError)):
            await fail(statement)
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT current_user = session_user, coalesce(current_setting('threadkeep.metadata_filter', true), '')"
        )
        assert await cursor.fetchone() == (True, "")


async def test_without_a_principal_nothing_is_sent_beside_the_statement(pool: Pool) -> None:
    """Ours: without authentication row-level security costs nothing."""
    for filters in (UNRESTRICTED, Filters({})):
        async with pool.connection(filters) as conn:
            cursor = await conn.execute("SELECT current_user = session_user AND now() = statement_timestamp()")
            assert await cursor.fetchone() == (True,)


async def test_the_store_gathers_operations_of_several_callers_and_mixes_none_up(
    settings: Settings, database: str
) -> None:
    """Ours: the first waiting request creates the runs of all, each under its own row-level security."""
    async with open_api_pool(settings, database) as api_pool, open_runs_pool(settings, database) as runs_pool:
        await enable_row_security(api_pool, runs_pool, tables=TENANT_TABLES, needed=True)
        store = Store(runs_pool)
        found: dict[str, object] = {}

        async def work(name: str, filters: Filters) -> None:
            own = store.scoped(filters.store_prefix, filters)
            await own.aput(("memories",), "note", {"of": name})
            item = await own.aget(("memories",), "note")
            assert item is not None
            found[name] = (item.namespace, item.value, await own.alist_namespaces())

        async with anyio.create_task_group() as tasks:
            for name, filters in (("ada", ADA), ("bob", BOB)) * 5:
                tasks.start_soon(work, name, filters)

        assert found == {name: (("memories",), {"of": name}, [("memories",)]) for name in ("ada", "bob")}
        assert sorted(await store.alist_namespaces()) == [("owner:ada", "memories"), ("owner:bob", "memories")]


async def test_without_the_right_to_the_role_a_warning_is_logged_and_filters_hold_alone(
    settings: Settings, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: row-level security is on where the database's role allows it; a line at the start says where not."""
    await _administer(
        database,
        "DROP ROLE IF EXISTS plain_server",
        "CREATE ROLE plain_server LOGIN BYPASSRLS",
        "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO plain_server",
    )
    uri = psycopg.conninfo.make_conninfo(database, user="plain_server")
    try:
        async with open_api_pool(settings, uri) as pool:
            with caplog.at_level(logging.WARNING, logger="threadkeep"):
                await enable_row_security(pool, tables=TENANT_TABLES, needed=True)
            assert not pool.row_security
            assert "row-level security is off: only the filters of statements separate tenants" in caplog.text
            async with pool.connection(BOB) as conn:
                made = await threads.create(conn, NewThread(thread_id=uuid4(), metadata=BOB.metadata_filter))
                assert made is not None
                assert await threads.get(conn, ADA, made.thread_id) is None
    finally:
        await _administer(database, "DROP OWNED BY plain_server", "DROP ROLE plain_server")


async def _administer(uri: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        for statement in statements:
            await conn.execute(statement)  # pyright: ignore[reportArgumentType] - the tests' own


async def test_a_database_without_row_level_security_gets_it_at_the_next_start(database: str) -> None:
    """Ours: the role may have been out of reach when the tables were made."""
    tables = [
        sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(sql.Identifier(name)) for name in TENANT_TABLES
    ]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        for statement in tables:
            await conn.execute(statement)

        assert await migrate.migrate(database) == []

        cursor = await conn.execute(
            "SELECT bool_and(relrowsecurity) FROM pg_class WHERE relname = ANY(%s)", [list(TENANT_TABLES)]
        )
        assert await cursor.fetchone() == (True,)


async def test_an_id_that_a_graph_will_have_can_not_be_taken_before_it(pool: Pool, database: str) -> None:
    """Ours: a graph's assistant is what everybody runs by its name, and its id can be known before there is the graph."""
    squatted = assistants.system_id("tomorrow")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute(
            "INSERT INTO assistants (project_id, assistant_id, graph_id, name, metadata)"
            " VALUES ('threadkeep', %s, 'chain', 'mine', %s)",
            [squatted, json.dumps({"owner": "bob", "created_by": "system"})],
        )

    async with pool.connection() as conn:
        await assistants.ensure_system_assistants(conn, {"tomorrow": None})
        found = await assistants.get(conn, ADA, squatted)

    assert found is not None
    assert (found.graph_id, found.name, found.metadata.load()) == ("tomorrow", "tomorrow", {"created_by": "system"})


async def test_every_table_with_a_policy_is_looked_for_at_the_start(database: str) -> None:
    """Ours: `TENANT_TABLES` is the list by which a server tells whether row-level security is there."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        cursor = await conn.execute(
            "SELECT DISTINCT tablename::text FROM pg_policies WHERE tablename <> 'store_vectors'"
        )

        assert {row[0] for row in await cursor.fetchall()} == set(TENANT_TABLES)
