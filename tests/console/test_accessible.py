"""The page for everybody: axe finds nothing, and each task is done by the keyboard alone and told to a screen reader."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from conftest import MakeKey, serving
from console_graphs import CONSOLE_GRAPHS
from console_page import Watch, choose_assistant, log, message_box, open_thread, say, until_shown
from graphs import Gate
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
VIEWS = ("", "threads", "waiting", "compare", "runs", "assistants", "crons", "store", "server")

needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: npm ci --prefix console --ignore-scripts")


async def findings(page: Page, *rules: str) -> list[str]:
    """What axe finds on the page: the rule, and the first element that breaks it. By default by all rules."""
    if not await page.evaluate("'axe' in globalThis"):
        await page.evaluate(AXE.read_text())
    found: dict[str, Any] = await page.evaluate(
        "rules => axe.run(document, rules)", {"runOnly": rules} if rules else RULES
    )
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]


@needs_axe
async def test_axe_finds_nothing_in_any_view(console: str, browser: Browser) -> None:
    """Issue: light and dark, with a conversation, a question, a failed run, and each dialog."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    await page.goto(console)
    await choose_assistant(page, "failing")
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.get_by_text("The run failed.")).to_be_visible()
    await page.goto(console)
    await choose_assistant(page, "agent")
    await say(page, "sum")
    await expect(page.locator(".live")).to_have_count(0)
    thread = await open_thread(page)
    await page.goto(console)
    await choose_assistant(page, "review")
    await say(page, "go")
    await expect(page.locator(".interrupt").first).to_be_visible()
    question = await open_thread(page)
    told: list[tuple[str, str, list[str]]] = []

    async def look(view: str) -> None:
        """All rules in the light, and those that the dark may break."""
        await page.emulate_media(color_scheme="light")
        told.append((view, "light", await findings(page)))
        await page.emulate_media(color_scheme="dark")
        told.append((view, "dark", await findings(page, "color-contrast", "link-in-text-block")))

    for view in (*VIEWS, f"threads/{thread}?inspect=1", f"threads/{question}"):
        await page.goto(console + view)
        await expect(page.locator("main")).to_be_visible()
        if view == "server":
            await expect(page.get_by_role("figure")).to_have_count(6)
        if "inspect" in view:
            await page.get_by_role("region", name="Steps").get_by_role("button").last.click()
            await expect(page.locator(".step-detail")).to_be_visible()
        await look(view)
    for key in ("Control+k", "?"):
        await page.goto(f"{console}threads")
        await expect(page.locator("li.thread").first).to_be_visible()
        await page.keyboard.press(key)
        await expect(page.get_by_role("dialog")).to_be_visible()
        await look(key)
    found = [each for each in told if each[2]]
    assert found == [], "\n".join(map(str, found))
    await context.close()


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[str]:
    """The console of a server that knows its callers by API keys."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    with_keys = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(with_keys, graphs) as url:
        yield f"{url}/console/"


@needs_axe
async def test_axe_finds_nothing_signed_out_and_in(guarded: str, browser: Browser, make_key: MakeKey) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        await page.goto(guarded)
        await expect(page.get_by_label("Key or token")).to_be_visible()
        assert await findings(page) == []
        await page.get_by_label("Key or token").fill(await make_key("ada"))
        await page.keyboard.press("Enter")
        await expect(message_box(page)).to_be_visible()
        assert await findings(page) == []
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Key or token")).to_be_visible()
    await context.close()


async def tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until the element has the focus. Each element on the way must show that it has it."""
    wanted = page.get_by_role(role, name=name, exact=True).first  # type: ignore[arg-type]
    for _ in range(80):
        await page.keyboard.press("Tab")
        if await wanted.evaluate("element => element === document.activeElement"):
            outline = await wanted.evaluate("element => getComputedStyle(element).outlineStyle")
            assert outline != "none", f"the focus of {name} is not seen"
            return
    raise AssertionError(f"{name} can't be reached by Tab")


