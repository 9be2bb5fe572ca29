"""Fixtures: one server of the graphs of AG-UI for each file of tests, and a client that holds each event to its type."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest

from agui_graphs import AGUI_GRAPHS
from conftest import TEMPLATE, WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

LOADED = {name: as_loaded_graph(name, graph, where="tests") for name, graph in AGUI_GRAPHS.items()}


@pytest.fixture(scope="module")
def module_settings(
    postgres: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """The defaults, on a database of the file's own."""
    name = f"test_agui_{Path(request.node.path).stem}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    uri = psycopg.conninfo.make_conninfo(postgres, dbname=name)
    return Settings(database_uri=uri, data_dir=tmp_path_factory.mktemp(name), host="127.0.0.1", port=0)


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of the file's server."""
    async with serving(module_settings, LOADED) as url:
        yield url


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the file's server."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        yield http
