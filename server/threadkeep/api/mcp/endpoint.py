"""POST /mcp: one message of the Model Context Protocol."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest


class McpMessage(BaseModel):
    """A JSON-RPC request or notification."""

    model_config = ConfigDict(extra="ignore")

    jsonrpc: Literal["2.0"]
    id: str | int | None = None
    """Absent: a notification."""
    method: str
    """`tools/list`, `tools/call`, `tasks/get`, `server/discover`, `initialize` and others of the protocol."""
    params: dict[str, Any] | None = None


async def post(call: AuthorizedRequest[None, None]) -> Response:
    """POST /mcp: answer a message of the Model Context Protocol, as JSON or as server-sent events."""
    protocol = await call.state.mcp.protocol()
    return await protocol.respond(call, await call.read_body())
