"""JSON-RPC: reads requests, and makes answers and frames of them (A2A 1.0, section 9)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from anyio import to_thread
from starlette.requests import Request

from threadkeep.api.a2a.errors import INVALID_REQUEST, PARSE_ERROR, A2AError, error_of_problem
from threadkeep.api.body import LARGE_BYTES, parse_json
from threadkeep.base import json
from threadkeep.base.problems import Problem, ValidationFailed

RpcId: TypeAlias = str | int | float | None
Dialect: TypeAlias = Literal["1.0", "0.3"]
VERSION_HEADER: Final = "A2A-Version"
VERSIONS: Final = re.compile(r"(1\.0|0\.3)(\.[0-9]+)?")
"""Versions that are served. A patch number does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcRequest:
    """A request."""

    method: str
    params: Mapping[str, Any]


async def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the object of a request. Raise A2AError if the body is not a JSON object."""
    try:
        # Parsing a large body would block the event loop.
        body = parse_json(raw) if len(raw) <= LARGE_BYTES else await to_thread.run_sync(parse_json, raw)
    except ValidationFailed as problem:
        raise A2AError(PARSE_ERROR, f"Invalid JSON payload: {problem.detail}") from None
    # A list would be a batch of JSON-RPC. A2A does not use batches.
    if not isinstance(body, dict):
        raise A2AError(INVALID_REQUEST, "Request payload validation error: the body must be one JSON-RPC request")
    return cast("dict[str, Any]", body)


def id_of(body: Mapping[str, Any]) -> RpcId:
    """The id of a request: a string or a number. None if it has none, or something else."""
    rpc_id = body.get("id")
    # Python's bool is an int, but `true` is not an id.
    return rpc_id if isinstance(rpc_id, str | int | float) and not isinstance(rpc_id, bool) else None


def read_request(body: Mapping[str, Any]) -> RpcRequest:
    """Read a request. A2AError if it is not one of JSON-RPC 2.0."""
    rpc_id, method, params = body.get("id"), body.get("method"), body.get("params")
    if body.get("jsonrpc") != "2.0":
        raise A2AError(INVALID_REQUEST, 'Request payload validation error: jsonrpc must be "2.0"')
    if isinstance(rpc_id, bool) or not isinstance(rpc_id, str | int | float | None):
        raise A2AError(INVALID_REQUEST, "Request payload validation error: id must be a string, a number or null")
    if not isinstance(method, str) or not method:
        raise A2AError(INVALID_REQUEST, "Request payload validation error: method must be a string")
    if not isinstance(params, dict | None):
        raise A2AError(INVALID_REQUEST, "Request payload validation error: params must be an object")
    return RpcRequest(method=method, params=cast("dict[str, Any]", params or {}))


def check_version(request: Request[Any]) -> None:
    """Raise A2AError if the client requests an unsupported version. Without a version the method decides."""
    # A2A allows a query parameter of the same name, for clients that can't set a header.
    version = request.headers.get(VERSION_HEADER) or request.query_params.get(VERSION_HEADER) or ""
    if version and not VERSIONS.fullmatch(version.strip()):
        message = f"The version {version[:20]!r} is not supported: use 1.0 or 0.3"
        raise A2AError(-32009, message, metadata={"supportedVersions": "1.0, 0.3"})


async def encode_result(rpc_id: RpcId, result: object) -> bytes:
    """The answer of a method. Other tasks run while a large one is encoded."""
    return await json.dumps_in_pieces({"jsonrpc": "2.0", "id": rpc_id, "result": result})


def encode_error(rpc_id: RpcId, error: A2AError) -> bytes:
    """The answer to a request that fails."""
    return json.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error.fields})


def add_rpc_error(problem: Problem, rpc_id: RpcId) -> None:
    """Add a JSON-RPC error to a problem that has an HTTP status of its own."""
    problem.fields |= {"jsonrpc": "2.0", "id": rpc_id, "error": error_of_problem(problem).fields}


def frame(encoded: bytes) -> bytes:
    """An answer as an event of a stream."""
    return b"data: " + json.one_line(encoded) + b"\n\n"
