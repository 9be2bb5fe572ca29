"""A real browser: a page of another origin changes nothing and reads nothing, whatever it tries."""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import psycopg
import pytest
from playwright.async_api import Browser, async_playwright

from browsers import CHROMIUM, MISSING

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
    # Newer versions ask the person first. The server must not depend on it.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
)
PAGE = (Path(__file__).parent / "foreign_page.html").read_bytes()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(PAGE)
SECRET = "for-her-eyes-only"
BROWSER_S = 60.0
ATTEMPTS = 11
BLIND = {
    "fetch GET without CORS",
    "fetch POST without CORS",
    "fetch POST without a type",
    "fetch POST without a body",
    "beacon",
}
"""Attempts that tell a page nothing of the answer."""
FORMS = (
    ("/runs/batch", {'[{"assistant_id":"chain","input":{"items":["': '"]}}]'}, "text/plain"),
    ("/query?query=posted", {}, "application/x-www-form-urlencoded"),
)
"""Forms that a page sends: the address, the fields and the encoding."""
RUN = {"assistant_id": "chain", "input": {"items": [SECRET]}}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, which takes every name below `.example` for this machine."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


class Site:
    """A name that is the attacker's page at first, and the server's address later."""

    def __init__(self, server: str) -> None:
        self.server: tuple[str, int] = ("127.0.0.1", int(server.rpartition(":")[2]))
        self.rebound = False
        self.port = 0

    async def answer(self, stream: anyio.abc.SocketStream) -> None:
        """Serve the page, or pass every byte on."""
        with quiet():
            async with stream:
                asked = await stream.receive()  # first: a browser opens connections before it needs them
                if not self.rebound:
                    await stream.send(HEAD + PAGE)
                    return
                async with await anyio.connect_tcp(*self.server) as server, anyio.create_task_group() as tasks:
                    await server.send(asked)
                    tasks.start_soon(pipe, stream, server)
                    tasks.start_soon(pipe, server, stream)


async def pipe(source: anyio.abc.SocketStream, target: anyio.abc.SocketStream) -> None:
    """Until either hangs up."""
    with quiet():
        async for chunk in source:
            await target.send(chunk)
    with quiet():
        await target.send_eof()


@asynccontextmanager
async def serving_page(url: str) -> AsyncIterator[Site]:
    """The page, on a port of its own of this machine."""
    site = Site(url)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        site.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - of anyio, no Django
        tasks.start_soon(listener.serve, site.answer)
        yield site
        tasks.cancel_scope.cancel()


def quiet() -> Any:
    """Nothing of a connection that ends is an error here."""
    return contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


@pytest.fixture
async def thread(http: httpx.AsyncClient) -> str:
    """A thread that holds a secret."""
    thread_id = (await http.post("/threads", json={"metadata": {"note": SECRET}})).json()["thread_id"]
    assert (await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)).status_code == 200
    return thread_id


async def rows(database: str) -> tuple[Any, ...]:
    """How many threads, runs and checkpoints there are, and when the last of them changed."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        found = await conn.execute(
            "SELECT (SELECT count(*) FROM threads), (SELECT max(updated_at) FROM threads), (SELECT count(*) FROM runs),"
            " (SELECT count(*) FROM checkpoints)"
        )
        row = await found.fetchone()
    assert row is not None
    return row


class Attack:
    """What came of a page's attempts."""

    def __init__(self, browser: Browser, thread: str, server_log: pytest.LogCaptureFixture) -> None:
        self._browser = browser
        self._thread = thread
        self._log = server_log
        self.found: dict[str, str] = {}
        """What each attempt read."""

    async def run(self, page_url: str, server_url: str, site: Site) -> None:
        """Open the page and let it try everything."""
        page, *others = [await self._browser.new_page() for _ in range(1 + len(FORMS))]
        with anyio.fail_after(BROWSER_S), self._log.at_level(logging.INFO):
            for each in (page, *others):
                await each.goto(page_url)
            site.rebound = True
            self.found = await page.evaluate("([url, thread]) => attack(url, thread)", [server_url, self._thread])
            for each, (action, fields, enctype) in zip(others, FORMS, strict=True):
                async with each.expect_navigation():
                    await each.evaluate("(form_of) => form(...form_of)", [server_url + action, fields, enctype])

    def answered(self) -> dict[str, int]:
        """The status of each request that came through to the server."""
        lines = [record.__dict__ for record in self._log.records if record.msg == "request"]
        return {f"{line['method']} {line['path'].replace(self._thread, 'T')}": line["status_code"] for line in lines}


@pytest.fixture
def attack(browser: Browser, thread: str, caplog: pytest.LogCaptureFixture) -> Attack:
    """The page's attempts on the thread with the secret."""
    caplog.clear()
    return Attack(browser, thread, caplog)


SIMPLE = {
    "GET /threads/T": 0,
    "GET /threads/T/state": 0,
    "GET /threads/T/stream": 0,
    "POST /query": 0,
    "POST /runs": 0,
    "POST /runs/batch": 0,
    "POST /runs/stream": 0,
    "POST /runs/wait": 0,
    "POST /threads": 0,
}
"""The requests that a browser sends without a preflight."""


async def test_a_page_of_another_origin_changes_and_reads_nothing(attack: Attack, url: str, database: str) -> None:
    """Issue: no-cors, forms, fetch, EventSource, WebSocket: each reaches the server, which refuses it."""
    before = await rows(database)
    async with serving_page(url) as site:
        await attack.run(f"http://evil.example:{site.port}/", url, site)

    assert {name for name, read in attack.found.items() if not read.startswith("failed")} <= BLIND
    assert len(attack.found) == ATTEMPTS
    assert attack.answered() == dict.fromkeys(SIMPLE, 403)
    assert await rows(database) == before


async def test_a_rebound_name_changes_and_reads_nothing(attack: Attack, url: str, database: str) -> None:
    """Issue: the browser takes the page for one of the server's own, and it may read what the server answers: 421."""
    before = await rows(database)
    async with serving_page(url) as site:
        origin = f"http://rebound.example:{site.port}"
        await attack.run(f"{origin}/", origin, site)

    readable = {
        name: read for name, read in attack.found.items() if not read.startswith("failed") and name not in BLIND
    }
    assert all("misdirected-request" in read for read in readable.values())
    assert {"fetch GET", "fetch POST", "fetch DELETE"} <= readable.keys()
    assert attack.answered() == dict.fromkeys([*SIMPLE, "POST /threads/search", "DELETE /threads/T"], 421)
    assert await rows(database) == before


async def test_a_page_of_this_machine_may_call(attack: Attack, url: str) -> None:
    """Ours: the same attempts work where they should, so the page is no blank shot. But for forms: writes are JSON."""
    async with serving_page(url) as site:
        await attack.run(f"http://localhost:{site.port}/", url, site)

    worked = ("fetch GET", "fetch POST", "EventSource", "WebSocket")
    assert {name: "failed" in attack.found[name] for name in worked} == dict.fromkeys(worked, False)
    assert SECRET in attack.found["fetch GET"]
    assert SECRET in attack.found["fetch POST"]
    assert '"run_id"' in attack.found["WebSocket"]
    assert "unsupported-media" in attack.found["fetch POST, simple"]
    assert attack.answered()["POST /runs/batch"] == 415
