"""Fixtures: one server of the graphs of AG-UI for each file of tests, and a client that holds each event to its type."""

from collections.abc import AsyncIterator

import httpx
import pytest

from agui_graphs import AGUI_GRAPHS
from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

LOADED = {name: as_loaded_graph(name, graph, where="tests") for name, graph in AGUI_GRAPHS.items()}


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
