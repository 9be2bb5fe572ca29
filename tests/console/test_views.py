"""The other views, and what is by keyboard alone."""

import re

import httpx
import pytest
from langgraph_sdk import get_client
from playwright.async_api import Browser, Page, expect

from console_page import choose_assistant, log, message_box, open_thread, say, until_shown

VIEWS = ("", "threads", "runs", "assistants", "crons", "store", "server")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_view_fits_a_phone(console: str, browser: Browser, scheme: str) -> None:
    """320 px are 1280 px at 400 %: nothing scrolls sideways but tables in their own frames."""
    context = await browser.new_context(
        viewport={"width": 320, "height": 700}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    for view in VIEWS:
        await page.goto(console + view)
        await expect(page.locator("main")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    await context.close()


async def test_first_view_takes_three_requests_before_its_data(console: str, page: Page) -> None:
    """Issue: the page itself, one script and one style."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await page.goto(console)
    await expect(message_box(page)).to_be_focused()
    files = [url for url in urls if "/console/" in url]
    assert [re.sub(r"\.[A-Z0-9]{8}\.", ".", url.removeprefix(console)) for url in files] == ["", "app.css", "app.js"]


async def test_steps_of_a_run_and_a_fork_with_a_changed_state(console: str, page: Page) -> None:
    """Issue: the old line is untouched."""
    client = get_client(url=console.removesuffix("/console/"), api_key=None)
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "chain", input={"items": ["mine"]})
    await page.goto(f"{console}threads/{thread}?inspect=1")
    steps = page.get_by_role("region", name="Steps").get_by_role("button")
    await expect(steps).to_have_text([re.compile(f"^{name}") for name in ("input", "__start__", "first", "second")])
    await steps.nth(2).click()
    await expect(page.locator(".changes")).to_contain_text("items[1]")
    await expect(page).to_have_url(re.compile("step="))
    await expect(page.locator(".node.ran")).to_have_count(3)

    await page.get_by_role("button", name="Edit the state").click()
    await page.locator(".fork").get_by_label("State").fill('{"items": ["added"]}')
    await page.get_by_role("button", name="Run from the changed state").click()
    await expect(page.locator(".values pre")).to_contain_text(re.compile('"first",\\s+"added",\\s+"second"'))
    history = await client.threads.get_history(thread, limit=20)
    assert ["mine", "first", "second"] in [(state["values"] or {}).get("items") for state in history]  # type: ignore[union-attr]
    await client.aclose()


async def test_thread_is_found_renamed_and_deleted_with_undo(console: str, page: Page) -> None:
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, "about tea")
    await until_shown(page, "about tea", "about tea")
    thread = await open_thread(page)
    await page.get_by_label("Actions for about tea").click()
    await page.get_by_role("button", name="Rename").click()
    await page.get_by_label("Title", exact=True).fill("Coffee instead")
    await page.keyboard.press("Enter")
    row = page.locator("li.thread")
    await expect(row).to_contain_text("Coffee instead")
    await page.get_by_label("Search titles and ids").fill("nothing like it")
    await expect(page.get_by_text("No thread matches")).to_be_visible()
    await page.get_by_label("Search titles and ids").fill("coffee")
    await expect(row).to_have_count(1)
    await page.get_by_label("Search titles and ids").fill(thread)
    await expect(row).to_have_count(1)

    await page.get_by_label("Actions for Coffee instead").click()
    await page.get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(row).to_have_count(1)
    async with httpx.AsyncClient(base_url=console.removesuffix("/console/")) as http:
        assert (await http.get(f"/threads/{thread}")).status_code == 200


async def test_palette_finds_threads_and_views_by_the_keyboard(console: str, page: Page) -> None:
    await page.goto(console)
    await choose_assistant(page, "echo")
    await say(page, "remember the milk")
    await until_shown(page, "remember the milk", "remember the milk")
    thread = await open_thread(page)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("go to runs")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{console}runs")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("milk")
    await expect(page.locator("#palette-list").get_by_role("option")).to_have_text([re.compile("remember the milk")])
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{console}threads/{thread}")
    await expect(log(page)).to_contain_text("remember the milk")
    await page.go_back()
    await expect(page).to_have_url(f"{console}runs")


async def test_server_view_shows_the_slots_of_the_metrics(console: str, page: Page) -> None:
    await page.goto(f"{console}server")
    await expect(page.locator(".figures div", has_text="Run slots")).to_contain_text("0/12")
    await expect(page.get_by_role("figure")).to_have_count(6)


async def test_assistant_gets_a_version_and_the_store_an_item(console: str, page: Page) -> None:
    await page.goto(f"{console}assistants")
    await page.get_by_text("New assistant").click()
    await page.get_by_label("Name").fill("Ours")
    await page.get_by_role("button", name="Create").click()
    await page.locator("form.card").get_by_label("Name").fill("Ours, renamed")
    await page.get_by_role("button", name="Save as a new version").click()
    await expect(page.get_by_text("Version 2").first).to_be_visible()

    await page.goto(f"{console}store")
    await page.get_by_role("button", name="New item").click()
    await page.get_by_label("Namespace", exact=True).fill("facts.ada")
    await page.get_by_label("Key", exact=True).fill("tea")
    await page.get_by_role("dialog").locator("textarea").fill('{"likes": true}')
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("tbody tr")).to_contain_text("facts \u203a ada")
