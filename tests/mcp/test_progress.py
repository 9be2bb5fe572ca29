"""Progress: what a graph tells of its work, and what leaving means in each era."""

import json
from typing import Any

import anyio
import httpx
import pytest

from graphs import Gate
from mcp_client import ERAS, MODERN, client, post


@pytest.mark.parametrize("mode", ERAS)
async def test_progress_is_the_graphs_own_or_its_steps(url: str, mode: str) -> None:
    """Contract, Tools: custom values as they are, else one step for each node; strictly increasing."""
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async with client(url, mode) as mcp:
        await mcp.call_tool("wait", {"name": "x"}, progress_callback=progress)
        steps = list(told)
        told.clear()
        await mcp.call_tool("progress", {"name": "x"}, progress_callback=progress)

    assert steps == [(1, None, "wait"), (2, None, "count")]
    assert told == [(1, None, "count")]


async def test_a_graph_that_tells_its_progress_is_believed(http: httpx.AsyncClient) -> None:
    """Contract, Tools: `progress`, `total` and `message` of custom values."""
    params = {"name": "told", "arguments": {"name": "x"}, "_meta": {"progressToken": 0}}
    answer = await post(http, "tools/call", params)
    messages = [json.loads(line.removeprefix("data:")) for line in answer.text.splitlines() if line.startswith("data")]

    assert [message.get("params") for message in messages[:-1]] == [
        {"progressToken": 0, "progress": progress, "total": 1, "message": message}
        for progress, message in ((0.25, "a"), (0.5, "b"), (1, "c"))
    ]
    assert messages[-1]["result"]["structuredContent"]["calls"] == 1


async def test_any_text_is_read_by_a_client_that_splits_lines_as_python_does(http: httpx.AsyncClient) -> None:
    """Contract, Transport: U+2028, U+2029 and U+0085 end no line of a stream."""
    said = "a\u2028b\u2029c\x85d"
    params = {"name": "echo", "arguments": {"messages": said}, "_meta": {"progressToken": "\u2028"}}
    lines = (await post(http, "tools/call", params)).text.splitlines()
    *told, last = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data")]

    assert {message["params"]["progressToken"] for message in told} == {"\u2028"}
    assert last["result"]["content"][0]["text"] == f"You said: {said}"


async def test_nobody_is_told_who_did_not_ask(http: httpx.AsyncClient) -> None:
    """Contract, Tools: progress where `progressToken` is given. A client that reads no stream gets JSON."""
    plain = await post(http, "tools/call", {"name": "progress", "arguments": {"name": "x"}})
    params = {"name": "progress", "arguments": {"name": "x"}, "_meta": {"progressToken": "t"}}
    unread = await post(http, "tools/call", params, headers={"accept": "application/json"})

    assert [answer.headers["content-type"] for answer in (plain, unread)] == ["application/json"] * 2
    assert unread.json()["result"]["isError"] is False


@pytest.mark.parametrize(("version", "status"), [(MODERN, "interrupted"), ("2025-11-25", "success")])
async def test_leaving_cancels_since_2026_and_not_before(
    url: str, http: httpx.AsyncClient, gate: Gate, version: str, status: str
) -> None:
    """Contract, Transport, Leaving."""
    thread: dict[str, Any] = (await http.post("/threads", json={})).json()
    meta = {"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}}
    arguments = {"name": "x", "thread_id": thread["thread_id"]}
    params = {"name": "wait", "arguments": arguments, **({"_meta": meta} if version == MODERN else {})}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": version}
    if version == MODERN:
        headers |= {"mcp-method": "tools/call", "mcp-name": "wait"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: http.post("/mcp", json=body, headers=headers))
        await gate.entered()
        tasks.cancel_scope.cancel()
    if status == "success":
        gate.open()
    runs: list[dict[str, Any]] = []
    with anyio.fail_after(5):
        while not runs or runs[0]["status"] in {"pending", "running"}:
            runs = (await http.get(f"/threads/{thread['thread_id']}/runs")).json()
            await anyio.sleep(0.02)

    assert [run["status"] for run in runs] == [status]
