"""Migrations: applied once, by one process at a time, and never edited."""

import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from anyio import Path as AsyncPath
from anyio import to_thread
from psycopg import AsyncConnection, sql

from threadkeep.base.problems import StartupError
from threadkeep.postgres import embedded, migrate

FILES = {
    "0001_parrots.sql": "CREATE TABLE parrots (name text); CREATE TABLE perches (name text);",
    "0002_feathers.sql": "ALTER TABLE parrots ADD COLUMN feathers integer;",
}
LIBRARIES = ["checkpoints", "store"]
MIGRATE = "import anyio, sys, pathlib; from threadkeep.postgres.migrate import migrate;"
MIGRATE += "anyio.run(lambda: migrate(sys.argv[1], folder=pathlib.Path(sys.argv[2])))"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with embedded.embedded_postgres(tmp_path_factory.mktemp("postgres"), durable=False) as uri:
        yield uri


@pytest.fixture
def uri(postgres: str) -> str:
    """An empty database."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres.replace("/threadkeep?", f"/{name}?")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, statements in FILES.items():
        (tmp_path / name).write_text(statements)
    return tmp_path


def relations(uri: str) -> set[str]:
    with psycopg.connect(uri) as conn:
        found = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        return {str(row[0]) for row in found}


def invalid_indexes(uri: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        return conn.execute("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").fetchall()


async def is_current(uri: str, folder: Path) -> bool:
    async with await AsyncConnection.connect(uri) as conn:
        return await migrate.is_current(conn, folder=folder)


async def test_an_empty_database_is_brought_up_to_date_once(uri: str, folder: Path) -> None:
    """Ours: a second run applies nothing, and `pending` and `is_current` agree with it."""
    assert await migrate.pending(uri, folder=folder) == ["0001_parrots", "0002_feathers", *LIBRARIES]
    assert relations(uri) == set()
    assert not await is_current(uri, folder)

    assert await migrate.migrate(uri, folder=folder) == ["0001_parrots", "0002_feathers", *LIBRARIES]
    assert {"parrots", "perches", "checkpoints", "checkpoint_writes", "store"} <= relations(uri)

    assert await migrate.migrate(uri, folder=folder) == []
    assert await migrate.pending(uri, folder=folder) == []
    assert await is_current(uri, folder)


async def test_a_new_file_is_applied_on_top(uri: str, folder: Path) -> None:
    """Ours: migrations go forward only, and only new files are applied."""
    await migrate.migrate(uri, folder=folder)
    await AsyncPath(folder / "0003_beaks.sql").write_text("CREATE TABLE beaks (name text)")

    assert not await is_current(uri, folder)
    assert await migrate.migrate(uri, folder=folder) == ["0003_beaks"]


def test_three_processes_migrate_an_empty_database_at_once(uri: str, folder: Path) -> None:
    """Ours: replicas start together. The savers' own setup lets two of three die, or hangs under a plain lock."""
    command = [sys.executable, "-c", MIGRATE, uri, str(folder)]
    racing = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]

    said = [process.communicate(timeout=60)[1] for process in racing]

    assert [process.returncode for process in racing] == [0, 0, 0], said
    assert {"parrots", "perches", "checkpoints", "checkpoint_blobs", "checkpoint_writes", "store"} <= relations(uri)
    assert invalid_indexes(uri) == []


async def test_an_edited_file_is_refused_by_name(uri: str, folder: Path) -> None:
    """Ours: the files always describe the migrations that a database has had."""
    await migrate.migrate(uri, folder=folder)
    await AsyncPath(folder / "0001_parrots.sql").write_text("CREATE TABLE parrots (name text NOT NULL)")

    with pytest.raises(StartupError, match="0001_parrots was changed"):
        await migrate.migrate(uri, folder=folder)
    with pytest.raises(StartupError, match="0001_parrots was changed"):
        await migrate.pending(uri, folder=folder)


