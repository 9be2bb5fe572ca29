"""The image and compose files: base images by digest, and a role for the server that is no superuser."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import psycopg
import pytest
import yaml

import schema
from conftest import WAIT_S, serving
from threadkeep.postgres import embedded, migrate
from threadkeep.settings import Settings

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "compose.yaml", "docs/examples/compose.project.yaml", "docs/examples/compose.tls.yaml")
OUR_OWN = {"threadkeep", "base", "my-agent"}
PINNED = re.compile(r"[a-z]+:[\w.-]+@sha256:[0-9a-f]{64}")


def test_base_images_are_pinned_by_digest() -> None:
    """A tag can be moved to another image, a digest can't."""
    found = [
        image
        for name in FILES
        for image in re.findall(r"^\s*(?:FROM|image:) (\S+)", (ROOT / name).read_text(), re.MULTILINE)
        if image not in OUR_OWN
    ]

    assert [image for image in found if not PINNED.fullmatch(image)] == []
    assert len(found) == 4


def test_compose_runs_the_server_as_the_role_that_the_script_makes() -> None:
    """Issue: it was the superuser. The image's superuser is `postgres` if no name is given."""
    services: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    uris = {name: service["environment"].get("DATABASE_URI") for name, service in services.items()}
    uri = "postgresql://threadkeep:${POSTGRES_PASSWORD:-threadkeep}@postgres:5432/threadkeep"
    script = "./docker/create-server-role.sql:/docker-entrypoint-initdb.d/create-server-role.sql:ro"

    assert uris == {"postgres": None, "migrate": uri, "server": uri}
    assert "POSTGRES_USER" not in services["postgres"]["environment"]
    assert script in services["postgres"]["volumes"]


def test_compose_of_a_project_makes_the_same_role_and_holds_no_secret() -> None:
    """Issue: compose with your own graphs. It is a copy of compose.yaml that needs no clone."""
    compose: Any = yaml.safe_load((ROOT / "docs/examples/compose.project.yaml").read_text())
    ours: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    uri = "postgresql://threadkeep:${POSTGRES_PASSWORD:?choose a password}@postgres:5432/threadkeep"

    assert (
        compose["configs"]["create-server-role"]["content"].strip()
        == (ROOT / "docker" / "create-server-role.sql").read_text().strip()
    )
    assert services["postgres"]["image"] == ours["services"]["postgres"]["image"]
    assert {services[name]["environment"]["DATABASE_URI"] for name in ("migrate", "server")} == {uri}
    assert services["server"]["stop_grace_period"] == ours["services"]["server"]["stop_grace_period"]


def test_compose_of_open_webui_calls_the_server() -> None:
    """No container engine runs here, so only its names are compared with those of compose.yaml."""
    server: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["server"]
    chat: Any = yaml.safe_load((ROOT / "docs/examples/compose.open-webui.yaml").read_text())["services"]["chat"]

    assert chat["environment"]["OPENAI_API_BASE_URL"] == f"http://server:{server['environment']['PORT']}/v1"
    assert chat["environment"]["ENABLE_FORWARD_USER_INFO_HEADERS"] == "true"
    assert chat["profiles"] == ["chat"]
    assert set(chat["depends_on"]) == {"server"}


@pytest.fixture
def compose_database(tmp_path: Path) -> Iterator[str]:
    """A Postgres that was made as the one of compose.yaml. The superuser's URI."""
    with embedded.embedded_postgres(tmp_path / "data", durable=False) as uri:
        admin = _as_in_the_image(uri)
        _run_script(admin)
        yield admin


async def test_role_of_compose_serves_and_is_no_superuser(settings: Settings, compose_database: str) -> None:
    """The init script of Postgres makes a role that can migrate and serve with row-level security, and nothing more."""
    async with await psycopg.AsyncConnection.connect(compose_database) as conn:
        cursor = await conn.execute(
            """
            SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, left(rolpassword, 13)
              FROM pg_authid
             WHERE rolname IN ('postgres', 'threadkeep')
             ORDER BY rolname
            """
        )
        roles = await cursor.fetchall()
    server_uri = compose_database.replace("postgres@", "threadkeep@")
    await migrate.migrate(server_uri)
    chosen = settings.model_copy(update={"database_uri": server_uri})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        info = (await http.get("/info")).json()
        ran = await http.post("/runs/wait", json={"assistant_id": "chain", "input": {"items": []}})

    assert roles == [
        ("postgres", True, True, True, True, None),
        ("threadkeep", False, False, False, False, "SCRAM-SHA-256"),
    ]
    assert info["row_level_security"] is True
    assert ran.json() == {"items": ["first", "second"]}


async def test_data_of_an_older_volume_is_moved_to_the_role(
    settings: Settings, tmp_path: Path, compose_database: str
) -> None:
    """docs/operations.md#compose: what an older volume holds belongs to a superuser, and is restored for the new role."""
    thread = {"thread_id": "00000000-0000-4000-8000-000000000001", "metadata": {"kept": True}}
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        made = await http.post("/threads", json=thread)
        run = {"assistant_id": "chain", "input": {"items": []}}
        before = (await http.post(f"/threads/{thread['thread_id']}/runs/wait", json=run)).json()
    dump = str(tmp_path / "threadkeep.dump")
    restore = ["--no-owner", "--role=threadkeep", f"--dbname={compose_database}", "--exit-on-error"]
    await _program("pg_dump", "--format=custom", f"--file={dump}", str(settings.database_uri))
    await _program("pg_restore", *restore, dump)
    moved = settings.model_copy(update={"database_uri": compose_database.replace("postgres@", "threadkeep@")})
    await migrate.migrate(str(moved.database_uri))
    async with serving(moved) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        state = (await http.get(f"/threads/{thread['thread_id']}/state")).json()
        after = await http.post(f"/threads/{thread['thread_id']}/runs/wait", json=run)
        info = (await http.get("/info")).json()

    assert made.json()["metadata"] == thread["metadata"]
    assert (state["values"], after.status_code, info["row_level_security"]) == (before, 200, True)


async def _program(name: str, *arguments: str) -> None:
    """Run a program that comes with the embedded Postgres."""
    command = [schema.program(name), *arguments]
    done = await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert done.returncode == 0, done.stderr


def _as_in_the_image(uri: str) -> str:
    """A superuser named `postgres` and an empty database, and no role of ours. The superuser's URI."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("CREATE ROLE renaming SUPERUSER LOGIN")
        conn.execute("CREATE DATABASE shop")
    with psycopg.connect(uri.replace("threadkeep@", "renaming@"), autocommit=True) as conn:
        conn.execute("ALTER ROLE threadkeep RENAME TO postgres")
        conn.execute("ALTER ROLE postgres PASSWORD 'secret'")
    return uri.replace("threadkeep@/threadkeep?", "postgres@/shop?")


def _run_script(uri: str) -> None:
    """As the image does it."""
    script = ROOT / "docker" / "create-server-role.sql"
    command = ["psql", "-v", "ON_ERROR_STOP=1", "--no-password", "--no-psqlrc", f"--dbname={uri}", f"--file={script}"]
    environment = {**os.environ, "POSTGRES_PASSWORD": "it's secret"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