async def test_send_stop_and_branch_by_the_keyboard_alone(console: str, page: Page, gate: Gate) -> None:
    """Issue: the first tasks of a list. No step uses the mouse."""
    await page.goto(console)
    await expect(message_box(page)).to_be_focused()
    await page.keyboard.type("please wait")
    await page.keyboard.press("Enter")  # send
    await expect(log(page)).to_contain_text("one two")
    await page.keyboard.press("Escape")  # stop
    await expect(log(page).get_by_text("Stopped")).to_be_visible()
    gate.open()

    await page.keyboard.press("Control+Shift+O")
    await expect(message_box(page)).to_be_focused()
    await page.keyboard.type("first words")
    await page.keyboard.press("Enter")
    await until_shown(page, "first words", "one two three four")
    await page.wait_for_url("**/threads/*")
    await page.locator("body").press("Control+Home")
    await tab_to(page, "button", "Edit")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Control+a")
    await page.keyboard.type("other words")
    await page.keyboard.press("Enter")  # branch
    await until_shown(page, "other words", "one two three four")
    await tab_to(page, "button", "Previous version")
    await page.keyboard.press("Enter")
    await until_shown(page, "first words", "one two three four")


async def test_approve_find_and_fork_by_the_keyboard_alone(console: str, page: Page) -> None:
    """Issue: the next tasks of the list."""
    await page.goto(console)
    await expect(message_box(page)).to_be_focused()
    await page.keyboard.type("first words")
    await page.keyboard.press("Enter")
    await until_shown(page, "first words", "one two three four")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("chat with review")
    await page.keyboard.press("Enter")
    await expect(message_box(page)).to_be_focused()
    await page.keyboard.type("go")
    await page.keyboard.press("Enter")
    await expect(page.locator(".interrupt").first).to_be_focused()
    await page.keyboard.press("a")  # approve
    await page.keyboard.press("a")
    await expect(log(page)).to_contain_text("'type': 'approve'")

    await page.keyboard.press("Control+k")
    await page.keyboard.type("words")
    option = page.locator("#palette-list").get_by_role("option")
    await expect(option).to_have_text([re.compile("first words")])
    await page.keyboard.press("Enter")  # find
    await expect(log(page)).to_contain_text("words")

    await tab_to(page, "button", "Show or hide the inspector")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="Steps").get_by_role("button").first).to_be_visible()
    await page.get_by_role("region", name="Steps").get_by_role("button").first.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".step-detail")).to_be_visible()
    await tab_to(page, "button", "Run again from here")
    await page.keyboard.press("Enter")  # fork
    await expect(page.locator(".live")).to_have_count(0)
    await expect(page.get_by_role("group", name="Versions").first).to_be_visible()


async def test_run_is_cancelled_from_the_list_by_the_keyboard(console: str, page: Page, gate: Gate) -> None:
    """Issue: the seventh task, on the list of all runs."""
    await page.goto(console)
    await say(page, "please wait")
    await expect(log(page)).to_contain_text("one two")
    await page.wait_for_url("**/threads/*")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("go to runs")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_contain_text("Running")
    await tab_to(page, "button", "Cancel")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_contain_text("Interrupted")
    gate.open()


async def test_screen_reader_hears_the_page(console: str, page: Page) -> None:
    """Issue: landmarks, headings, names of all controls, and the answer as a log."""
    await page.goto(console)
    await choose_assistant(page, "review")
    await say(page, "go")
    await expect(page.locator(".interrupt").first).to_be_visible()
    tree = await page.locator("body").aria_snapshot()
    for part in (
        "- navigation",
        "- main",
        '- region "Conversation"',
        "- log",
        '- article "You"',
        'textbox "Message"',
        'button "Send"',
        'button "Approve',
        'button "Edit',
        'button "Reject',
        'heading "send_email needs your approval 1/2"',
    ):
        assert part in tree, f"{part}\n{tree}"
    assert not re.search(r"- (?:button|textbox|link|combobox|checkbox)(?: \[[^\]]*\])?:?$", tree, re.MULTILINE), tree


async def test_no_view_lacks_anything_without_an_internet(console: str, browser: Browser) -> None:
    """Issue: every request but those to this machine fails, and no view notices."""
    context = await browser.new_context()
    page = await context.new_page()
    watch = Watch(page)
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    await context.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
    await page.goto(console)
    await choose_assistant(page, "agent")
    await say(page, "sum")
    await expect(page.locator(".live")).to_have_count(0)
    thread = await open_thread(page)
    for view in (*VIEWS, f"threads/{thread}?inspect=1"):
        await page.goto(console + view)
        await expect(page.locator("main")).to_be_visible()
        await expect(page.locator("main").get_by_role("alert")).to_have_count(0)
    await expect(page.locator(".graph svg")).to_be_visible()
    assert watch.foreign() == []
    assert watch.errors == []
    assert [url for url in failed if not url.startswith(console.removesuffix("console/"))] == []
    await context.close()
