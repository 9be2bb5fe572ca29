"""Questions of a graph, answered from the page by mouse and keyboard, in each of their three forms."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from conftest import serving
from console_graphs import CONSOLE_GRAPHS
from console_page import choose_assistant, log, open_thread, say
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
async def elsewhere(settings: Settings) -> AsyncIterator[str]:
    """The console of another process on the same database."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    async with serving(settings, graphs) as url:
        yield f"{url}/console/"


async def ask(page: Page, console: str, assistant: str) -> str:
    """Start a run of a graph that asks, and wait for its question."""
    await page.goto(console)
    await choose_assistant(page, assistant)
    await say(page, "go")
    await expect(page.locator(".interrupt").first).to_be_visible()
    return await open_thread(page)


async def test_two_actions_are_decided_by_the_keyboard_on_another_process(
    console: str, elsewhere: str, page: Page
) -> None:
    """Issue: the first is edited, the second refused with words."""
    thread = await ask(page, console, "review")
    await page.goto(f"{elsewhere}threads/{thread}")
    await expect(page.locator(".interrupt")).to_have_count(2)
    await expect(page.get_by_label("Assistant", exact=True).locator("option:checked")).to_have_text("review")
    await expect(page.locator(".interrupt").first).to_be_focused()
    await page.keyboard.press("e")
    await page.locator(".interrupt").first.get_by_label("to").fill("ann@example.com")
    await page.locator(".interrupt").first.get_by_role("button", name="Send", exact=True).press("Enter")
    await expect(page.locator(".interrupt").last).to_be_focused()
    await page.keyboard.press("r")
    await expect(page.get_by_label("Reason (optional)")).to_be_focused()
    await page.keyboard.type("keep it")
    await page.keyboard.press("Enter")
    await expect(log(page)).to_contain_text("'ann@example.com'")
    await expect(log(page)).to_contain_text("'message': 'keep it'")
    await expect(page.locator(".interrupt")).to_have_count(0)


async def test_older_form_is_answered(console: str, page: Page) -> None:
    await ask(page, console, "inbox")
    await page.get_by_role("button", name="Approve").click()
    await expect(log(page)).to_contain_text("'type': 'accept'")
    await expect(log(page)).to_contain_text("'args': {'day': 'Monday'}")


@pytest.mark.parametrize(
    ("typed", "is_json", "answer"), [("the left one", False, "'the left one'"), ('{"n": 1}', True, "{'n': 1}")]
)
async def test_any_other_value_is_answered_by_text_or_json(
    console: str, page: Page, typed: str, is_json: bool, answer: str
) -> None:
    """Issue: others can't answer a plain interrupt."""
    await ask(page, console, "plain")
    await expect(page.locator(".interrupt")).to_contain_text("which?")
    await page.get_by_label("Your answer", exact=True).fill(typed)
    if is_json:
        await page.locator(".interrupt").get_by_label("JSON").check()
    await page.get_by_role("button", name="Send answer").click()
    await expect(log(page)).to_contain_text(f"The answer was {answer}")


async def test_of_two_tabs_that_answer_one_wins_and_the_other_is_told(
    console: str, page: Page, browser: Browser
) -> None:
    thread = await ask(page, console, "plain")
    context: Any = await browser.new_context()
    other = await context.new_page()
    await other.goto(f"{console}threads/{thread}")
    await other.get_by_label("Your answer", exact=True).fill("mine")
    await page.get_by_label("Your answer", exact=True).fill("theirs")
    await page.get_by_role("button", name="Send answer").click()
    await expect(log(page)).to_contain_text("'theirs'")
    answer = other.get_by_role("button", name="Send answer")
    if await answer.count():  # the other tab may have heard of it
        await answer.click(timeout=1000)
        await expect(other.get_by_text("already been answered elsewhere")).to_be_visible()
    await expect(log(other)).to_contain_text("'theirs'")
    await context.close()


async def test_threads_that_wait_stand_first(console: str, page: Page) -> None:
    await ask(page, console, "plain")
    await page.get_by_role("link", name="New chat").click()
    await choose_assistant(page, "echo")
    await say(page, "newer")
    await expect(page.locator(".threads h2")).to_have_text(["Waiting for you (1)", "Today"])
    await expect(page).to_have_title("(1) Threads · Threadkeep")
