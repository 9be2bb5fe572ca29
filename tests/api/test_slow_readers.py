"""Slow readers: a client that does not read its stream is cut, and its run goes on."""

import asyncio
import operator
import re
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
import orjson
import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

EVENTS = 400
SIZE = 32 * 1024
"""Together more than what the kernel takes of a connection that nobody reads."""


class Ticks(TypedDict):
    """How many ticks."""

    ticks: Annotated[int, operator.add]


async def _tick(state: Ticks) -> Ticks:
    write = get_stream_writer()
    for number in range(EVENTS):
        write({"number": number, "filling": "x" * SIZE})
        await anyio.sleep(0.005)
    return {"ticks": EVENTS}


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server of a graph that says much; what a stream may be behind is little."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Ticks)
    graph.add_node("tick", _tick)  # pyright: ignore[reportUnknownMemberType] - its overloads
    graph.add_edge(START, "tick")
    graph.add_edge("tick", END)
    graphs = {"ticking": as_loaded_graph("ticking", graph, where="tests")}
    async with serving(settings.model_copy(update={"max_unsent_events": 20}), graphs) as url:
        yield url


def _request(path: str, body: object) -> bytes:
    raw = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


async def _unread(url: str, path: str, body: object) -> socket.socket:
    """A connection on which a request was sent, and of whose answer nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.setblocking(False)
    target = urlsplit(url)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (target.hostname, target.port))
    await loop.sock_sendall(connection, _request(path, body))
    return connection


async def test_client_that_reads_nothing_is_cut_and_finds_the_rest(url: str) -> None:
    """Ours: past its bound the connection ends, the run does not; `Last-Event-ID` goes on without a gap."""
    body: dict[str, Any] = {
        "assistant_id": "ticking",
        "input": {"ticks": 0},
        "stream_mode": "custom",
        "stream_resumable": True,
    }
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        connection = await _unread(url, f"/threads/{thread_id}/runs/stream", body)
        with anyio.fail_after(WAIT_S * 4):
            while not (found := (await http.get(f"/threads/{thread_id}/runs")).json()):
                await anyio.sleep(0.02)
            path = f"/threads/{thread_id}/runs/{found[0]['run_id']}"
            while (await http.get(path)).json()["status"] != "success":
                await anyio.sleep(0.1)
            await anyio.sleep(0.5)
        received = await anyio.to_thread.run_sync(_drained, connection)
        told = [int(one) for one in re.findall(rb"\r\nid: (\d+)\r\n\r\n", received)]
        rest = await http.get(f"{path}/stream", headers={"last-event-id": str(told[-1])})

    assert not received.endswith(b"0\r\n\r\n")
    assert 0 < len(told) < EVENTS
    positions = told + [int(one) for one in re.findall(r"\r\nid: (\d+)\r\n\r\n", rest.text)]
    assert positions == list(range(1, EVENTS + 2))


def _drained(connection: socket.socket) -> bytes:
    """What the server sent, read at last, until the connection ends."""
    connection.setblocking(True)
    connection.settimeout(WAIT_S)
    received = bytearray()
    try:
        while chunk := connection.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    finally:
        connection.close()
    return bytes(received)


async def test_client_that_reads_is_not_cut_however_much_comes(url: str) -> None:
    """Ours: a burst is not slowness."""
    body = {"assistant_id": "ticking", "input": {"ticks": 0}, "stream_mode": "custom"}
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        answer = await http.post("/runs/stream", json=body)

    assert answer.text.count("event: custom") == EVENTS
