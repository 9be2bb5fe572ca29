"""Fixtures: a real Postgres for the session, a database for each test, a real server in the test's own event loop."""

import threadkeep  # before langgraph, whose strict msgpack it turns on

# isort: split
import functools
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import anyio
import anyio.abc
import certifi
import httpx
import psycopg
import pytest
import uvicorn
from blockbuster import BlockBuster
from langgraph.graph import StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from clean_database import CleanDatabase
from clusters import cluster_of
from faults import forks
from faults.servers import Replica
from graphs import GRAPHS, Gate
from threadkeep.api.connections import uvicorn_config
from threadkeep.app import create_app
from threadkeep.auth.api_keys import generate_key
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.postgres import embedded, migrate
from threadkeep.project import Project
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

MakeKey = Callable[..., Awaitable[str]]

TEMPLATE = "threadkeep_template"
WAIT_S = 5.0
"""The most seconds that a test waits for anything."""
ACTIVE_RUNS = "SELECT 1 FROM runs WHERE status IN ('pending', 'running') LIMIT 1"
EMPTY: tuple[LiteralString, ...] = (
    "DELETE FROM crons",
    "DELETE FROM threads",
    "DELETE FROM assistants WHERE NOT is_system",
    "DELETE FROM checkpoints",
    "DELETE FROM checkpoint_blobs",
    "DELETE FROM checkpoint_writes",
    "DELETE FROM store",
    "DELETE FROM store_item_counts",
    "DELETE FROM idempotency_keys",
    "DELETE FROM webhook_deliveries",
)
"""The statement that deletes the rows that clients created. Rows of the server, such as its heartbeat, stay."""
LONG_FILES = (
    "test_code_blocks.py",
    "test_projects.py",
    "hostile/test_corpus.py",
    "races/test_model.py",
    "hostile/test_stored.py",
    "auth/test_permissions.py",
    "console/test_chat.py",
    "console/test_accessible.py",
    "console/test_large.py",
    "test_commands.py",
    "auth/test_ownership.py",
    "test_serve.py",
    "faults/test_stops.py",
    "faults/test_kills.py",
    "mcp/test_tasks.py",
    "postgres/test_embedded.py",
    "test_dev.py",
    "test_stop.py",
    "api/test_protocol_stop.py",
    "clients/test_generated.py",
    "faults/test_large_answers.py",
    "faults/test_outages.py",
    "faults/test_growth.py",
    "console/test_survival.py",
)
"""The files that take longest. They come first, so that no process is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {str(Path(__file__).parent / name): number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(str(item.path), len(order)))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _small_certificate_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One authority in place of 140: each HTTP client reads them, which takes 30 ms of CPU time."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("certificates") / "authority.pem"
    path.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_starts() -> Iterator[None]:
    """The servers of `faults` are forks of one process, which `make faults` starts afresh. Schemas are read once.

    A server of the test graphs reads the types of their states at its start, which takes 10 ms of CPU time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "launch", staticmethod(forks.start))
        patch.setattr(threadkeep.graphs, "state_types", functools.lru_cache(256)(threadkeep.graphs.state_types))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine applies in a test."""
    for name in list(os.environ):
        if name.startswith(
            ("THREADKEEP_", "PG", "AUTH_", "ALLOW_", "DATABASE_", "POSTGRES_", "LANGGRAPH_API", "LANGSMITH_")
        ):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A call that blocks the event loop, from our own code, fails the test."""
    guard = BlockBuster(scanned_modules=["threadkeep"])
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a Postgres whose template database is migrated: the embedded one, or of the programs in TEST_POSTGRES_BIN.

    Not in pytest's own folder, of which it keeps the last three: a fourth session would lose its data.
    """
    binaries = os.environ.get("TEST_POSTGRES_BIN")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        uri = stack.enter_context(
            cluster_of(Path(binaries)) if binaries else embedded.embedded_postgres(Path(folder), durable=False)
        )
        _administer(uri, f"CREATE DATABASE {TEMPLATE}")
        anyio.run(migrate.migrate, psycopg.conninfo.make_conninfo(uri, dbname=TEMPLATE))
        yield uri


@pytest.fixture(scope="session")
def clean_database(postgres: str) -> CleanDatabase:
    """The database that the tests of this process use in turn."""
    return CleanDatabase(postgres, "test", TEMPLATE)


@pytest.fixture
def database(clean_database: CleanDatabase) -> Iterator[str]:
    """The URI of a migrated and empty database, which the test has for itself."""
    clean_database.prepare()
    yield clean_database.uri
    clean_database.disconnect()


def _administer(uri: str, statement: Any) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(statement)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Holds the node of the graph `gated` until the test opens it."""
    gate = Gate()
    token = Gate.current.set(gate)
    Gate.latest = gate
    yield gate
    Gate.current.reset(token)


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    """The default settings, on the test's database."""
    return Settings(database_uri=database, data_dir=tmp_path, host="127.0.0.1", port=0)


