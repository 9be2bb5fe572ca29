"""A real browser on a real server: Debian's Chromium, whose page must break no policy and call no other host."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from browsers import CHROMIUM, MISSING
from conftest import serving
from console_graphs import CONSOLE_GRAPHS
from console_page import Watch
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--host-resolver-rules=MAP rebound.example 127.0.0.1",
)
SEEN_MS = 10_000
"""The longest that a test waits for something to be seen."""

expect.set_options(timeout=SEEN_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of this folder that need the browser are skipped without it."""
    for item in items:
        if item.path.parent == Path(__file__).parent and CHROMIUM is None and item.path.name != "test_build.py":
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="module")  # for the session it would keep an event loop, beside which others can't run theirs
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
async def file_server(module_settings: Settings) -> AsyncIterator[str]:
    """A server of the console's graphs, for all tests of a file."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    async with serving(module_settings, graphs) as url:
        yield url


@pytest.fixture
def console(emptied_server: str) -> str:
    """The address of the console of the file's server, which has no rows of another test."""
    return f"{emptied_server}/console/"


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page of a browser session of its own. It raises no error, breaks no policy and calls no other host."""
    context: Any = await browser.new_context(
        viewport={"width": 1280, "height": 800}, locale="en-US", permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(SEEN_MS)
    page = await context.new_page()
    watch = Watch(page)
    yield page
    await context.close()
    assert watch.errors == []
    assert watch.violations == []
    assert watch.foreign() == []
