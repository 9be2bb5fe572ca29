"""What the tests of MCP call a server with: the official client in both eras, and single messages over HTTP."""

from collections.abc import Mapping
from typing import Any, Final

import httpx
from mcp.client.client import Client

MODERN: Final = "2026-07-28"
ERAS: Final = ("legacy", MODERN)
BOTH: Final = "application/json, text/event-stream"


def client(url: str, mode: str, **more: Any) -> Client:
    """The official client of an era."""
    return Client(f"{url}/mcp", mode=mode, **more)


def texts(result: Any) -> list[str]:
    """The texts of a result, without the last one, which names the thread."""
    *shown, last = [block.text for block in result.content]
    assert last.startswith("thread_id: ")
    return shown


async def post(
    http: httpx.AsyncClient,
    method: str,
    params: Mapping[str, Any] | None = None,
    *,
    message_id: str | int = 1,
    headers: Mapping[str, str] | None = None,
    capabilities: Mapping[str, Any] | None = None,
) -> httpx.Response:
    """Send one request of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
    }
    fields = dict(params or {})
    sent = {"_meta": {**meta, **fields.pop("_meta", {})}, **fields}
    name = fields.get("name") or fields.get("taskId")
    named = {"mcp-name": name} if isinstance(name, str) else {}
    own = {"accept": BOTH, "mcp-protocol-version": MODERN, "mcp-method": method, **named, **(headers or {})}
    body = {"jsonrpc": "2.0", "id": message_id, "method": method, "params": sent}
    return await http.post("/mcp", json=body, headers=own)
