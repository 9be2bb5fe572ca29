"""What a developer does with answers that exist: compare, play again, copy, save, and answer all that wait."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from langgraph_sdk import get_client
from playwright.async_api import Browser, Page, expect

from console_page import choose_assistant, open_thread, say, until_shown


def api(console: str) -> str:
    return console.removesuffix("/console/")


async def test_two_versions_of_an_answer_are_compared_word_by_word(console: str, page: Page) -> None:
    """Issue: two branches beside each other, with the words in which they differ."""
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, "tea with milk")
    await until_shown(page, "tea with milk", "tea with milk")
    await page.locator("article.human").get_by_role("button", name="Edit").click()
    await page.locator(".editor textarea").fill("tea with lemon")
    await page.keyboard.press("Enter")
    await until_shown(page, "tea with lemon", "tea with lemon")
    await page.get_by_role("group", name="Versions").get_by_role("link", name="Compare").click()
    await expect(page).to_have_url(re.compile("/compare\\?thread="))
    rows = page.get_by_role("table", name="Compare").get_by_role("row")
    await expect(rows).to_have_count(3)
    await expect(page.locator("del")).to_have_text(["milk", "milk"])
    await expect(page.locator("ins")).to_have_text(["lemon", "lemon"])
    await page.reload()
    await expect(page.locator("del")).to_have_text(["milk", "milk"])


async def test_one_input_to_two_versions_of_an_assistant(console: str, page: Page) -> None:
    """Issue: each side runs its own version, and the assistant is afterwards what it was."""
    async with get_client(url=api(console), api_key=None) as client:
        made = await client.assistants.create("echo", name="Mine")
        await client.assistants.update(made["assistant_id"], graph_id="speaker")
        await page.goto(f"{console}compare")
        for side, version in (("Left", "1"), ("Right", "2")):
            await page.get_by_label(f"Assistant, {side}").select_option(label="Mine")
            await page.get_by_label(f"Version, {side}").select_option(value=version)
        await page.get_by_label("Input").fill("one two")
        await page.get_by_role("button", name="Run both").click()
        table = page.get_by_role("table", name="Compare")
        await expect(table.locator("ins")).to_have_text([re.compile("three four")])
        now = await client.assistants.get(made["assistant_id"])
    assert (now["version"], now["graph_id"]) == (2, "speaker")


async def test_one_input_to_two_assistants(console: str, page: Page) -> None:
    """Issue: side by side, each on a thread of its own."""
    await page.goto(f"{console}compare")
    await page.get_by_label("Assistant, Left").select_option(label="echo")
    await page.get_by_label("Assistant, Right").select_option(label="speaker")
    await expect(page.get_by_label("Version, Left")).to_have_value("1")
    await page.get_by_label("Input").fill("one two")
    await page.get_by_role("button", name="Run both").click()
    table = page.get_by_role("table", name="Compare")
    await expect(table.locator("ins")).to_have_text([re.compile("three four")])
    await expect(page.get_by_role("status").filter(has_text="Success")).to_contain_text(re.compile("Success.*Success"))
    async with httpx.AsyncClient(base_url=api(console)) as http:
        assert len((await http.post("/threads/search", json={})).json()) == 2


async def test_all_questions_are_answered_in_one_queue_by_the_keyboard(console: str, page: Page) -> None:
    """Issue: `j k Enter` through the questions of all threads, and their number in the tab's title."""
    async with get_client(url=api(console), api_key=None) as client:
        threads: list[str] = []
        for name in ("plain", "plain", "inbox"):
            thread = await client.threads.create(metadata={"title": f"{name} {len(threads)}"})
            threads.append(thread["thread_id"])
            await client.runs.wait(thread["thread_id"], name, input={"messages": [{"role": "user", "content": "go"}]})
        await page.goto(f"{console}waiting")
        questions = page.locator("li.question")
        await expect(questions).to_have_count(3)
        await expect(page).to_have_title("(3) Waiting · Threadkeep")
        await expect(questions.first).to_be_focused()
        await page.keyboard.press("j")
        await expect(questions.nth(1)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(questions.nth(1).get_by_label("Your answer", exact=True)).to_be_focused()
        await page.keyboard.type("second")
        await page.keyboard.press("Enter")
        await expect(questions).to_have_count(2)
        await page.keyboard.press("k")
        await page.keyboard.press("Enter")
        await page.keyboard.type("first")
        await page.keyboard.press("Enter")
        await expect(questions).to_have_count(1)
        await page.keyboard.press("j")
        await page.keyboard.press("a")
        await expect(page.get_by_text("Nothing waits for you")).to_be_visible()
        await expect(page).to_have_title("Waiting · Threadkeep")
        said = []
        for thread_id in threads:
            await client.runs.join(thread_id, (await client.runs.list(thread_id))[0]["run_id"])
            state: Any = await client.threads.get_state(thread_id)
            said.append(state["values"]["messages"][-1]["content"])
        assert said[:2] == ["The answer was 'first'", "The answer was 'second'"]
        assert "'accept'" in said[2]


async def test_new_question_is_notified_in_a_hidden_tab(console: str, page: Page) -> None:
    """Issue: if the person asked for it. The browser here shows none, so the page's own call is looked at."""
    await page.context.grant_permissions(["notifications"])
    await page.add_init_script(
        """
        globalThis.told = [];
        globalThis.Notification = class { static permission = 'granted'; constructor(title, options) { told.push([title, options.body]); } };
        Object.defineProperty(document, 'visibilityState', {get: () => globalThis.hidden ? 'hidden' : 'visible'});
        """
    )
    await page.goto(f"{console}waiting")
    await expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    await expect(page.get_by_text("New questions are notified")).to_be_visible()
    await page.evaluate("globalThis.hidden = true")
    async with get_client(url=api(console), api_key=None) as client:
        thread = await client.threads.create(metadata={"title": "A question"})
        await client.runs.wait(thread["thread_id"], "plain", input={"messages": [{"role": "user", "content": "go"}]})
    with anyio.fail_after(10):
        while not await page.evaluate("told.length"):
            await anyio.sleep(0.05)
    assert await page.evaluate("told") == [["A question waits for you", "A question"]]


async def test_finished_run_is_played_again(console: str, page: Page) -> None:
    """Issue: the words come again as they came, and the position can be set by hand."""
    await page.goto(console)
    await say(page, "hello")
    await until_shown(page, "hello", "one two three four")
    await page.wait_for_url("**/threads/*")
    await page.keyboard.press("Escape")
    await page.locator("body").click(position={"x": 5, "y": 790})
    await page.keyboard.press("i")
    await page.get_by_role("button", name="Play back").click()
    player = page.get_by_role("dialog", name="Playback")
    await expect(player.locator("article.ai")).to_contain_text("one two three four")
    await expect(player.get_by_role("button", name="Play", exact=True)).to_be_visible()
    await player.get_by_label("Time").fill("0")
    await expect(player.locator("article.ai")).to_have_count(0)
    await player.get_by_role("button", name="Play", exact=True).click()
    await expect(player.locator("article.ai")).to_contain_text("one two three four")


@pytest.mark.parametrize("kind", ["curl", "Python"])
async def test_any_action_is_copied_as_a_command_that_does_the_same(console: str, page: Page, kind: str) -> None:
    """Issue: what the page did is done again by the copied text, run by a shell or by Python."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=api(console))
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, 'it\'s a "test"')
    await until_shown(page, 'it\'s a "test"', 'it\'s a "test"')
    thread = await open_thread(page)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("copy an action")
    await page.keyboard.press("Enter")
    first = page.locator(".requests li").first
    await expect(first).to_contain_text(f"POST /threads/{thread}/runs")
    await first.get_by_role("button", name=f"Copy as {kind}").click()
    command = await page.evaluate("navigator.clipboard.readText()")
    done = await anyio.run_process(["/bin/sh", "-c", command] if kind == "curl" else [sys.executable, "-c", command])
    assert b'"run_id"' in done.stdout
    async with httpx.AsyncClient(base_url=api(console)) as http:
        runs = (await http.get(f"/threads/{thread}/runs")).json()
        await http.get(f"/threads/{thread}/runs/{runs[0]['run_id']}/join")
        state = (await http.get(f"/threads/{thread}/state")).json()
    assert len(runs) == 2
    assert state["values"]["messages"][-1]["content"] == 'it\'s a "test"'


class Elements(HTMLParser):
    """The elements and attributes of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"} or name.startswith("on")]


async def test_thread_is_saved_as_one_file_without_scripts(console: str, browser: Browser, tmp_path: Path) -> None:
    """Issue: it holds all it shows, and its own policy lets it run nothing."""
    hostile = "<script>document.title='ran'</script>\n\n**bold** <img src=x onerror=\"document.title='ran'\">"
    page = await (await browser.new_context()).new_page()
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, hostile)
    await expect(page.locator("article.ai")).to_contain_text("bold")
    await expect(page.locator(".live")).to_have_count(0)
    await page.wait_for_url("**/threads/*")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("save this thread as html")
    async with page.expect_download() as download:
        await page.keyboard.press("Enter")
    file = tmp_path / "thread.html"
    await (await download.value).save_as(file)
    text = file.read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.tags.isdisjoint({"script", "iframe", "object", "embed", "link", "form"})
    assert [
        address for address in elements.addresses if not address.startswith(("data:image/", "https:", "mailto:"))
    ] == []
    assert "default-src 'none'" in text
    assert "<strong>bold</strong>" in text
    other = await page.context.new_page()
    await other.goto(file.as_uri())
    await expect(other.locator("section")).to_have_count(2)
    assert await other.title() != "ran"
    await page.context.close()