@pytest.fixture(scope="module")
def module_settings(
    postgres: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """The default settings, on a database of the file's own."""
    path = Path(request.node.path)
    name = f"test_{path.parent.name}_{path.stem}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    uri = psycopg.conninfo.make_conninfo(postgres, dbname=name)
    return Settings(database_uri=uri, data_dir=tmp_path_factory.mktemp(name), host="127.0.0.1", port=0)


@pytest.fixture
def make_key(database: str) -> MakeKey:
    """Makes the key of an identity, as `threadkeep keys create` does."""
    return key_maker(database)


def key_maker(database: str) -> MakeKey:
    """As the fixture `make_key`, for any database."""

    async def make(identity: str, *scopes: str, lives_s: float | None = None) -> str:
        secret, row = generate_key(identity, "test", scopes, lives_s)
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
            await api_keys.create(conn, row)
        return secret

    return make


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@functools.cache
def compiled_graphs() -> Mapping[str, Any]:
    """The test graphs, each compiled once: a server of them starts sooner."""
    graphs: Mapping[str, Any] = GRAPHS
    return {name: graph.compile() if type(graph) is StateGraph else graph for name, graph in graphs.items()}


@asynccontextmanager
async def serving(
    settings: Settings,
    graphs: Mapping[str, LoadedGraph] | None = None,
    project: Project | None = None,
    *,
    keep_alive_s: int = 5,
) -> AsyncIterator[str]:
    """A server of `graphs` (by default the test graphs), listening on a port of its own; yields its URL."""
    loaded = graphs or {name: as_loaded_graph(name, graph, where="tests") for name, graph in compiled_graphs().items()}
    app = await anyio.to_thread.run_sync(create_app, settings, str(settings.database_uri), loaded, project)
    config = uvicorn_config(
        app, settings, port=0, lifespan="on", timeout_graceful_shutdown=1, timeout_keep_alive=keep_alive_s
    )
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        with anyio.fail_after(WAIT_S * 2):
            while not server.started:
                await anyio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            Gate.open_all()
            server.should_exit = True


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server of the test graphs."""
    async with serving(settings) as url:
        yield url


@pytest.fixture(scope="module")
async def file_server(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of a server of the test graphs that lives as long as the file's tests."""
    async with serving(module_settings) as url:
        yield url


@pytest.fixture
async def emptied_server(file_server: str, module_settings: Settings) -> AsyncIterator[str]:
    """The URL of the file's server, whose database holds nothing of another test.

    A server of its own costs a test 0.2 s of CPU time. Files whose tests need none return this one from their `url`.
    """
    yield file_server
    Gate.open_all()
    uri = str(module_settings.database_uri)
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        with anyio.fail_after(WAIT_S * 4):
            while (await (await conn.execute(ACTIVE_RUNS)).fetchone()) is not None:
                await anyio.sleep(0.01)
        for statement in EMPTY:
            await conn.execute(statement)


@pytest.fixture
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    """The official client."""
    async with get_client(url=url, api_key=None) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client, for details that the official client hides."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        yield http


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two servers on one database."""
    async with (
        serving(settings) as one,
        serving(settings) as other,
        httpx.AsyncClient(base_url=one, timeout=WAIT_S) as http,
        httpx.AsyncClient(base_url=other, timeout=WAIT_S) as elsewhere,
    ):
        yield http, elsewhere
