"""Endless heads and bodies: each connection is bounded before its caller is authenticated."""

import json
from collections.abc import AsyncIterator, Iterable
from uuid import uuid4

import anyio
import anyio.abc
import httpx
import pytest
from anyio.abc import SocketStream
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.api import connections
from threadkeep.settings import Settings

HEAD_TIMEOUT_S = 0.4
BODY_TIMEOUT_S = 0.4
HEAD_BYTES = 64 * 1024
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE = (
    f"GET /threads/{uuid4()}/stream/events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
).encode()
POST = b"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[str]:
    """A server with short deadlines; it is alive at the end."""
    chosen = settings.model_copy(update={"head_timeout_s": HEAD_TIMEOUT_S, "body_timeout_s": BODY_TIMEOUT_S})
    async with serving(chosen) as url:
        yield url
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/livez")).status_code == 200


async def connected(url: str) -> SocketStream:
    """A connection to the server."""
    host, port = url.removeprefix("http://").split(":")
    return await anyio.connect_tcp(host, int(port))


async def read_all(stream: SocketStream) -> bytes:
    """All that the server says until it closes the connection."""
    said = b""
    try:
        with anyio.fail_after(WAIT_S):
            while True:
                said += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return said


async def send_all(stream: SocketStream, parts: Iterable[bytes]) -> int:
    """Send until the server does not take any more; how many bytes it took."""
    sent = 0
    try:
        with anyio.fail_after(WAIT_S):
            for part in parts:
                await stream.send(part)
                sent += len(part)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    return sent


