"""What is seen at each moment of a run, and that a reload shows the same."""

from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Page, expect

from conftest import serving
from console_graphs import CONSOLE_GRAPHS
from console_page import choose_assistant, log, open_thread, say, shown, until_shown
from graphs import Gate
from threadkeep.agent import build
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

RELOAD_MS = 1000 * 3
"""A second, as the issue asks, on a machine that does other things too."""


@pytest.fixture
async def one_slot(settings: Settings) -> AsyncIterator[str]:
    """The console of a server that runs one graph at a time, with the built-in agent too."""
    chosen = {"built-in": build(), **CONSOLE_GRAPHS}
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in chosen.items()}
    async with serving(settings.model_copy(update={"run_slots": 1}), graphs) as url:
        yield f"{url}/console/"


async def test_reload_at_each_moment_of_a_run_shows_what_was_shown(one_slot: str, page: Page, gate: Gate) -> None:
    """Issue: waiting for a slot, in a tool, interrupted and failed. The moment of streaming has a test of its own."""
    await page.goto(one_slot)
    await choose_assistant(page, "tooling")
    await say(page, "what is tea?")
    call = page.locator("details.call summary")
    await expect(call).to_contain_text("look_up(tea)")
    await page.wait_for_url("**/threads/*")
    await gate.entered()
    await page.reload()
    await expect(call).to_contain_text("look_up(tea)", timeout=RELOAD_MS)
    await expect(page.locator(".live")).to_contain_text("Running", timeout=RELOAD_MS)

    waiting = await page.context.new_page()
    await waiting.goto(one_slot)
    await choose_assistant(waiting, "echo")
    await say(waiting, "after you")
    await expect(waiting.get_by_text("Waiting for a free slot")).to_be_visible()
    await waiting.wait_for_url("**/threads/*")
    await waiting.reload()
    await expect(log(waiting)).to_contain_text("after you", timeout=RELOAD_MS)
    await expect(waiting.get_by_text("Waiting for a free slot")).to_be_visible(timeout=RELOAD_MS)

    gate.open()
    await expect(log(page)).to_contain_text("Tea is a drink.")
    await expect(call).to_contain_text("a drink")
    await until_shown(waiting, "after you", "after you")
    await waiting.close()

    await page.goto(one_slot)
    await choose_assistant(page, "plain")
    await say(page, "ask me")
    await expect(page.locator(".interrupt")).to_contain_text("which?")
    await page.wait_for_url("**/threads/*")
    await page.reload()
    await expect(page.locator(".interrupt")).to_contain_text("which?", timeout=RELOAD_MS)

    await page.goto(one_slot)
    await choose_assistant(page, "failing")
    await page.get_by_role("button", name="Run", exact=True).click()
    failed = page.get_by_role("alert").filter(has_text="The run failed.")
    await expect(failed).to_be_visible()
    await page.wait_for_url("**/threads/*")
    await page.reload()
    await expect(failed).to_be_visible(timeout=RELOAD_MS)


async def test_question_of_the_built_in_agent_stands_in_its_order_at_every_moment(one_slot: str, page: Page) -> None:
    """Issue: the user's message, the question, the answer; also while it waits, and after a reload."""
    await page.goto(one_slot)
    await choose_assistant(page, "built-in")
    await say(page, "Ask a human whether to send the mail")
    question = page.locator(".interrupt")
    for moment in ("asked", "reloaded"):
        await expect(question).to_contain_text("send the mail?")
        texts = await shown(page)
        assert texts[0].startswith("Ask a human whether to send the mail"), moment
        below = await page.evaluate(
            """() => document.querySelector('.interrupt').compareDocumentPosition(document.querySelector('article.human'))
                     & Node.DOCUMENT_POSITION_PRECEDING"""
        )
        assert below, moment
        if moment == "asked":
            await open_thread(page)
            await page.reload()
    await question.get_by_label("Your answer", exact=True).fill("Yes, please")
    await page.keyboard.press("Enter")
    await expect(question).to_have_count(0)
    await expect(page.locator(".live")).to_have_count(0)
    for _ in range(2):
        text = await log(page).inner_text()
        places = [text.index(part) for part in ("Ask a human whether to send the mail", "ask_human", "Yes, please")]
        assert places == sorted(places)
        await page.reload()
        await expect(log(page)).to_contain_text("Yes, please")
    async with httpx.AsyncClient(base_url=one_slot.removesuffix("/console/")) as http:
        state = (await http.get(f"/threads/{await open_thread(page)}/state")).json()
    assert [message["type"] for message in state["values"]["messages"]] == ["human", "ai", "tool", "ai"]
