"""Transport: both eras on one path, statuses, headers, and what is refused before anything runs."""

from typing import Any

import httpx
import pytest

from conftest import serving
from graphs import Gate
from mcp_client import BOTH, ERAS, MODERN, client, post
from mcp_graphs import MCP_GRAPHS
from threadkeep import __version__
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import GraphTarget, Project
from threadkeep.settings import Settings

HANDSHAKES = ("2025-11-25", "2025-06-18", "2025-03-26")


@pytest.mark.parametrize("mode", [*ERAS, "auto"])
async def test_a_client_of_each_era_is_served(url: str, mode: str) -> None:
    """Contract, Transport: both eras, and a client that finds out. Prompts and resources are not declared."""
    async with client(url, mode) as mcp:
        capabilities, version = mcp.server_capabilities, mcp.protocol_version
        result = await mcp.call_tool("count", {"name": "x"})

    assert version == ("2025-11-25" if mode == "legacy" else MODERN)
    assert result.structured_content["calls"] == 1
    if mode != MODERN:  # this mode takes the version for granted and asks for nothing
        assert (capabilities.prompts, capabilities.resources, capabilities.logging) == (None, None, None)
        assert capabilities.tools is not None
        assert not capabilities.tools.list_changed


async def _handshake(http: httpx.AsyncClient, version: str) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": "", "method": "initialize", "params": params}
    answer = await http.post("/mcp", json=body, headers={"accept": BOTH})
    assert answer.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in answer.headers
    return answer.json()


@pytest.mark.parametrize("version", HANDSHAKES)
async def test_a_handshake_keeps_no_session(http: httpx.AsyncClient, version: str) -> None:
    """Contract, Transport: no `Mcp-Session-Id`, one that is sent is passed over; "" and 0 are ids."""
    answer = await _handshake(http, version)
    headers = {"accept": BOTH, "mcp-protocol-version": version, "mcp-session-id": "none"}
    begun = await http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    listed = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "tools/list"}, headers=headers)

    assert (answer["id"], answer["result"]["protocolVersion"]) == ("", version)
    assert answer["result"]["serverInfo"]["version"] == __version__
    assert (begun.status_code, begun.content) == (202, b"")
    assert (listed.json()["id"], listed.json()["result"]["tools"][0]["name"]) == (0, "echo")


async def test_only_posts_are_served(http: httpx.AsyncClient) -> None:
    """Contract, Transport: GET and DELETE are 405 with `Allow: POST`."""
    answers = [await http.request(method, "/mcp", headers={"accept": BOTH}) for method in ("GET", "DELETE")]

    assert {(answer.status_code, answer.headers["allow"]) for answer in answers} == {(405, "POST")}


async def test_what_there_is_not_is_said(http: httpx.AsyncClient) -> None:
    """Contract, Transport: -32601, with 404 in 2026-07-28; no extension of tasks in the handshake era."""
    modern = [await post(http, method) for method in ("prompts/list", "resources/list", "logging/setLevel", "none")]
    headers = {"accept": BOTH, "mcp-protocol-version": "2025-11-25"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "prompts/list"}
    old = await http.post("/mcp", json=body, headers=headers)
    task = await http.post("/mcp", json=body | {"method": "tasks/get", "params": {"taskId": "x"}}, headers=headers)

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in modern} == {(404, -32601)}
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in (old, task)} == {(200, -32601)}


REFUSED: list[tuple[dict[str, str], int]] = [
    ({"mcp-method": "tools/call"}, -32020),
    ({"mcp-name": "other"}, -32020),
    ({"mcp-protocol-version": "2027-01-01"}, -32020),
]


@pytest.mark.parametrize(("headers", "code"), REFUSED)
async def test_headers_and_body_must_agree(http: httpx.AsyncClient, headers: dict[str, str], code: int) -> None:
    """Contract, Transport: -32020 with 400 and the request's id."""
    method = "tools/call" if "mcp-name" in headers else "tools/list"
    params = {"name": "count", "arguments": {}} if method == "tools/call" else {}
    answer = await post(http, method, params, headers=headers, message_id="a")

    assert (answer.status_code, answer.json()["id"], answer.json()["error"]["code"]) == (400, "a", code)


