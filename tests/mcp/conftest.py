"""Fixtures: one server of the graphs of MCP for each file of tests, and what its tests call it with."""

from collections.abc import AsyncIterator

import httpx
import pytest

from conftest import WAIT_S, serving
from mcp_graphs import MCP_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of the file's server."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in MCP_GRAPHS.items()}
    async with serving(module_settings, loaded) as url:
        yield url


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client, for details that the official client hides."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        yield http
