"""Mistakes at the start: one line that says what is wrong, no trace, for each command that needs the project."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import anyio.to_thread
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from faults import forks
from threadkeep.base.problems import StartupError
from threadkeep.commands.adopt import postgres_source

GRAPH = """
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    said: str

async def say(state: State) -> State:
    return {"said": "yes"}

graph = StateGraph(State).add_node(say).add_edge(START, "say").compile()
"""
COMMANDS = {"serve": ["serve", "--port", "0"], "migrate": ["migrate"], "keys": ["keys", "list"], "check": ["check"]}


def write(folder: Path, config: dict[str, Any], **files: str) -> None:
    """A project whose graph is `g`."""
    (folder / "langgraph.json").write_text(json.dumps({"graphs": {"g": "./graph.py:graph"}, **config}))
    for name, text in {"graph": GRAPH, **files}.items():
        (folder / f"{name}.py").write_text(text)


async def refusal(folder: Path, command: str, **environment: str) -> tuple[str, list[dict[str, Any]]]:
    """The line with which a command refuses to start, and what was logged before it."""
    said = {**os.environ, "HOME": str(folder), "THREADKEEP_DATA_DIR": str(folder / "data"), **environment}
    done = await anyio.to_thread.run_sync(lambda: forks.run(*COMMANDS[command], cwd=folder, env=said))
    *logged, line = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert line.startswith("threadkeep: "), done.stderr
    return line.removeprefix("threadkeep: "), [json.loads(one) for one in logged]


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("uri", ["postgresql://ada:secret@[bad/db", "postgres://ada:secret%zz@h/db", "dbname secret="])
async def test_a_source_of_adopt_that_is_no_uri_is_refused_without_its_password(uri: str) -> None:
    """Ours: libpq's message has the whole URI, and came with a traceback."""
    with pytest.raises(StartupError, match=r"^--from: libpq can't read this URI") as refused:
        async with postgres_source.open_source(uri):
            pass

    assert refused.value.__cause__ is None
    assert "secret" not in str(refused.value)


NO_DATABASE = 'database "nope" does not exist: create it with CREATE DATABASE'
NO_ROLE = 'role "nobody" does not exist'


@pytest.mark.parametrize("command", ["serve", "migrate", "keys"])
async def test_a_database_that_is_not_there_is_told_by_every_command(
    postgres: str, tmp_path: Path, command: str
) -> None:
    """Issue: no trace, for serve, migrate and keys alike."""
    write(tmp_path, {})
    line, logged = await refusal(tmp_path, command, DATABASE_URI=make_conninfo(postgres, dbname="nope"))

    assert line.startswith("database ")
    assert line.endswith(f"/nope: {NO_DATABASE}")
    assert [one["message"] for one in logged] == ["settings read"]


async def test_each_mistake_in_an_address_is_told_in_its_words(postgres: str, tmp_path: Path) -> None:
    """Issue: unreachable host, no such role, an unescaped @, an unknown parameter. Nothing of a password is told."""
    write(tmp_path, {})
    port = closed_port()
    uris = {
        make_conninfo(postgres, user="nobody"): NO_ROLE,
        f"postgresql://app:secret@127.0.0.1:{port}/d": f"database 127.0.0.1:{port}/d: connection to server at "
        f'"127.0.0.1", port {port} failed: Connection refused: check that Postgres runs there',
        "postgresql://app:secret@no-such-host.invalid/d": "database no-such-host.invalid/d: its host is not known",
        "postgresql://app:se@cret@127.0.0.1/d": "database: its host is not known: write an @ in a user's name or a "
        "password as %40",
        "postgresql://app:secret@127.0.0.1/d?pgbouncer=true": "settings: DATABASE_URI: libpq has no parameter "
        "pgbouncer: remove it",
    }
    for uri, reason in uris.items():
        line, logged = await refusal(tmp_path, "migrate", DATABASE_URI=uri)
        assert line.endswith(reason), line
        assert "cret" not in line + json.dumps(logged)


@pytest.mark.parametrize("command", ["serve", "migrate", "keys"])
async def test_an_encoding_that_can_not_keep_every_text_is_told(postgres: str, tmp_path: Path, command: str) -> None:
    """Issue: SQL_ASCII made every run answer 404."""
    write(tmp_path, {})
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS ascii")
        conn.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0")
        line, _ = await refusal(tmp_path, command, DATABASE_URI=make_conninfo(postgres, dbname="ascii"))
        conn.execute("DROP DATABASE ascii")

    assert line.startswith("the database ascii has the encoding SQL_ASCII")


TAKEN = {
    "threads": "CREATE TABLE threads (theirs text)",
    "store": "CREATE TABLE store (theirs text)",
    "checkpoints, runs": "CREATE VIEW runs AS SELECT 1 AS theirs; CREATE TABLE checkpoints (theirs text)",
    "create_runs": "CREATE FUNCTION create_runs() RETURNS text RETURN 'theirs'",
}


@pytest.mark.parametrize("taken", TAKEN)
async def test_tables_of_another_program_are_told_and_left_alone(postgres: str, tmp_path: Path, taken: str) -> None:
    """Issue: one line says where else to go. Nothing is added to the schema, and nothing in it is changed."""
    write(tmp_path, {})
    uri = make_conninfo(postgres, dbname="taken")
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS taken")
        conn.execute("CREATE DATABASE taken")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(TAKEN[taken])
        before = conn.execute(RELATIONS).fetchall()
    for command in ("serve", "migrate"):
        line, _ = await refusal(tmp_path, command, DATABASE_URI=uri)
        assert line.startswith(f"the schema public has {taken} of another program, and nothing was changed: ")
        assert "?options=-csearch_path%3Dthreadkeep" in line
    with psycopg.connect(uri) as conn:
        assert conn.execute(RELATIONS).fetchall() == before