async def test_a_version_that_is_not_served_is_told_which_are(http: httpx.AsyncClient) -> None:
    """Contract, Transport: -32022 with `supported` and `requested`; -32602 for a missing `_meta`."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    unknown = await post(http, "tools/list", {"_meta": meta}, headers={"mcp-protocol-version": "2099-01-01"})
    headers = {"accept": BOTH, "mcp-protocol-version": MODERN, "mcp-method": "tools/list"}
    bare = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 3, "method": "tools/list"}, headers=headers)
    notified = await http.post(
        "/mcp",
        json={"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        headers=headers,
    )

    assert unknown.status_code == 400
    assert unknown.json()["error"]["data"] == {"supported": [MODERN], "requested": "2099-01-01"}
    assert unknown.json()["error"]["code"] == -32022
    assert (bare.status_code, bare.json()["id"], bare.json()["error"]["code"]) == (400, 3, -32602)
    assert (notified.status_code, notified.content) == (202, b"")


BROKEN: list[tuple[bytes, int, int]] = [
    (b"{", 400, -32700),
    (b"[]", 400, -32600),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', 400, -32600),
    (b'"x"', 400, -32600),
    (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 400, -32600),
    (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', 400, -32600),
    (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', 400, -32600),
    (b'{"jsonrpc": "2.0", "params": {}}', 400, -32600),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 1}}', 200, -32602),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "arguments": []}}', 200, -32602),
]


@pytest.mark.parametrize(("body", "status", "code"), BROKEN)
async def test_a_broken_message_is_never_an_error_of_the_server(
    http: httpx.AsyncClient, body: bytes, status: int, code: int
) -> None:
    """Contract, For all three: never a 5xx for what a client sent."""
    answer = await http.post("/mcp", content=body, headers={"content-type": "application/json", "accept": BOTH})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_media_types_and_pages_are_those_of_the_server(http: httpx.AsyncClient) -> None:
    """Contract, Transport: 415, 406, and 403 for an `Origin` that is not allowed."""
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    text = await http.post("/mcp", content=body, headers={"content-type": "text/plain"})
    image = await http.post("/mcp", content=body, headers={"content-type": "application/json", "accept": "image/png"})
    page = await http.post(
        "/mcp", content=body, headers={"content-type": "application/json", "origin": "https://evil.example"}
    )

    assert [answer.status_code for answer in (text, image, page)] == [415, 406, 403]


async def test_a_silent_call_becomes_a_stream_that_stays_open(
    url: str, http: httpx.AsyncClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract, Transport: SSE with a comment every few seconds, and nothing buffers it."""
    monkeypatch.setattr("threadkeep.api.mcp.exchange.HEAD_S", 0.05)
    monkeypatch.setattr("threadkeep.api.mcp.exchange._MessageStream.heartbeat_s", 0.05, raising=False)
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "wait", "arguments": {"name": "x"}, "_meta": meta}
    headers = {"accept": BOTH, "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "wait"}
    body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    lines: list[str] = []
    async with http.stream("POST", "/mcp", json=body, headers=headers) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if line.startswith(":"):
                gate.open()

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert any(line.startswith(":") for line in lines)
    assert '"id":5' in next(line for line in lines if line.startswith("data:"))


@pytest.mark.parametrize("switch", ["disable_mcp", "disable_runs"])
async def test_a_switch_takes_it_away(module_settings: Settings, tmp_path: Any, switch: str) -> None:
    """Contract, For all three: `http.disable_mcp`. A tool is a run, so it goes with these too."""
    project = Project.model_validate(
        {"root": tmp_path, "graphs": {"count": GraphTarget(path="x:y")}, "http": {switch: True}}
    )
    loaded = {"count": as_loaded_graph("count", MCP_GRAPHS["count"], where="tests")}
    async with serving(module_settings, loaded, project) as url, httpx.AsyncClient(base_url=url) as http:
        answers = [
            await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            await http.get("/.well-known/oauth-protected-resource"),
        ]
        surfaces = (await http.get("/info")).json()["surfaces"]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert "mcp" not in surfaces
