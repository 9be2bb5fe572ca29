"""What keeps a browser, or whoever reads a stream, from being made to do what an attacker wants."""

from collections.abc import AsyncIterator
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

EVIL = "\r\n\r\nevent: end\r\ndata: {}\r\n\r\n\u2028\u2029\x85\x0b\x0c\x00: x\nid: 7\n\n"
NODE = "evil\r\n\r\nevent=end\rdata\n\n\u2028\x85"


class State(TypedDict):
    """What came in."""

    text: str


async def _say(state: State) -> State:
    get_stream_writer()({EVIL: EVIL})
    return {"text": state["text"] + EVIL}


@pytest.fixture
async def evil(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A server of a graph whose texts, keys and nodes are frames of their own."""
    inner = StateGraph(State)
    inner.add_node("say", _say)
    inner.add_edge(START, "say")
    graph = StateGraph(State)
    graph.add_node(NODE, inner.compile())
    graph.add_edge(START, NODE)
    graphs = {"evil": as_loaded_graph("evil", graph, where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


def _frames(raw: bytes) -> list[dict[bytes, bytes]]:
    """The frames of a stream as the standard reads them: a line ends by CR LF, LF or CR."""
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
    return [dict(line.split(b": ", 1) for line in frame.split(b"\n") if line) for frame in lines if frame]


@pytest.mark.parametrize("path", ["/runs/stream", "/threads/{}/runs/stream"])
async def test_no_output_of_a_graph_ends_a_frame(evil: httpx.AsyncClient, path: str) -> None:
    """Ours: data is one line of JSON; names of nodes lose what ends a line."""
    thread_id = (await evil.post("/threads", json={})).json()["thread_id"]
    modes = ["values", "updates", "custom", "messages-tuple", "debug", "tasks", "checkpoints", "events"]
    body = {"assistant_id": "evil", "input": {"text": EVIL}, "stream_mode": modes, "stream_subgraphs": True}
    answer = await evil.post(path.format(thread_id), json=body)
    frames = _frames(answer.content)
    names = {frame[b"event"].decode() for frame in frames}

    assert answer.status_code == 200
    assert all(frame.keys() <= {b"event", b"data", b"id"} for frame in frames)
    assert all(name.isprintable() for name in names)
    assert {name.partition("|")[0] for name in names} <= {*modes, "metadata", "messages"}
    assert "end" not in names


GUARDS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
ASKED: list[tuple[str, str, Any]] = [
    ("GET", "/info", None),
    ("GET", "/nowhere", None),
    ("PUT", "/info", None),
    ("POST", "/threads", "{"),
    ("POST", "/threads", "{}"),
    ("GET", "/threads/x", None),
    ("POST", "/runs/stream", '{"assistant_id":"chain","input":{"items":[]}}'),
]


@pytest.mark.parametrize(("method", "path", "body"), ASKED)
async def test_each_response_has_nosniff_and_other_security_headers(
    http: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    """Ours: errors and streams too: no other type, no page, nothing to keep."""
    answer = await http.request(method, path, content=body)

    assert {name: answer.headers.get(name) for name in GUARDS} == GUARDS


async def test_page_has_a_policy_of_its_own(http: httpx.AsyncClient) -> None:
    """Ours: its own script and style, and no frame around it."""
    headers = (await http.get("/docs")).headers

    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "script-src 'sha256-" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "allowed"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False)]
)
async def test_pages_of_this_machine_may_call_only_a_server_that_others_cannot_reach(
    settings: Settings, host: str, allowed: bool
) -> None:
    """Ours: once bound to a network, only what `http.cors` names."""
    chosen = settings.model_copy(update={"host": host, "allow_unauthenticated": True})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/ok", headers={"origin": "http://localhost:3000"})
        asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        preflight = await http.options("/threads", headers=asked)

    assert ("access-control-allow-origin" in answer.headers) is allowed
    assert ("access-control-allow-origin" in preflight.headers) is allowed
