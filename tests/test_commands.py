"""`threadkeep new` and `threadkeep check`, as a user calls them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread
import httpx
import psycopg
import pytest
from psycopg import sql

from conftest import serving
from faults import forks
from threadkeep import graphs, project
from threadkeep.commands.new_project import TEMPLATES, create_project
from threadkeep.graphs import LoadedGraph
from threadkeep.settings import Settings

INPUTS = {
    "chat": ({"messages": [{"role": "user", "content": "My name is Ada."}]}, "Hello, Ada."),
    "tools": ({"messages": [{"role": "user", "content": "What is 6 * 7?"}]}, "42"),
    "rag": ({"messages": [{"role": "user", "content": "What does a membership cost?"}]}, "20 euros"),
    "approval": ({"to": "bob", "text": "hello"}, "Send this to bob?"),
}


def _threadkeep(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return forks.run(*arguments, cwd=cwd, env=_environment(**environment))


def _environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project_passes_its_own_test(tmp_path: Path, template: str) -> None:
    """Issue: it runs offline, with a test of its own."""
    made = _threadkeep("new", "mine", "--template", template, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert {"agent.py", "langgraph.json", ".env", ".gitignore", "test_agent.py"} <= {
        path.name for path in (tmp_path / "mine").iterdir()
    }

    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "mine",
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout


def _load(folder: Path, template: str) -> Mapping[str, LoadedGraph]:
    create_project(folder, template)
    return graphs.load_graphs(project.load_project(folder / "langgraph.json"))


@pytest.mark.parametrize("template", TEMPLATES)
async def test_a_new_project_is_served(tmp_path: Path, settings: Settings, template: str) -> None:
    """Issue: `threadkeep new` and then `threadkeep dev` is the whole way."""
    loaded = await anyio.to_thread.run_sync(_load, tmp_path / template, template)
    body, said = INPUTS[template]
    async with serving(settings, loaded) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        answer = await http.post("/runs/wait", json={"assistant_id": "agent", "input": body})

    assert said in answer.text


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    """Ours: nothing is overwritten."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "agent.py").write_text("mine")
    made = _threadkeep("new", "mine", cwd=tmp_path)

    assert made.returncode == 1
    assert made.stderr == "threadkeep: mine exists already: choose another name, or empty it\n"
    assert (tmp_path / "mine" / "agent.py").read_text() == "mine"


def test_check_tells_what_it_found(tmp_path: Path, database: str) -> None:
    """Issue: project, graphs, database."""
    create_project(tmp_path / "mine", "chat")
    checked = _threadkeep("check", cwd=tmp_path / "mine", DATABASE_URI=database)

    assert checked.returncode == 0, checked.stderr
    found = dict(line.split(maxsplit=1) for line in checked.stdout.splitlines())
    assert found["graphs"] == "agent"
    assert found["callers"] == "none"
    assert "connections" in found["postgres"]
    assert checked.stdout.endswith("a server can start\n")


def test_check_counts_the_connections_that_a_start_counts(tmp_path: Path, database: str) -> None:
    """Ours: it only looked at max_connections, and a server then refused to start."""
    create_project(tmp_path / "mine", "chat")
    with psycopg.connect(database, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 5").format(name))
        checked = _threadkeep("check", cwd=tmp_path / "mine", DATABASE_URI=database)
        conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))

    assert checked.returncode == 1
    assert "this process may open 16 connections" in checked.stderr.splitlines()[-1]
    assert "and Postgres allows 5" in checked.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("langgraph.json", "{", "langgraph.json"),
        ("agent.py", "graph = (", "'(' was never closed"),
        ("agent.py", "other = 1", "agent.py has no graph"),
        (".env", "DATABASE_URI=postgresql://127.0.0.1:1/none", "127.0.0.1"),
        (".env", "THREADKEEP_PRINCIPAL_ITEMS=many", "THREADKEEP_PRINCIPAL_ITEMS"),
    ],
)
def test_check_refuses_what_a_server_would(tmp_path: Path, file: str, text: str, told: str) -> None:
    """Issue: one line that says what is wrong."""
    create_project(tmp_path / "mine", "chat")
    (tmp_path / "mine" / file).write_text(text)
    checked = _threadkeep("check", cwd=tmp_path / "mine", THREADKEEP_DATA_DIR=str(tmp_path / "data"))

    assert checked.returncode == 1
    assert told in checked.stderr.splitlines()[-1]
