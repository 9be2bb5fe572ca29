"""The image and compose files: base images by digest, and a role for the server that is no superuser."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from threadkeep.postgres import embedded, migrate
from threadkeep.settings import Settings

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "compose.yaml", "docs/examples/compose.tls.yaml")
OUR_OWN = {"threadkeep", "base"}
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
    assert len(found) == 3


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