def refusal(said: bytes) -> tuple[int, str, bool]:
    """The status and the code of the one answer, and whether it closes the connection."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert said.count(b"HTTP/1.1 ") == 1
    return int(head.split(b" ")[1]), json.loads(body)["code"], b"connection: close" in head


TOO_LARGE = (431, "head-too-large", True)
TOO_SLOW = (408, "head-timeout", True)
LARGE: dict[str, list[bytes]] = {
    "one header": [GET, b"X: ", *[b"a" * 1000] * 66],
    "one header at once": [GET + b"X: " + b"a" * HEAD_BYTES],
    "one header that ends": [GET + b"X: " + b"a" * HEAD_BYTES + b"\r\n\r\n"],
    "several headers": [GET, *[b"X: " + b"a" * 8000 + b"\r\n"] * 9],
    "several headers that end": [GET + (b"X: " + b"a" * 8000 + b"\r\n") * 9 + b"\r\n"],
    "a name": [GET + b"a" * HEAD_BYTES],
    "an address": [b"GET /" + b"a" * HEAD_BYTES],
    "lines": [GET + b"X: 1\r\n" * 100 + b"\r\n"],
    "a socket's header": [UPGRADE + b"X: " + b"a" * HEAD_BYTES + b"\r\n\r\n"],
    "a socket's lines": [UPGRADE + b"X: 1\r\n" * 100 + b"\r\n"],
    "a trailer": [CHUNKED + b"0\r\nX: ", *[b"a" * 1000] * 70],
    "a chunk's extension": [CHUNKED + b"1;a=", *[b"a" * 1000] * 70],
}


@pytest.mark.parametrize("name", LARGE)
async def test_head_above_the_limit_is_refused(server: str, name: str) -> None:
    """Issue: 431 and close, HTTP and WebSocket alike; also for what stands around a body in chunks."""
    async with await connected(server) as stream:
        await send_all(stream, LARGE[name])
        assert refusal(await read_all(stream)) == TOO_LARGE


@pytest.mark.parametrize("start", [GET, UPGRADE], ids=["request", "socket"])
async def test_endless_head_is_not_taken(server: str, start: bytes) -> None:
    """Issue: the server stops reading, so that its memory does not grow."""
    async with await connected(server) as stream:
        sent = await send_all(stream, [start + b"X: ", *[b"a" * 1_000_000] * 60])

    assert sent < 20_000_000  # what lies in the buffers of both kernels


ALLOWED: dict[str, list[bytes]] = {
    "a long header": [GET + b"X: " + b"a" * 60_000 + b"\r\n\r\n"],
    "a long header in parts": [GET, b"X: ", *[b"a" * 1000] * 60, b"\r\n\r\n"],
    "many lines": [GET + b"X: 1\r\n" * 98 + b"Connection: close\r\n\r\n"],
    "empty lines before it": [b"\r\n" * 10, GET + b"\r\n"],
    "a body behind it": [POST + b"Content-Length: 200000\r\n\r\n{" + b" " * 199_998 + b"}"],
    "one byte a chunk": [CHUNKED + b"1\r\n \r\n" * 20_000 + b"2\r\n{}\r\n0\r\n\r\n"],
}


@pytest.mark.parametrize("name", ALLOWED)
async def test_head_below_the_limit_is_taken(server: str, name: str) -> None:
    """Ours: the limit is for heads alone, wherever the network parts them."""
    async with await connected(server) as stream:
        await send_all(stream, ALLOWED[name])
        with anyio.fail_after(WAIT_S):
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_sockets_long_header_is_taken(server: str) -> None:
    """Ours: a token of 20 kB opens a socket as it opens any other path."""
    address = f"{server.replace('http', 'ws')}/threads/{uuid4()}/stream/events"
    async with connect(address, additional_headers={"authorization": "Bearer " + "a" * 20_000}):
        pass
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, additional_headers={"authorization": "Bearer " + "a" * HEAD_BYTES}):
            pass

    assert refused.value.response.status_code == 431


@pytest.mark.parametrize("start", [b"G", GET, UPGRADE], ids=["one byte", "request", "socket"])
async def test_a_head_that_does_not_arrive_is_cut_off(server: str, start: bytes) -> None:
    """Issue: 408 and close when its time is over."""
    async with await connected(server) as stream:
        await stream.send(start)
        assert refusal(await read_all(stream)) == TOO_SLOW


async def test_trickling_head_is_cut(server: str) -> None:
    """Issue: the deadline is for the whole head (slowloris)."""
    async with await connected(server) as stream, anyio.create_task_group() as tasks:
        await stream.send(GET)

        async def trickle() -> None:
            while True:
                await anyio.sleep(HEAD_TIMEOUT_S / 10)
                try:
                    await stream.send(b"X: 1\r\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

        tasks.start_soon(trickle)
        assert refusal(await read_all(stream)) == TOO_SLOW
        tasks.cancel_scope.cancel()


async def test_idle_connections_are_kept(server: str) -> None:
    """Issue: neither one that asked before, nor one that has not said anything yet."""
    async with await connected(server) as silent, await connected(server) as asked:
        for _ in range(2):
            await asked.send(GET + b"\r\n\r\n")  # with an empty line too many, as some clients send
            assert (await asked.receive()).startswith(b"HTTP/1.1 200 ")
            await anyio.sleep(HEAD_TIMEOUT_S * 2)
        await silent.send(GET + b"\r\n")
        assert (await silent.receive()).startswith(b"HTTP/1.1 200 ")


async def test_heads_without_a_body_are_sent_before_the_connection_closes(server: str) -> None:
    """Ours: a head is held back for the first part of its body, and these responses have none."""
    stream = await connected(server)
    async with stream:
        await stream.send(GET.replace(b"GET", b"HEAD") + b"\r\n" + GET + b"\r\n")
        await stream.send(GET.replace(b"GET", b"HEAD") + b"Connection: close\r\n\r\n")
        received = await read_all(stream)

    first, second, third = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"\r\n\r\n")
    assert second.partition(b"\r\n\r\n")[2]  # the body of GET
    assert third.endswith(b"\r\n\r\n")


async def test_open_sockets_have_no_deadline(settings: Settings) -> None:
    """Ours: a socket is no idle connection, nor a head that does not end."""
    chosen = settings.model_copy(update={"head_timeout_s": 0.2})
    path = f"/threads/{uuid4()}/stream/events"
    async with serving(chosen, keep_alive_s=1) as url, connect(url.replace("http", "ws") + path) as socket:
        await anyio.sleep(1.5)
        await socket.send(json.dumps({"id": 1, "method": "nonsense"}))
        with anyio.fail_after(WAIT_S):
            assert json.loads(await socket.recv())["error"] == "unknown_command"


@pytest.mark.parametrize("more", [b"GE", b"X" * HEAD_BYTES * 2, b"\x16\x03\x01\x02"], ids=["slow", "large", "no HTTP"])
async def test_no_refusal_stands_within_another_answer(server: str, gate: Gate, more: bytes) -> None:
    """Ours: what follows a request on its connection waits for that request's answer, and then there is none."""
    body = json.dumps({"assistant_id": "gated", "input": {"items": []}, "stream_mode": "values"}).encode()
    head = POST.replace(b"/threads", b"/runs/stream") + b"Content-Length: %d\r\n\r\n" % len(body)
    async with await connected(server) as stream:
        await stream.send(head + body)
        await gate.entered()
        await stream.send(more)
        await anyio.sleep(HEAD_TIMEOUT_S * 2)
        gate.open()
        said = await read_all(stream)

    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b"0\r\n\r\n")
    assert b'data: {"items":["gated"]}' in said


