"""Fixtures: one server of the graphs of the OpenAI API for each file of tests, and OpenAI's client of it."""

from collections.abc import AsyncIterator

import httpx
import pytest
from openai import AsyncOpenAI

from conftest import WAIT_S, serving
from openai_graphs import OPENAI_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """The URL of the file's server."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in OPENAI_GRAPHS.items()}
    async with serving(module_settings, loaded) as url:
        yield url


@pytest.fixture(scope="module")
async def openai(url: str) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client. It sends nothing twice, so that a test sees the first answer."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=WAIT_S * 2) as client:
        yield client


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """For what OpenAI's client does not show."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        yield http
