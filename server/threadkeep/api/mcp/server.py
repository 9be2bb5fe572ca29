"""Server: the low-level server of the `mcp` package, with the methods that this server has."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import validate_mcp_param_headers
from mcp_types import INVALID_PARAMS, CallToolRequestParams, PaginatedRequestParams

from threadkeep import __version__
from threadkeep.api.mcp import tasks
from threadkeep.api.mcp.arguments import ToolError
from threadkeep.api.mcp.calls import ToolCall, call_tool
from threadkeep.api.mcp.capabilities import TASKS
from threadkeep.api.mcp.results import error_result
from threadkeep.api.mcp.tasks import TaskParams, TaskUpdateParams
from threadkeep.api.mcp.tools import find_tool, list_tools

if TYPE_CHECKING:
    from threadkeep.api.mcp.exchange import Exchange

Context: TypeAlias = ServerRequestContext[Any, Any]
"""The session of one request. `_exchange` is the request."""
STATE_TTL_S: Final = 86_400.0
"""Seconds for which a `requestState` is valid."""
LIST_TTL_MS: Final = 5_000
"""Milliseconds for which a client may keep a list of tools."""
INSTRUCTIONS: Final = (
    "Each tool is an agent. A result names its thread_id: send it with the next call to continue the conversation."
)


def build_server(keys: Sequence[bytes], project_id: str) -> Server[Any]:
    """The server. `keys` encrypt the state that clients carry: the first key encrypts, and all keys decrypt."""
    server: Server[Any] = Server(
        "threadkeep",
        version=__version__,
        title="Threadkeep",
        instructions=INSTRUCTIONS,
        on_list_tools=_list_tools,
        on_call_tool=cast("Any", _call_tool),
    )
    server.add_request_handler("tasks/get", TaskParams, _get_task)
    server.add_request_handler("tasks/update", TaskUpdateParams, _update_task)
    server.add_request_handler("tasks/cancel", TaskParams, _cancel_task)
    server.extensions = {TASKS: {}}
    security = RequestStateSecurity(keys=list(keys), ttl=STATE_TTL_S, bind_principal=_principal)
    # The audience keeps states of another project with the same operator's keys out.
    server.middleware = [RequestStateBoundary(security, default_audience=project_id)]  # requests have spans already
    return server


def _exchange(context: Context) -> "Exchange":
    return cast("Exchange", context.request)


def _principal(context: Context) -> str | None:
    return _exchange(context).call.caller.identity


async def _list_tools(context: Context, params: PaginatedRequestParams | None) -> Any:
    """All tools are on one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "The cursor is not valid: all tools are on one page")
    tools = await list_tools(_exchange(context).call)
    return {"tools": [tool.definition for tool in tools], "ttlMs": LIST_TTL_MS, "cacheScope": "private", **COMPLETE}


COMPLETE: Final[Mapping[str, Any]] = {"resultType": "complete"}


async def _call_tool(context: Context, params: CallToolRequestParams) -> Any:
    exchange = _exchange(context)
    tool = await find_tool(exchange.call, params.name)
    if tool is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
    arguments = params.arguments or {}
    if exchange.is_modern:
        mismatch = validate_mcp_param_headers(tool.schemas.input_schema, arguments, exchange.call.request.headers)
        if mismatch is not None:
            raise MCPError(mismatch.code, mismatch.message, mismatch.data)
    call = ToolCall(
        exchange=exchange,
        tool=tool,
        arguments=arguments,
        state=params.request_state,
        responses=_responses(context),
    )
    try:
        return await call_tool(call)
    # A result and not an error of the protocol: hosts show models only results.
    except ToolError as error:
        return error_result(str(error))


def _responses(context: Context) -> Mapping[str, Any] | None:
    """The client's unchanged answer to each question."""
    # From the raw parameters, because the package parses the answers into types of its own.
    return (context.params or {}).get("inputResponses")


async def _get_task(context: Context, params: TaskParams) -> Any:
    return await tasks.get_task(_exchange(context), params)


async def _update_task(context: Context, params: TaskUpdateParams) -> Any:
    return await tasks.update_task(_exchange(context), params)


async def _cancel_task(context: Context, params: TaskParams) -> Any:
    return await tasks.cancel_task(_exchange(context), params)
