"""A lost connection: the SDKs take up the stream again by themselves, where it broke off."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from langgraph_sdk import get_client

from clients.node import LINES, needs_node, run_script
from conftest import WAIT_S
from graphs import Gate


class Wire:
    """What stands between a client and the server, and can be cut."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port or 80
        self._open: set[anyio.CancelScope] = set()

    async def carry(self, near: SocketStream) -> None:
        """Serve one connection."""
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            async with (
                near,
                await anyio.connect_tcp("127.0.0.1", self._port) as far,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(_copy, near, far, scope)
                tasks.start_soon(_copy, far, near, scope)
        self._open.discard(scope)

    def cut(self) -> None:
        """End the connections that there are; new ones are served."""
        for scope in self._open:
            scope.cancel()


async def _copy(source: ByteStream, target: ByteStream, connection: anyio.CancelScope) -> None:
    try:
        async for chunk in source:
            await target.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    connection.cancel()


@pytest.fixture
async def wire(url: str) -> AsyncIterator[tuple[str, Wire]]:
    """The URL at which the server is reached over a wire, and the wire."""
    wire = Wire(url)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, wire.carry)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's `extra`, not Django's
        yield f"http://127.0.0.1:{port}", wire
        tasks.cancel_scope.cancel()


async def test_python_client_misses_nothing(wire: tuple[str, Wire], gate: Gate) -> None:
    """Protocol: GET of the Location, with `Last-Event-ID`."""
    url, line = wire
    found: list[tuple[str, object]] = []
    with anyio.fail_after(WAIT_S * 2):
        async with get_client(url=url, api_key=None) as client:
            thread = await client.threads.create()
            async for part in client.runs.stream(
                thread["thread_id"],
                "gated",
                input={"items": ["in"]},
                stream_mode=["values", "updates"],
                stream_resumable=True,
            ):
                found.append((part.event, part.data))
                if len(found) == 2:
                    line.cut()
                    gate.open()

    assert found[1:] == [
        ("values", {"items": ["in"]}),
        ("updates", {"gate": {"items": ["gated"]}}),
        ("values", {"items": ["in", "gated"]}),
    ]


@needs_node
@pytest.mark.parametrize("line", LINES)
async def test_javascript_client_misses_nothing(wire: tuple[str, Wire], gate: Gate, line: str) -> None:
    """Protocol: the same, in lost_line.mjs."""

    def cut() -> None:
        wire[1].cut()
        gate.open()

    await run_script("lost_line", wire[0], line, {"cut the line": cut})
