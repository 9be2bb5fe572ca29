"""Questions of a graph, answered from the page by mouse and keyboard, in each of their three forms."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from playwright.async_api import Browser, Page, expect

from conftest import serving
from console_graphs import CONSOLE_GRAPHS
from console_page import choose_assistant, log, open_thread, say
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
async def elsewhere(module_settings: Settings) -> AsyncIterator[str]:
    """The console of another process on the same database."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    async with serving(module_settings, graphs) as url:
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


async def press_at_once(page: Page, *keys: str) -> None:
    """Press keys at once: none waits for what the one before it did to the page."""
    session = await page.context.new_cdp_session(page)
    async with anyio.create_task_group() as group:
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                group.start_soon(session.send, "Input.dispatchKeyEvent", {"type": kind, "key": key, "text": key})


async def test_keys_pressed_at_once_decide_one_action_each(console: str, page: Page) -> None:
    """Earlier a second key was lost: it came before the second card had the focus."""
    await ask(page, console, "many")
    await expect(page.locator(".interrupt").first).to_be_focused()
    await press_at_once(page, *["a"] * 19)
    await expect(page.locator(".interrupt").last).to_be_focused()
    await expect(page.locator(".interrupt").last.get_by_role("button", name="Approve")).to_be_visible()
    await page.keyboard.press("r")
    await page.keyboard.press("Enter")
    decisions = [{"type": "approve"}] * 19 + [{"type": "reject"}]
    await expect(log(page)).to_contain_text(str({"decisions": decisions}))


async def test_keys_of_one_moment_decide_no_action_twice(console: str, page: Page) -> None:
    """Two keys of one task of the browser, quicker than any hand: a refusal's words are never taken for a decision."""
    await ask(page, console, "review")
    await page.locator(".interrupt").first.evaluate(
        """card => ['a', 'a', 'a', 'a'].forEach(key =>
            card.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true})))"""
    )
    await expect(log(page)).to_contain_text("{'decisions': [{'type': 'approve'}, {'type': 'approve'}]}")
    await ask(page, console, "review")
    await expect(page.locator(".interrupt").first).to_be_focused()
    await press_at_once(page, "r", "a", "a")
    await expect(page.get_by_label("Reason (optional)")).to_have_value("aa")
    await page.keyboard.press("Enter")
    await expect(page.locator(".interrupt").last).to_be_focused()
    await page.get_by_role("link", name="New chat").focus()
    await page.keyboard.press("a")
    await expect(page.locator(".interrupt").last.get_by_role("button", name="Approve")).to_be_visible()
    await page.locator(".interrupt").last.get_by_role("button", name="Approve").click()
    await expect(log(page)).to_contain_text("{'decisions': [{'type': 'reject', 'message': 'aa'}, {'type': 'approve'}]}")


async def test_older_form_is_answered(console: str, page: Page) -> None:
    await ask(page, console, "inbox")
    await page.get_by_role("button", name="Approve").click()
    await expect(log(page)).to_contain_text("'type': 'accept'")
    await expect(log(page)).to_contain_text("'args': {'day': 'Monday'}")


async def test_key_of_a_decision_is_not_one_of_the_page_too(console: str, page: Page) -> None:
    """`i` ignores the action that asks, and leaves the inspector alone."""
    await ask(page, console, "inbox")
    await expect(page.locator(".interrupt")).to_be_focused()
    await page.keyboard.press("i")
    await expect(log(page)).to_contain_text("'type': 'ignore'")
    assert "inspect" not in page.url


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
