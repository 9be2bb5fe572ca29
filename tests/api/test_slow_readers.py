"""Slow readers: a client that does not read its stream is cut, and its run goes on."""

import asyncio
import operator
import re
import socket
import struct
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import orjson
import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

EVENTS = 400
SIZE = 32 * 1024
"""Together more than the kernel buffers for a connection without a reader."""


POURED = 60


class Ticks(TypedDict):
    """How many ticks."""

    ticks: Annotated[int, operator.add]


async def _tick(state: Ticks) -> Ticks:
    write = get_stream_writer()
    for number in range(EVENTS):
        write({"number": number, "filling": "x" * SIZE})
        await anyio.sleep(0.005)
    return {"ticks": EVENTS}


async def _pour(state: Ticks) -> Ticks:
    write = get_stream_writer()
    for _ in range(POURED):
        write({"filling": "x" * 8 * SIZE})
        await anyio.lowlevel.checkpoint()
    return {"ticks": POURED}


NODES: dict[str, Any] = {"ticking": _tick, "pouring": _pour}


def _single(node: Any) -> StateGraph[Any, Any, Any, Any]:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Ticks)
    graph.add_node("node", node)  # pyright: ignore[reportUnknownMemberType] - its overloads
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server of a graph with much output, whose streams may fall behind only a little."""
    graphs = {name: as_loaded_graph(name, _single(node), where="tests") for name, node in NODES.items()}
    async with serving(settings.model_copy(update={"max_unsent_events": 20}), graphs) as url:
        yield url


def _request(path: str, body: object) -> bytes:
    raw = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


async def _unread(url: str, request: bytes) -> socket.socket:
    """A connection on which a request was sent, and of whose answer nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.setblocking(False)
    target = urlsplit(url)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (target.hostname, target.port))
    await loop.sock_sendall(connection, request)
    return connection


async def test_a_client_that_reads_nothing_is_disconnected_and_can_read_the_rest(url: str) -> None:
    """Ours: past its bound the connection ends, the run does not; `Last-Event-ID` goes on without a gap."""
    body: dict[str, Any] = {
        "assistant_id": "ticking",
        "input": {"ticks": 0},
        "stream_mode": "custom",
        "stream_resumable": True,
    }
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        connection = await _unread(url, _request(f"/threads/{thread_id}/runs/stream", body))
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
    """All that the server sent until the connection ended."""
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


async def test_a_client_that_reads_is_not_disconnected_during_a_large_stream(url: str) -> None:
    """Ours: a burst is not slowness."""
    body = {"assistant_id": "ticking", "input": {"ticks": 0}, "stream_mode": "custom"}
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        answer = await http.post("/runs/stream", json=body)

    assert answer.text.count("event: custom") == EVENTS


async def test_socket_of_a_client_that_leaves_while_a_frame_waits_ends_quietly(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: the frame that waited failed, and the log had an unhandled exception for each such client."""
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        connection = await _unread(url, b"")
        path = f"/threads/{thread_id}/stream/events"
        await _subscribe(connection, f"{url.replace('http', 'ws')}{path}")
        body = {"assistant_id": "pouring", "input": {"ticks": 0}, "stream_mode": ["custom"]}
        answer = await http.post(
            f"/threads/{thread_id}/commands", json={"id": 2, "method": "run.start", "params": body}
        )
        assert answer.json()["type"] == "success"
        with anyio.fail_after(WAIT_S * 4), caplog.at_level("INFO", "threadkeep"):
            while (await http.get(f"/threads/{thread_id}")).json()["status"] == "busy":
                await anyio.sleep(0.05)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            while "socket" not in [record.message for record in caplog.records]:
                await anyio.sleep(0.05)

    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def _subscribe(connection: socket.socket, address: str) -> None:
    """Open a WebSocket on the connection, and subscribe on it."""
    loop, protocol = asyncio.get_running_loop(), ClientProtocol(parse_uri(address))
    protocol.send_request(protocol.connect())
    await loop.sock_sendall(connection, b"".join(protocol.data_to_send()))
    while protocol.state is not State.OPEN:
        protocol.receive_data(await loop.sock_recv(connection, 4096))
    params = {"channels": ["custom"]}
    protocol.send_text(orjson.dumps({"id": 1, "method": "subscription.subscribe", "params": params}))
    await loop.sock_sendall(connection, b"".join(protocol.data_to_send()))
    while not any(isinstance(event, Frame) for event in protocol.events_received()):
        protocol.receive_data(await loop.sock_recv(connection, 4096))