RELATIONS = """
    SELECT relname, relkind, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
     UNION ALL
    SELECT proname, prokind, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
     ORDER BY 1
"""


async def test_too_few_connections_are_told(database: str, tmp_path: Path) -> None:
    """Issue: before anything listens, and without the ExceptionGroup of what was being opened."""
    write(tmp_path, {})
    line, logged = await refusal(tmp_path, "serve", DATABASE_URI=database, THREADKEEP_RUN_CONNECTIONS="400")

    assert line.startswith("this process may open 408 connections")
    assert "Traceback" not in json.dumps(logged)


FAILING = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("no cache")
    yield

app = Starlette(lifespan=lifespan)
"""


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
async def test_an_address_of_another_machine_is_told_without_a_word_of_ports(tmp_path: Path, host: str) -> None:
    """Ours: another port would not help."""
    write(tmp_path, {})
    line, _ = await refusal(tmp_path, "serve", HOST=host, ALLOW_UNAUTHENTICATED="true")

    assert line.startswith(f"{host}:0: ")
    assert line.endswith(": choose an address of this machine with --host")


LEAVING = FAILING.replace('raise RuntimeError("no cache")', "raise SystemExit(3)")


@pytest.mark.parametrize(
    ("config", "files", "reason"),
    [
        ({"auth": {"path": "./nowhere.py:auth"}}, {}, "auth.path: ./nowhere.py:auth: the file "),
        ({"auth": {"path": "./graph.py:graph"}}, {}, "auth.path: ./graph.py:graph: this is not a langgraph_sdk.Auth"),
        ({"http": {"app": "./nowhere.py:app"}}, {}, "http.app: ./nowhere.py:app: the file "),
        ({"http": {"cors": {"allow_origin_regex": "("}}}, {}, "http.cors.allow_origin_regex: missing )"),
        ({"http": {"mount_prefix": "agents"}}, {}, "http.mount_prefix: 'agents' is not a path such as /agents"),
        (
            {"store": {"index": {"dims": 3, "embed": "./nowhere.py:embed"}}},
            {},
            "store.index.embed: ./nowhere.py:embed: ",
        ),
        ({}, {"graph": "raise RuntimeError('two\\n  lines')"}, "graph: RuntimeError: two lines (graph.py, line 1)"),
        (
            {},
            {"graph": "raise ExceptionGroup('all', [ValueError('one'), ExceptionGroup('more', [KeyError('two')])])"},
            "graph: ExceptionGroup: ValueError: one; ExceptionGroup: KeyError: 'two' (graph.py, line 1)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
async def test_a_mistake_in_the_project_is_told_before_a_database_is_started(
    tmp_path: Path, command: str, config: dict[str, Any], files: dict[str, str], reason: str
) -> None:
    """Ours: each takes less than a second, and the folder of the embedded Postgres is not even made."""
    write(tmp_path, config, **files)
    said = {**os.environ, "HOME": str(tmp_path), "THREADKEEP_DATA_DIR": str(tmp_path / "data")}
    done = await anyio.to_thread.run_sync(lambda: forks.run(*COMMANDS[command], cwd=tmp_path, env=said))

    assert done.returncode == 1
    assert reason in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


async def test_a_lifespan_that_leaves_is_told_with_the_embedded_postgres_too(tmp_path: Path) -> None:
    """Ours: without the groups of what was being opened."""
    write(tmp_path, {"http": {"app": "./web.py:app"}}, web=LEAVING)
    line, logged = await refusal(tmp_path, "serve")

    assert line == "http.app: its lifespan raised SystemExit: 3 (web.py, line 7)"
    assert "Traceback" not in json.dumps(logged)


@pytest.mark.parametrize(
    ("config", "source", "reason"),
    [
        ({}, "import langchain_nowhere", "No module named 'langchain_nowhere' (graph.py, line 1): the server installs"),
        ({}, "graph = 1 / 0", "graphs.g: ./graph.py:graph: ZeroDivisionError: division by zero (graph.py, line 1)"),
        ({"graphs": {"g": 5}}, GRAPH, "graphs.g: Input should be a valid dictionary"),
        (
            {"http": {"app": "./web.py:app"}},
            GRAPH,
            "http.app: its lifespan raised RuntimeError: no cache (web.py, line 7)",
        ),
    ],
)
async def test_a_mistake_in_the_project_is_told(
    database: str, tmp_path: Path, config: dict[str, Any], source: str, reason: str
) -> None:
    """Issue: a missing dependency, a wrong key, code that raises."""
    write(tmp_path, config, graph=source, web=FAILING)
    line, logged = await refusal(tmp_path, "serve", DATABASE_URI=database)

    assert reason in line
    assert [one for one in logged if one["level"] != "info"] == []


async def test_keys_and_dependencies_that_do_nothing_are_named(postgres: str, tmp_path: Path) -> None:
    """Issue: the line that tells of them names them, though it comes before the settings are read."""
    write(
        tmp_path, {"grpahs": {}, "http": {"mount": "/x"}, "dependencies": ["no-such-thing"], "python_version": "3.12"}
    )
    _, logged = await refusal(tmp_path, "migrate", DATABASE_URI=make_conninfo(postgres, dbname="nope"))
    told = {one["message"]: one for one in logged}

    assert told["keys without an effect on this server are ignored"]["keys"] == ["grpahs", "http.mount"]
    assert told["keys that only build an image are ignored"]["keys"] == ["python_version"]
    assert told["dependencies of the project are not installed"]["dependencies"] == ["no-such-thing"]
