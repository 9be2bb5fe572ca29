"""A chat on the page: what is said, stopped, asked again and kept, also over a reload."""

import re
import time

import httpx
from playwright.async_api import Page, expect

from console_page import choose_assistant, log, message_box, open_thread, say, until_shown
from graphs import Gate

WORDS = "one two three four"
SLOWER = 12
"""By which a limit of the issue is widened here, because tests run beside others on two cores."""


async def test_answer_streams_and_a_reload_in_the_middle_shows_the_same(console: str, page: Page, gate: Gate) -> None:
    """Issue: what was shown is shown again within a second, and goes on."""
    await page.goto(console)
    await say(page, "please wait")
    await expect(log(page)).to_contain_text("one two")
    await open_thread(page)

    await page.reload()
    await expect(log(page)).to_contain_text("please wait")
    await expect(log(page)).to_contain_text("one two")
    await expect(page.locator(".live")).to_contain_text("Running node")
    await expect(page.get_by_text("Paused before")).to_have_count(0)

    gate.open()
    await until_shown(page, "please wait", WORDS)
    await page.reload()
    await until_shown(page, "please wait", WORDS)


async def test_stop_keeps_what_was_read_and_the_next_message_goes_on(console: str, page: Page, gate: Gate) -> None:
    """Issue: others lose the text. The run ends as interrupted, and the text is there after a reload, marked."""
    await page.goto(console)
    await say(page, "please wait")
    await expect(log(page)).to_contain_text("one two")
    began = time.monotonic()
    await page.get_by_role("button", name="Stop").click()
    await until_shown(page, "please wait", "one two")
    assert time.monotonic() - began < 1 * SLOWER
    await expect(log(page).get_by_text("Stopped")).to_be_visible()
    thread = await open_thread(page)
    async with httpx.AsyncClient(base_url=console.removesuffix("console/")) as http:
        runs = (await http.get(f"/threads/{thread}/runs")).json()
    assert [run["status"] for run in runs] == ["interrupted"]

    gate.open()
    await say(page, "go on")
    await until_shown(page, "please wait", "one two", "go on", WORDS)
    await page.reload()
    await until_shown(page, "please wait", "one two", "go on", WORDS)
    await expect(log(page).get_by_text("Stopped")).to_be_visible()


async def test_message_that_is_sent_while_a_run_goes_on_waits_and_says_so(console: str, page: Page, gate: Gate) -> None:
    await page.goto(console)
    await say(page, "please wait")
    await expect(log(page)).to_contain_text("one two")
    await say(page, "second")
    await say(page, "third")
    await expect(page.get_by_text("Queued: sent after")).to_have_count(2)
    await page.locator(".queued", has_text="third").get_by_role("button", name="Cancel").click()
    await expect(page.get_by_text("Queued: sent after")).to_have_count(1)

    await page.reload()
    await expect(page.get_by_text("Queued: sent after")).to_have_count(1)
    gate.open()
    await until_shown(page, "please wait", WORDS, "second", WORDS)


async def test_edit_regenerate_and_switch_keep_every_branch(console: str, page: Page) -> None:
    """Issue: the newest leaf is the one that is shown after a reload, and each other one can be reached."""
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, "first")
    await until_shown(page, "first", "first")
    await say(page, "second")
    await until_shown(page, "first", "first", "second", "second")

    await page.locator("article.human", has_text="second").get_by_role("button", name="Edit").click()
    await page.locator(".editor textarea").fill("another")
    await page.keyboard.press("Enter")
    await until_shown(page, "first", "first", "another", "another")
    await expect(page.get_by_role("group", name="Versions")).to_contain_text("2/2")

    await page.locator("article.human").first.get_by_role("button", name="Edit").click()
    await page.locator(".editor textarea").fill("begin")
    await page.keyboard.press("Enter")
    await until_shown(page, "begin", "begin")
    await page.locator("article.ai").get_by_role("button", name="Answer again").click()
    await expect(page.locator("article.ai").get_by_role("group", name="Versions")).to_contain_text("2/2")

    await page.reload()
    await until_shown(page, "begin", "begin")
    await page.locator("article.human").first.get_by_role("button", name="Previous version").click()
    await until_shown(page, "first", "first", "another", "another")
    await page.locator("article.human", has_text="another").get_by_role("button", name="Previous version").click()
    await until_shown(page, "first", "first", "second", "second")

    await say(page, "third")  # goes on from the version that is shown
    await until_shown(page, "first", "first", "second", "second", "third", "third")
    await page.reload()
    await until_shown(page, "first", "first", "second", "second", "third", "third")


