"""Sign-in on the page: the key is nowhere that a script can read, and each caller sees their own."""

import time
from collections.abc import AsyncIterator

import jwt
import pytest
from playwright.async_api import Browser, Page, expect

from conftest import MakeKey, serving
from console_graphs import CONSOLE_GRAPHS
from console_page import log, message_box, open_thread, say, until_shown
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

ISSUER, SECRET = "https://issuer.example", "a-secret-of-thirty-two-bytes-....."


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[str]:
    """The console of a server that knows its callers by API keys."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    with_keys = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(with_keys, graphs) as url:
        yield f"{url}/console/"


async def sign_in(page: Page, console: str, key: str) -> None:
    await page.goto(console)
    await page.get_by_label("Key or token").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def test_two_users_see_nothing_of_each_other(
    guarded: str, page: Page, browser: Browser, make_key: MakeKey
) -> None:
    ada, bob = await make_key("ada"), await make_key("bob")
    await sign_in(page, guarded, "not-a-key")
    await expect(page.get_by_role("alert")).to_have_text("The server refused it.")
    await sign_in(page, guarded, ada)
    await say(page, "for Ada alone")
    await until_shown(page, "for Ada alone", "one two three four")
    thread = await open_thread(page)

    context = await browser.new_context()
    other = await context.new_page()
    await sign_in(other, guarded, bob)
    await expect(other.get_by_text("No threads yet")).to_be_visible()
    await other.goto(f"{guarded}threads/{thread}")
    await expect(other.get_by_role("alert")).to_contain_text("not found")
    await context.close()


@pytest.fixture
async def by_token(settings: Settings) -> AsyncIterator[str]:
    """The console of a server that knows its callers by tokens."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    with_tokens = {
        "auth_type": "jwt",
        "jwt_issuer": ISSUER,
        "jwt_audience": "threadkeep",
        "jwt_secret": SECRET,
    }
    async with serving(Settings(**{**settings.model_dump(), **with_tokens}), graphs) as url:
        yield f"{url}/console/"


def token(identity: str) -> str:
    claims = {"iss": ISSUER, "aud": "threadkeep", "sub": identity, "exp": time.time() + 600}
    return jwt.encode(claims, SECRET, "HS256")


async def test_two_users_of_tokens_see_nothing_of_each_other(by_token: str, page: Page, browser: Browser) -> None:
    """Issue: with JWT as with keys."""
    await sign_in(page, by_token, token("ada"))
    await say(page, "for Ada alone")
    await until_shown(page, "for Ada alone", "one two three four")
    thread = await open_thread(page)

    context = await browser.new_context()
    other = await context.new_page()
    await sign_in(other, by_token, token("bob"))
    await expect(other.get_by_text("No threads yet")).to_be_visible()
    await other.goto(f"{by_token}threads/{thread}")
    await expect(other.get_by_role("alert")).to_contain_text("not found")
    await context.close()


async def test_key_is_in_no_storage_and_sign_out_forgets_it(
    guarded: str, page: Page, make_key: MakeKey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    key = await make_key("ada")
    await sign_in(page, guarded, key)
    await expect(message_box(page)).to_be_visible()
    assert key not in caplog.text
    assert key not in " ".join(urls)
    kept = await page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.body.innerHTML])"
    )
    assert key not in kept
    await page.reload()
    await expect(message_box(page)).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Key or token")).to_be_visible()


async def test_key_that_may_only_read_is_offered_nothing_else(guarded: str, page: Page, make_key: MakeKey) -> None:
    """Issue: no button answers 403."""
    await sign_in(page, guarded, await make_key("ada"))
    await say(page, "to read")
    await until_shown(page, "to read", "one two three four")
    thread = await open_thread(page)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Key or token")).to_be_visible()

    refused: list[str] = []
    page.on("response", lambda response: refused.append(response.url) if response.status == 403 else None)
    await sign_in(page, guarded, await make_key("ada", "threads.read"))
    await expect(page.get_by_label("Key or token")).to_have_count(0)
    await page.goto(f"{guarded}threads/{thread}")
    await expect(log(page)).to_contain_text("to read")
    await expect(log(page)).to_contain_text("one two three four")
    await expect(message_box(page)).to_have_count(0)
    for name in ("Edit", "Answer again", "Delete", "Rename"):
        await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    assert [url for url in refused if "/assistants/" not in url] == []
    for view in ("", "threads", "waiting", "runs", "crons", "store", "server", f"threads/{thread}?inspect=1"):
        await page.goto(f"{guarded}{view}")
        await expect(page.locator("main")).to_be_visible()
        await page.wait_for_timeout(300)  # until what the view reads by itself was refused
        refused.clear()
        await page.evaluate("document.querySelectorAll('main button').forEach(button => button.click())")
        await page.wait_for_timeout(200)
        assert refused == [], view
