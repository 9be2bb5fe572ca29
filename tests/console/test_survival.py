"""Issue: a conversation that survives `kill -9` in front of your eyes, and ends whole without a click."""

import json
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from console_page import log, say, until_shown
from faults.servers import Place, Replica, free_port

GRAPH = "from threadkeep.agent import build\n\nagent = build(pause_s=0.1)\n"
SETTINGS = {"THREADKEEP_LEASE": "1.5", "THREADKEEP_SWEEP": "0.3"}


@pytest.fixture
def place(database: str) -> Generator[Place]:
    """With a project of the built-in agent, which pauses before each word."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), database)
        (place.folder / "graph.py").write_text(GRAPH)
        (place.folder / "langgraph.json").write_text(
            json.dumps({"dependencies": ["."], "graphs": {"agent": "./graph.py:agent"}})
        )
        yield place


async def test_answer_is_whole_after_the_server_was_killed_in_the_middle(place: Place, page: Page) -> None:
    server = Replica(place, SETTINGS, free_port())
    await server.start()
    try:
        await page.goto(f"{server.url}/console/")
        await say(page, "Say it all")
        await expect(log(page)).to_contain_text("This is the offline model")
        await server.kill()
        await expect(page.locator(".live")).to_contain_text("Reconnecting")
        await expect(log(page)).to_contain_text("This is the offline model")

        await server.start()
        await expect(log(page)).to_contain_text("puts a language model in its place.", timeout=30_000)
        await until_shown(page, "Say it all", "You wrote: “Say it all”. This is the offline model")
    finally:
        await server.kill()