async def test_error_stands_where_it_happened_and_stays(console: str, page: Page) -> None:
    """Issue: others lose it at a reload."""
    await page.goto(console)
    await say(page, "break it")
    failed = page.get_by_role("alert").filter(has_text="The run failed.")
    await expect(failed).to_contain_text("ValueError")
    await expect(failed).to_contain_text("the node broke")
    await page.reload()
    await expect(failed).to_contain_text("the node broke")
    await expect(failed.get_by_role("button", name="Try again")).to_be_visible()
    await say(page, "now whole")
    await expect(log(page)).to_contain_text(re.compile(f"the node broke.*now whole.*{WORDS}", re.DOTALL))
    await expect(page.locator(".live")).to_have_count(0)


async def test_tool_call_is_folded_with_its_arguments_and_result(console: str, page: Page) -> None:
    await page.goto(console)
    await choose_assistant(page, "agent")
    await say(page, "sum")
    call = page.locator("details.call")
    await expect(call.locator("summary")).to_have_text("add(2, 3) → 5")
    await expect(page.locator(".live")).to_have_count(0)
    await expect(call).to_have_count(1)
    await call.locator("summary").click()
    await expect(call).to_contain_text('"a": 2')


async def test_graph_without_messages_gets_a_form(console: str, page: Page) -> None:
    await page.goto(console)
    await choose_assistant(page, "chain")
    await page.get_by_label("Items").fill('["mine"]')
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.locator(".values pre")).to_contain_text("second")
    assert '"mine"' in await page.locator(".values pre").inner_text()


async def test_picture_and_text_file_become_blocks(console: str, page: Page) -> None:
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
        "a5f645400000000049454e44ae426082"
    )
    await page.goto(console)
    await page.locator('input[type="file"]').set_input_files(
        [
            {"name": "dot.png", "mimeType": "image/png", "buffer": pixel},
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"from the file"},
            {"name": "program.exe", "mimeType": "application/x-msdownload", "buffer": b"MZ"},
        ]
    )
    await expect(page.get_by_text("program.exe is neither")).to_be_visible()
    await say(page, "look")
    await expect(page.locator("article.human img")).to_have_count(1)
    await expect(page.locator("article.human")).to_contain_text("from the file")
    await expect(page.locator(".live")).to_have_count(0)


async def test_eight_tabs_share_the_connections_of_one_browser(console: str, page: Page, gate: Gate) -> None:
    """Issue: a browser opens six connections to a host over HTTP/1.1, and the fourth tab of others hangs."""
    tabs = [page, *[await page.context.new_page() for _ in range(7)]]
    for tab in tabs:
        await tab.goto(console)
        await say(tab, "please wait")
    for tab in tabs:
        await expect(log(tab)).to_contain_text("one two")
    gate.open()
    began = time.monotonic()
    for tab in tabs:
        await expect(log(tab)).to_contain_text(WORDS)
    assert time.monotonic() - began < 1 * SLOWER
    for tab in tabs:
        await until_shown(tab, "please wait", WORDS)


async def test_draft_is_kept_for_its_thread(console: str, page: Page) -> None:
    await page.goto(console)
    await message_box(page).fill("not yet")
    # The page stores a draft after it has drawn it.
    await page.wait_for_function("Object.values(sessionStorage).some((draft) => draft.includes('not yet'))")
    await page.reload()
    await expect(message_box(page)).to_have_value("not yet")
