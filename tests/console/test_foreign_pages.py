"""Pages of others, in the browser of somebody who is signed in: they read nothing, change nothing, and frame nothing."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Browser, Route, expect

from conftest import MakeKey, serving
from console_graphs import CONSOLE_GRAPHS
from console_page import message_box
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

FOREIGN = "http://foreign.example/"
ATTACK = """async (server) => {
  const outcomes = {};
  const attempt = async (name, path, options) => {
    try {
      const answer = await fetch(server + path, {credentials: 'include', ...options});
      outcomes[name] = answer.type === 'opaque' ? 'opaque' : answer.status;
    } catch (error) { outcomes[name] = 'refused'; }
  };
  const body = JSON.stringify({metadata: {foreign: true}});
  await attempt('read', '/threads/search', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'});
  await attempt('read me', '/me', {});
  await attempt('write json', '/threads', {method: 'POST', headers: {'content-type': 'application/json'}, body});
  await attempt('write text', '/threads', {method: 'POST', mode: 'no-cors', headers: {'content-type': 'text/plain'}, body});
  await attempt('follow', '/events', {});
  await new Promise((done) => {
    const form = document.createElement('form');
    form.method = 'post'; form.action = server + '/threads'; form.enctype = 'text/plain'; form.target = 'sink';
    form.innerHTML = '<input name=\\'{"metadata": {"foreign": true}, "x": "\\' value=\\'"}\\'>';
    const sink = document.createElement('iframe');
    sink.name = 'sink'; sink.onload = done;
    document.body.append(sink, form);
    form.submit();
    setTimeout(done, 2000);
  });
  return outcomes;
}"""


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[str]:
    """The console of a server that knows its callers by API keys."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in CONSOLE_GRAPHS.items()}
    with_keys = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(with_keys, graphs) as url:
        yield url


async def test_another_origin_can_neither_read_nor_write_nor_frame(
    guarded: str, browser: Browser, make_key: MakeKey
) -> None:
    """Issue: by the browser of somebody who is signed in, in each way that a page has."""
    key = await make_key("ada")
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{guarded}/console/")
    await page.get_by_label("Key or token").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(message_box(page)).to_be_visible()

    async def page_of_others(route: Route) -> None:
        frame = f"<iframe src='{guarded}/console/'></iframe>"
        await route.fulfill(body=f"<!doctype html><body>{frame}</body>", content_type="text/html")

    await context.route(f"{FOREIGN}**", page_of_others)
    foreign = await context.new_page()
    await foreign.goto(FOREIGN)
    outcomes = await foreign.evaluate(ATTACK, guarded)

    assert outcomes["write text"] in {"opaque", "refused"}
    assert outcomes | {"write text": "refused"} == dict.fromkeys(outcomes, "refused")
    frames = [frame for frame in foreign.frames if frame.url.startswith(guarded)]
    assert [await frame.locator("#app").count() for frame in frames] == [0] * len(frames)
    async with httpx.AsyncClient(base_url=guarded, headers={"x-api-key": key}) as http:
        assert (await http.post("/threads/search", json={})).json() == []
        written = await http.post("/threads", json={}, headers={"origin": FOREIGN.rstrip("/")})
        assert written.status_code == 403, json.dumps(outcomes)
    await context.close()


async def test_a_host_name_that_was_rebound_is_refused(console: str, browser: Browser) -> None:
    """Issue: without authentication, a name of somebody else's that points to this machine gets 421."""
    port = httpx.URL(console).port
    context = await browser.new_context()
    page = await context.new_page()
    answer = await page.goto(f"http://rebound.example:{port}/console/")
    assert answer is not None
    assert answer.status == 421
    await context.close()