async def test_a_missing_file_is_refused_by_name(uri: str, folder: Path) -> None:
    """Ours: an applied migration that is gone was another release's."""
    await migrate.migrate(uri, folder=folder)
    await AsyncPath(folder / "0001_parrots.sql").unlink()

    with pytest.raises(StartupError, match=r"0001_parrots was applied .* does not have its file"):
        await migrate.migrate(uri, folder=folder)


async def test_an_older_release_runs_beside_a_newer_one(
    uri: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: during a rolling update the old replicas start again on the new database."""
    await migrate.migrate(uri, folder=folder)
    await AsyncPath(folder / "0002_feathers.sql").unlink()

    assert await migrate.migrate(uri, folder=folder) == []
    assert [record.getMessage() for record in caplog.records] == ["the database is newer than this release"]
    assert await is_current(uri, folder)


async def test_nothing_of_a_failed_file_stays(uri: str, folder: Path) -> None:
    """Ours: each file is one transaction, and those before it are kept."""
    await AsyncPath(folder / "0002_feathers.sql").write_text("CREATE TABLE halfway (name text); SELECT 1 / 0")

    with pytest.raises(StartupError, match="0002_feathers failed"):
        await migrate.migrate(uri, folder=folder)

    assert "parrots" in relations(uri)
    assert "halfway" not in relations(uri)
    assert await migrate.pending(uri, folder=folder) == ["0002_feathers", *LIBRARIES]


async def test_an_index_left_invalid_is_mended(uri: str, folder: Path) -> None:
    """Ours: a setup killed within CREATE INDEX CONCURRENTLY leaves an index that IF NOT EXISTS passes over."""
    await migrate.migrate(uri, folder=folder)
    with psycopg.connect(uri) as conn:
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'checkpoints_thread_id_idx'::regclass")
    assert not await is_current(uri, folder)

    assert await migrate.migrate(uri, folder=folder) == ["checkpoints"]

    assert invalid_indexes(uri) == []
    assert await is_current(uri, folder)


async def test_a_process_that_waits_too_long_for_another_one_gives_up(
    uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: every wait has an end."""
    monkeypatch.setattr(migrate, "LOCK_WAIT_S", 0.3)
    with psycopg.connect(uri) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", (migrate.LOCK,))

        with pytest.raises(StartupError, match="another process"):
            await migrate.migrate(uri, folder=folder)


@pytest.mark.parametrize("names", [[], ["1_short.sql"], ["0001_one.sql", "0001_two.sql"], ["0001.sql"]])
def test_a_folder_without_order_is_refused(names: list[str], tmp_path: Path) -> None:
    """Ours: the order of migrations is their number, and there is always one."""
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(StartupError, match="migration"):
        migrate.read_migrations(tmp_path)


def test_the_migrations_that_come_with_the_package_are_found() -> None:
    """Ours: from a checkout as from the wheel."""
    release = migrate.read_migrations()

    assert release.migrations[0].number == 1
    assert "functions/create_runs" in {file.name for file in release.functions}


FUNCTION = "CREATE OR REPLACE FUNCTION words() RETURNS text LANGUAGE sql AS $$ SELECT {} FROM parrots LIMIT 1 $$"


async def test_functions_are_applied_again_if_they_have_changed(uri: str, folder: Path) -> None:
    """Ours: a change of a function is a diff of its file, and no new migration."""
    file = AsyncPath(folder / "functions" / "words.sql")
    await file.parent.mkdir()
    await file.write_text(FUNCTION.format("'hello'"))
    assert (await migrate.migrate(uri, folder=folder))[-1] == "functions/words"
    assert await migrate.migrate(uri, folder=folder) == []
    assert await is_current(uri, folder)

    await file.write_text(FUNCTION.format("'good-bye'"))
    assert await migrate.pending(uri, folder=folder) == ["functions/words"]
    assert await is_current(uri, folder)  # a replica of the release before goes on
    assert await migrate.migrate(uri, folder=folder) == ["functions/words"]

    with psycopg.connect(uri) as conn:
        conn.execute("INSERT INTO parrots VALUES ('Polly')")
        assert conn.execute("SELECT words()").fetchone() == ("good-bye",)


async def test_functions_of_a_newer_release_are_left_alone(
    uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: an old replica that starts again during a rolling update does not put its own functions back."""
    file = AsyncPath(folder / "functions" / "words.sql")
    await file.parent.mkdir()
    await file.write_text(FUNCTION.format("'new'"))
    monkeypatch.setattr(migrate, "__version__", "0.10.0")
    await migrate.migrate(uri, folder=folder)

    await file.write_text(FUNCTION.format("'old'"))
    monkeypatch.setattr(migrate, "__version__", "0.9.1")
    assert await migrate.migrate(uri, folder=folder) == []


async def test_functions_that_fail_are_named(uri: str, folder: Path) -> None:
    """Ours: and the migrations before them are kept."""
    file = AsyncPath(folder / "functions" / "words.sql")
    await file.parent.mkdir()
    await file.write_text(FUNCTION.format("nothing_there"))

    with pytest.raises(StartupError, match=r"functions/words.sql failed"):
        await migrate.migrate(uri, folder=folder)
    assert "parrots" in relations(uri)


async def test_a_schema_of_its_own_beside_tables_of_the_same_name(uri: str) -> None:
    """Ours: only the current schema is used. Tables of another program in `public` are not changed."""
    with psycopg.connect(uri, autocommit=True) as conn:
        for table in ("threads", "runs", "checkpoints", "checkpoint_migrations", "store", "threadkeep_migrations"):
            conn.execute(sql.SQL("CREATE TABLE public.{} (theirs text)").format(sql.Identifier(table)))
        conn.execute("CREATE SCHEMA own")
    own = psycopg.conninfo.make_conninfo(uri, options="-c search_path=own,public")

    applied = await migrate.migrate(own)
    assert {"0002_threads", "checkpoints", "store", "functions/create_runs"} <= set(applied)
    assert await migrate.migrate(own) == []

    async with await AsyncConnection.connect(own) as conn:
        assert await migrate.is_current(conn)
    with psycopg.connect(uri) as conn:
        columns = conn.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        assert {name for _, name in columns} == {"theirs"}
        policies = conn.execute("SELECT DISTINCT schemaname FROM pg_policies").fetchall()
        assert policies == [("own",)]


async def test_a_database_of_an_older_development_version_is_refused_with_what_to_do(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: nothing is released before 0.1, and no table is converted. More files do not make that database newer."""
    await migrate.migrate(uri)
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("UPDATE threadkeep_migrations SET checksum = 'other'")
        conn.execute("INSERT INTO threadkeep_migrations (number, name, checksum) VALUES (16, '0016_room', 'other')")
    caplog.clear()

    with pytest.raises(StartupError) as refusal:
        await migrate.migrate(uri)

    assert str(refusal.value) == (
        "migration 0001_assistants was changed after it was applied to this database. Before 0.1 the tables may change: "
        "start with an empty database (another THREADKEEP_DATA_DIR, or CREATE DATABASE)"
    )
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_schema_with_any_table_of_ours_is_refused_and_not_changed(uri: str) -> None:
    """Ours: also an unlogged one, and before the first statement that changes the schema."""
    files = (await to_thread.run_sync(migrate.read_migrations)).migrations
    tables = sorted(
        {
            match.decode()
            for file in files
            for match in re.findall(rb"^CREATE .*TABLE (\w+)", file.statements, re.MULTILINE)
        }
    )
    assert {"threads", "crash_markers"} <= set(tables)
    for table in tables:
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE TABLE {} (theirs text)").format(sql.Identifier(table)))

        with pytest.raises(StartupError, match=f"the schema public has {table} of another program"):
            await migrate.migrate(uri)

        assert relations(uri) == {table}
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
