"""What no client library would send: the bytes of a connection."""

import json
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from conftest import WAIT_S, serving
from threadkeep.settings import Settings

BODY_TIMEOUT_S = 0.3


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[str]:
    """A server that waits for bodies only a moment, and takes small ones."""
    async with serving(settings.model_copy(update={"body_timeout_s": BODY_TIMEOUT_S, "max_body_bytes": 2048})) as url:
        yield url
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/livez")).status_code == 200


async def exchange(url: str, *parts: bytes) -> bytes:
    """All that the server says to `parts`, until it hangs up, or has had nothing to say for a while."""
    host, port = url.removeprefix("http://").split(":")
    said = b""
    async with await anyio.connect_tcp(host, int(port)) as stream:
        try:
            for part in parts:
                await stream.send(part)
            while True:
                with anyio.fail_after(BODY_TIMEOUT_S * 4):
                    said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError):
            return said


def statuses(said: bytes) -> list[int]:
    """The statuses of the answers in what a server said."""
    return [int(rest[:3]) for rest in said.split(b"HTTP/1.1 ")[1:]]


POST = b"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HIDDEN = b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n"

SMUGGLED = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + HIDDEN,
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a length that is none": POST + b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}" + HIDDEN,
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}" + HIDDEN,
    "NUL in a header": POST + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}" + HIDDEN,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
    "an unknown version": b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_malformed_request_has_one_answer_and_no_other_behind_it(server: str, name: str) -> None:
    """Ours: what two parsers could read in two ways is refused, and the connection closed."""
    said = statuses(await exchange(server, SMUGGLED[name]))

    assert said in ([400], [501], [505], [], [422])


async def test_head_without_end_is_cut_off(server: str) -> None:
    """Ours: a head has a bounded size."""
    said = await exchange(server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X-Long: " + b"a" * 500_000)

    assert statuses(said) in ([400], [431], [])


async def test_a_body_that_does_not_arrive_is_cut_off(server: str) -> None:
    """Ours: 408 as JSON, and the connection is closed."""
    with anyio.fail_after(WAIT_S):
        said = await exchange(server, POST + b"Content-Length: 10\r\n\r\n{")

    head, _, body = said.partition(b"\r\n\r\n")
    assert statuses(said) == [408]
    assert b"connection: close" in head.lower()
    assert json.loads(body) == {"detail": "the body did not arrive within 0.3 s", "code": "body-timeout"}


async def test_a_trickling_body_is_cut_off(server: str) -> None:
    """Ours: the deadline is for the whole body, not for each byte of it."""
    host, port = server.removeprefix("http://").split(":")
    said = b""
    with anyio.fail_after(WAIT_S):
        async with await anyio.connect_tcp(host, int(port)) as stream, anyio.create_task_group() as tasks:
            await stream.send(POST + b"Content-Length: 1000\r\n\r\n{")

            async def trickle() -> None:
                while True:
                    await anyio.sleep(0.05)
                    try:
                        await stream.send(b" ")
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        return

            tasks.start_soon(trickle)
            said = await stream.receive()
            tasks.cancel_scope.cancel()

    assert statuses(said) == [408]


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 999999999999\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b" " * 1024 + b"\r\n",
    ],
    ids=["told", "chunked"],
)
async def test_body_above_the_limit_is_not_read_to_its_end(server: str, body: bytes) -> None:
    """Ours: 413, at the first line where the length is told, else as soon as too much has come."""
    parts = [POST + body] if b"chunked" not in body else [POST + body, *[b"400\r\n" + b" " * 1024 + b"\r\n"] * 3]

    assert statuses(await exchange(server, *parts)) == [413]


async def test_a_body_that_ends_too_soon_is_not_used(server: str) -> None:
    """Ours: a client that hangs up within its body made nothing."""
    host, port = server.removeprefix("http://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(POST + b'Content-Length: 50\r\n\r\n{"metadata":')
    async with httpx.AsyncClient(base_url=server) as http:
        assert (await http.post("/threads/count", json={})).json() == 0
