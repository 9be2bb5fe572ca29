"""Pictures of ten views for people to look at, in light, dark and on a phone: `make shots` writes them to build/shots."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from conftest import serving
from console_graphs import CONSOLE_GRAPHS
from console_page import choose_assistant, open_thread, say
from threadkeep.agent import build
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

FOLDER = os.environ.get("CONSOLE_SHOTS")
STYLES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "color_scheme": "light"},
}
SETTLED_MS = 800
"""Until a view shows what it has read. Nobody compares the pictures, so that nothing fails if this is short."""
CHARTED_MS = 7000
"""Until the charts of the server have some points."""

pytestmark = pytest.mark.skipif(FOLDER is None, reason="no pictures wanted: make shots")


@pytest.fixture
async def built_in(settings: Settings) -> AsyncIterator[str]:
    """The console of a server of the built-in agent and some of the console's graphs."""
    chosen = {"agent": build(), **{name: CONSOLE_GRAPHS[name] for name in ("review", "chain", "failing")}}
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in chosen.items()}
    async with serving(settings, graphs) as url:
        yield f"{url}/console/"


async def converse(page: Page, console: str) -> str:
    """Conversations, one with a tool, a failed run and a question; the id of that with the tool."""
    for text in ("What time is it in Europe/Berlin?", "Remember that Bob prefers tea."):
        await page.goto(console)
        await say(page, text)
        await expect(page.locator("article.ai").last).to_be_visible()
        await expect(page.locator(".live")).to_have_count(0)
    await page.goto(console)
    await say(page, "My name is Ada. What is 17 * 23?")
    await expect(page.locator(".markdown").last).to_contain_text("391")
    thread = await open_thread(page)
    await page.goto(console)
    await choose_assistant(page, "failing")
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.get_by_text("The run failed.")).to_be_visible()
    await page.goto(console)
    await choose_assistant(page, "review")
    await say(page, "Tidy up and tell Bob")
    await expect(page.locator(".interrupt").first).to_be_visible()
    return thread


@pytest.mark.parametrize("style", STYLES)
async def test_pictures_of_the_views(built_in: str, browser: Browser, style: str) -> None:
    context = await browser.new_context(**STYLES[style])
    page = await context.new_page()
    thread = await converse(page, built_in)
    question = await open_thread(page)
    views = {
        "new": "",
        "chat": f"threads/{thread}",
        "question": f"threads/{question}",
        "inspector": f"threads/{thread}?inspect=1",
        **{name: name for name in ("threads", "waiting", "runs", "assistants", "store", "server")},
    }
    for name, address in views.items():
        await page.goto(built_in + address)
        await expect(page.locator("main")).to_be_visible()
        await page.wait_for_timeout(CHARTED_MS if name == "server" else SETTLED_MS)
        await page.screenshot(path=Path(str(FOLDER)) / f"{name}-{style}.png")
    await context.close()
