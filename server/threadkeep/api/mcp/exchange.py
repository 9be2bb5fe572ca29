"""Exchange: one JSON-RPC message of a client, and its answer as JSON or, from the first notification on, as SSE.

The header `MCP-Protocol-Version` decides the era. From 2026-07-28 on each request describes itself, and a closed connection
cancels it. Before, a client begins with a handshake, of which this server stores nothing, and a run continues without its client.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, cast

import anyio
from anyio import to_thread
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.runner import serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    decode_header_value,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
)
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data, progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCNotification,
    JSONRPCRequest,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.body import LARGE_BYTES, parse_json
from threadkeep.api.mcp.server import build_server
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import encoded_json_response, json_response, run_headers, until_gone
from threadkeep.api.streaming import EventStream
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable, ValidationFailed
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.runs.service import RunHandle

log = logging.getLogger(__name__)

Call = AuthorizedRequest[Any, Any]
Message = dict[str, Any]
JSON: Final = "application/json"
SSE: Final = "text/event-stream"
HEAD_S: Final = 5.0
"""The longest silence before the answer becomes a stream, which keeps the connection open."""
MAX_UNSENT: Final = 100
"""Notifications that wait for a client that reads slowly. Of more, the oldest are dropped."""
TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})


class Protocol:
    """The protocol, as the requests of one server share it."""

    def __init__(self, keys: Sequence[bytes], project_id: str) -> None:
        self.server: Server[Any] = build_server(keys, project_id)

    async def respond(self, call: Call, raw: bytes) -> Response:
        """Answer one message. A notification is answered at once."""
        try:
            # Parsing a large body would block the event loop.
            message = parse_json(raw) if len(raw) <= LARGE_BYTES else await to_thread.run_sync(parse_json, raw)
        except ValidationFailed as invalid:
            return _rejection(None, PARSE_ERROR, f"Parse error: {invalid.detail}")
        version = call.request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        # An unknown version counts as modern, because only that era has an error that lists the versions.
        is_modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if not isinstance(message, dict):
            return _rejection(None, INVALID_REQUEST, "The body must be one JSON-RPC request or notification")
        fields = cast("dict[str, Any]", message)
        if "id" not in fields:
            return _acknowledged(fields, version if is_modern else None)
        if not is_modern and "method" not in fields and ("result" in fields or "error" in fields):
            return Response(status_code=202)  # an answer to a request of the server, which sends none
        try:
            request = JSONRPCRequest.model_validate(fields)
        except ValidationError:
            return _rejection(_id_of(fields), INVALID_REQUEST, "The body must be one JSON-RPC request or notification")
        accepts = _Accept(call.request.headers.get("accept", ""))
        if not accepts.json and not accepts.sse:
            return Response(status_code=406)
        if is_modern and (rejection := _modern_rejection(call, request, fields)) is not None:
            return rejection
        return ExchangeResponse(Exchange(self.server, call, request, version, is_modern=is_modern), accepts)


class _Accept:
    """The media types that a client accepts. Without the header, JSON."""

    def __init__(self, header: str) -> None:
        types = {part.split(";")[0].strip().lower() for part in header.split(",")}
        every = "*/*" in types
        self.json = every or not header.strip() or bool(types & {JSON, "application/*"})
        self.sse = every or bool(types & {SSE, "text/*"})


def _id_of(fields: Mapping[str, Any]) -> str | int | None:
    """The id of a message, if it may be one."""
    message_id: object = fields.get("id")
    return message_id if isinstance(message_id, (str, int)) and not isinstance(message_id, bool) else None


def _acknowledged(fields: Mapping[str, Any], version: str | None) -> Response:
    """The answer to a notification. Nothing is done with it: without a session no request can be found by its id."""
    try:
        JSONRPCNotification.model_validate(fields)
    except ValidationError:
        return _rejection(None, INVALID_REQUEST, "The body must be one JSON-RPC request or notification")
    if version is not None and (unsupported := unsupported_protocol_version_rejection(version)) is not None:
        return _rejected(None, unsupported)
    return Response(status_code=202)


def _modern_rejection(call: Call, request: JSONRPCRequest, fields: Mapping[str, Any]) -> Response | None:
    """The answer to a request whose headers and envelope are not as 2026-07-28 has them."""
    headers = {name: value.strip(" \t") for name, value in call.request.headers.items()}  # RFC 9110, 5.5
    # The raw pairs: the dict above has dropped all but the last of two headers.
    if (duplicate := find_duplicated_routing_header(call.request.headers.items())) is not None:
        return _rejection(request.id, HEADER_MISMATCH, f"{duplicate} header appears more than once")
    verdict = classify_inbound_request(fields, headers=headers)
    if isinstance(verdict, InboundLadderRejection):
        return _rejected(request.id, verdict)
    if request.method in TASK_METHODS:
        task_id = (request.params or {}).get("taskId")
        # The package checks this header only for the methods that it knows itself.
        if task_id is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != task_id:
            return _rejection(request.id, HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match params.taskId")
    return None


def _rejected(message_id: str | int | None, rejection: InboundLadderRejection) -> Response:
    return _rejection(message_id, rejection.code, rejection.message, rejection.data)


def _rejection(message_id: str | int | None, code: int, text: str, data: object = None) -> Response:
    """An error that was found before the request was handled."""
    return json_response(_error(message_id, code, text, data), ERROR_CODE_HTTP_STATUS.get(code, 200))


def _error(message_id: str | int | None, code: int, text: str, data: object = None) -> Message:
    error: dict[str, Any] = {"code": code, "message": text}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": message_id, "error": error}


class Exchange:
    """One request while it is handled. It is the dispatch context of the SDK."""

    can_send_request = False

    def __init__(
        self, server: Server[Any], call: Call, request: JSONRPCRequest, version: str | None, *, is_modern: bool
    ) -> None:
        # In the handshake era the capabilities were sent in another request, which this server has forgotten.
        meta: Mapping[str, Any] = (request.params or {}).get("_meta") or {} if is_modern else {}
        self.call = call
        self.is_modern = is_modern
        self.request_id = request.id
        self.connection = Connection.from_envelope(
            version or DEFAULT_NEGOTIATED_VERSION,
            meta.get("io.modelcontextprotocol/clientInfo"),
            meta.get("io.modelcontextprotocol/clientCapabilities"),
        )
        self.transport = TransportContext(kind="streamable-http", can_send_request=False, headers=call.request.headers)
        self.message_metadata = ServerMessageMetadata(request_context=self, can_send_request=False)
        self.cancel_requested = anyio.Event()
        self.progress_token = progress_token_from_params(request.params)
        self.handle: RunHandle | None = None
        """The run that the request has started."""
        self.stays = False
        """The run continues without the client, because it has become a task."""
        self.opened = anyio.Event()
        """Set when the run has started, or the request has ended. Before that a disconnect is not looked for."""
        self.notified = anyio.Event()
        """Set when there is a notification to send."""
        self._server = server
        self._request = request
        # Progress may be dropped: the next one has a higher number anyway.
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: the path of the run that the request has started, which the log has too."""
        return {} if self.handle is None else run_headers(self.handle.thread_id, self.handle.run_id)

    def started(self, handle: RunHandle) -> None:
        """The request has started a run."""
        self.handle = handle
        self.opened.set()

    async def serve(self) -> Message:
        """Handle the request, and return the response. Problems of the server are raised."""
        try:
            result = await serve_one(
                self._server,
                cast("Any", self),
                self._request.method,
                self._request.params,
                connection=self.connection,
                lifespan_state={},
            )
        # Before the general case: these have an HTTP status that proxies and clients act on.
        except (Problem, *TRANSIENT_ERRORS):
            raise
        except Exception as failure:
            error = handler_exception_to_error_data(failure)
            # None: a fault of this server. It is logged and answered as on every other route.
            if error is None:
                raise
            return _error(self.request_id, error.code, error.message, error.data)
        finally:
            self.opened.set()
        return {"jsonrpc": "2.0", "id": self.request_id, "result": result}

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refuse: a client has no session in which it could answer."""
        del params, opts
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification before the response."""
        del opts
        self.tell(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Send the progress if the client has requested it."""
        self.tell_progress(progress, total, message)

    def tell(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification before the response."""
        self._unsent.append(frame_of({"jsonrpc": "2.0", "method": method, "params": dict(params or {})}))
        self.notified.set()

    def tell_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Send the progress if the client has requested it."""
        if self.progress_token is None:
            return
        fields = {"progressToken": self.progress_token, "progress": progress, "total": total, "message": message}
        self.tell("notifications/progress", {name: value for name, value in fields.items() if value is not None})

    def unsent(self) -> list[bytes]:
        """Take the notifications that are not sent yet, as SSE frames."""
        frames = list(self._unsent)
        self._unsent.clear()
        self.notified = anyio.Event()
        return frames


def frame_of(message: Message) -> bytes:
    """A message as a frame of SSE."""
    return b"event: message\r\ndata: %b\r\n\r\n" % json.one_line(json.dumps(message))


async def large_frame_of(message: Message) -> bytes:
    """A message that may be large as a frame of SSE. Other tasks run while it is encoded."""
    return b"event: message\r\ndata: %b\r\n\r\n" % json.one_line(await json.dumps_in_pieces(message))


class ExchangeResponse(Response):
    """Sends the answer: JSON if it is ready soon and has no notification before it, else SSE."""

    def __init__(self, exchange: Exchange, accepts: _Accept) -> None:
        self._exchange = exchange
        self._accepts = accepts
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        work = asyncio.ensure_future(exchange.serve())
        ends = [
            asyncio.ensure_future(exchange.call.caller.until_refused()),
            asyncio.ensure_future(exchange.call.state.signals.leaving.wait()),
        ]
        try:
            await exchange.opened.wait()  # a run that is about to start would be lost to its cancellation
            if not work.done():
                await self._until_streamed(work, ends, receive)
            if self._gone:
                return
            # With a notification before it, even a ready answer is a stream.
            if work.done() and not (exchange.notified.is_set() and self._accepts.sse):
                await self._send_json(work.result(), scope, receive, send)
                return
            stream = _MessageStream(exchange, work, cancels=self._cancelled_run())
            await stream(scope, receive, send)
        finally:
            for task in (work, *ends):
                task.cancel()
            # Awaited, or a task would end after its request with an exception that is never read.
            await asyncio.gather(work, *ends, return_exceptions=True)

    def _cancelled_run(self) -> RunHandle | None:
        """The run that goes with its client."""
        exchange = self._exchange
        return exchange.handle if exchange.is_modern and not exchange.stays else None

    async def _until_streamed(
        self, work: "asyncio.Future[Message]", ends: "Sequence[asyncio.Future[Any]]", receive: Receive
    ) -> None:
        """Wait until the answer is there or becomes a stream. Problem if the caller is refused or the process leaves."""
        exchange, (refused, leaving) = self._exchange, ends
        ready = asyncio.ensure_future(exchange.notified.wait())
        waited: set[asyncio.Future[Any]] = {work, *ends}
        if self._accepts.sse:
            waited.add(ready)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, receive, tasks.cancel_scope)
                # A client of JSON alone has no heartbeat. It waits as long as its call takes.
                timeout = HEAD_S if self._accepts.sse else None
                await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                tasks.cancel_scope.cancel()
        finally:
            ready.cancel()
        if self._gone or work.done():
            return
        if refused.done():
            await self._cancel()
            raise cast("Problem", refused.result())
        # Nothing was sent yet. So the client gets a status with which it tries again at another process.
        if leaving.done():
            raise ServiceUnavailable("the server is stopping")

    async def _watch(self, receive: Receive, answering: anyio.CancelScope) -> None:
        async def leave() -> None:
            self._gone = True
            await self._cancel()

        await until_gone(receive, answering, leave)

    async def _cancel(self) -> None:
        if (handle := self._cancelled_run()) is not None:
            await handle.cancel("the client disconnected")

    async def _send_json(self, message: Message, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._accepts.json:
            # One frame is a whole stream.
            response = Response(await large_frame_of(message), media_type=SSE)
        else:
            encoded = await json.dumps_in_pieces(message)
            response = encoded_json_response(encoded, self._status(message), self._exchange.headers)
        await response(scope, receive, send)

    def _status(self, message: Message) -> int:
        """The status of a response. In the handshake era an error has 200 too."""
        if not self._exchange.is_modern or "error" not in message:
            return 200
        return ERROR_CODE_HTTP_STATUS.get(message["error"]["code"], 200)


class _MessageStream(EventStream):
    """The notifications of an exchange and then its response, as SSE."""

    def __init__(self, exchange: Exchange, work: "asyncio.Future[Message]", cancels: RunHandle | None) -> None:
        super().__init__(_frames(exchange, work), exchange.call, headers=exchange.headers, cancels=cancels)
        self._exchange = exchange

    def _refusal(self, problem: Problem) -> bytes:
        return frame_of(_problem(self._exchange, problem))


async def _frames(exchange: Exchange, work: "asyncio.Future[Message]") -> AsyncGenerator[bytes]:
    while not work.done():
        ready = asyncio.ensure_future(exchange.notified.wait())
        try:
            await asyncio.wait({work, ready}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        for frame in exchange.unsent():
            yield frame
    for frame in exchange.unsent():
        yield frame
    try:
        yield await large_frame_of(work.result())
    except Problem as problem:
        yield frame_of(_problem(exchange, problem))
    except TRANSIENT_ERRORS:
        yield frame_of(_problem(exchange, ServiceUnavailable()))
    except Exception:
        log.exception("request failed")
        yield frame_of(_error(exchange.request_id, INTERNAL_ERROR, "Internal Server Error"))


def _problem(exchange: Exchange, problem: Problem) -> Message:
    """A problem after the head of the answer was sent."""
    data = {"status": problem.status, "code": problem.code}
    return _error(exchange.request_id, INTERNAL_ERROR, problem.detail, data)