BODY = b" " * (17 * 1024 * 1024)


async def in_parts() -> AsyncIterator[bytes]:
    """The body in chunks, its length not told."""
    for start in range(0, len(BODY), 65536):
        yield BODY[start : start + 65536]


@pytest.mark.parametrize("headers", [{}, {"connection": "close"}], ids=["kept", "closed"])
async def test_body_above_the_limit_is_answered_to_httpx(url: str, headers: dict[str, str]) -> None:
    """Issue: 413, not a reset, whether its length is told or not."""
    json_type = {"content-type": "application/json", **headers}
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 4) as http:
        results = [(await http.post("/threads", content=BODY, headers=json_type)).status_code for _ in range(4)]
        results += [(await http.post("/threads", content=in_parts(), headers=json_type)).status_code for _ in range(4)]
    with httpx.Client(base_url=url, timeout=WAIT_S * 4) as http:
        results += [
            (await anyio.to_thread.run_sync(lambda: http.post("/threads", content=BODY, headers=json_type))).status_code
            for _ in range(4)
        ]

    assert results == [413] * 12


async def test_body_of_100_mb_in_chunks_is_answered_to_httpx(url: str) -> None:
    """Issue: likewise if it is many times the limit."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(1600):
            yield BODY[:65536]

    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 12) as http:
        answer = await http.post("/threads", content=parts(), headers={"content-type": "application/json"})

    assert answer.status_code == 413


async def test_body_of_a_stranger_is_answered_to_httpx(settings: Settings) -> None:
    """Ours: the same of every answer that does not wait for the body."""
    chosen = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S * 4) as http:
        answer = await http.post("/threads", content=BODY, headers={"content-type": "application/json"})
        foreign = await http.post("/threads", content=BODY, headers={"origin": "https://evil.example"})

    assert (answer.status_code, foreign.status_code) == (401, 403)


async def test_rest_of_an_answered_body_is_bounded_in_size(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the rest of an answered body is not read without a limit."""
    monkeypatch.setattr(connections, "DROPPED_BODY_BYTES", 1_000_000)
    async with await connected(server) as stream:
        await stream.send(POST + b"Content-Length: 999999999999\r\n\r\n")
        sent = await send_all(stream, [b" " * 1_000_000] * 60)

    assert sent < 20_000_000


@pytest.mark.parametrize("path", [b"/threads", b"/nowhere"])
async def test_rest_of_an_answered_body_is_bounded_in_time(server: str, path: bytes) -> None:
    """Ours: after the answer the connection does not wait for the rest for ever."""
    async with await connected(server) as stream:
        await stream.send(POST.replace(b"/threads", path) + b"Content-Length: 99999999\r\n\r\n{")
        said = await read_all(stream)

    assert said.startswith(b"HTTP/1.1 4")


async def test_connection_goes_on_after_an_answered_body(server: str) -> None:
    """Ours: a client that sends all of a body that was refused may use its connection again."""
    async with await connected(server) as stream:
        await stream.send(POST.replace(b"/threads", b"/nowhere") + b"Content-Length: 10\r\n\r\n{")
        assert (await stream.receive()).startswith(b"HTTP/1.1 404 ")
        await stream.send(b" " * 9)
        await anyio.sleep(BODY_TIMEOUT_S * 2)
        await stream.send(GET + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_malformed_rest_of_an_answered_body_has_no_answer(server: str) -> None:
    """Ours: one request, one answer."""
    async with await connected(server) as stream:
        await stream.send(CHUNKED.replace(b"/threads", b"/nowhere") + b"1\r\n{\r\n")
        said = await stream.receive()
        await stream.send(b"no chunk" + GET + b"\r\n")
        said += await read_all(stream)

    assert said.startswith(b"HTTP/1.1 404 ")
    assert said.count(b"HTTP/1.1 ") == 1
