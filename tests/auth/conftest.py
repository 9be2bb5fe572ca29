"""Fixtures: a server with API keys, and clients that have one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from conftest import WAIT_S, serving
from threadkeep.settings import Settings

MakeKey = Callable[..., Awaitable[str]]


@pytest.fixture
async def keyed_url(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server of the test graphs that asks for API keys."""
    async with serving(settings.model_copy(update={"auth_type": "api_key"})) as url:
        yield url


@pytest.fixture
async def stranger(keyed_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    async with httpx.AsyncClient(base_url=keyed_url, timeout=WAIT_S) as http:
        yield http


@pytest.fixture
async def ada(keyed_url: str, make_key: MakeKey) -> AsyncIterator[httpx.AsyncClient]:
    """Ada, with her key."""
    async with _with_key(keyed_url, await make_key("ada")) as http:
        yield http


@pytest.fixture
async def bob(keyed_url: str, make_key: MakeKey) -> AsyncIterator[httpx.AsyncClient]:
    """Bob, with his."""
    async with _with_key(keyed_url, await make_key("bob")) as http:
        yield http


def _with_key(url: str, key: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": key}, **options)
