"""Request middleware (pure ASGI): request ids, logs, metrics, traces and the last error handler."""

import logging
import re
import time
from typing import Final, cast

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep.api.audit import AUDIT, DELETE_EVENTS, MESSAGE_BY_STATUS, AuditLog
from threadkeep.api.authentication import POLICY_VIOLATION
from threadkeep.api.errors import is_openai
from threadkeep.api.openai.errors import render_openai_status
from threadkeep.api.operation import Operation
from threadkeep.api.responses import json_response
from threadkeep.api.socket import CLOSE_BASE, WebSocketOperation
from threadkeep.base import ids
from threadkeep.base.logs import bind
from threadkeep.base.metrics import METHODS, NO_ROUTE, OTHER_METHOD, Metrics
from threadkeep.base.tracing import Tracing

log = logging.getLogger(__name__)

REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A request id that a client may choose."""
UNLOGGED_PATHS = frozenset({"/livez", "/readyz", "/ok", "/", "/metrics"})
"""Paths that are requested too often to be logged or traced."""
MAX_LOGGED_CHARACTERS = 200
"""Length to which a path or an id is cut in a log."""
RUN_PATH: Final = re.compile(r"/threads/([0-9a-f-]{36})/runs/([0-9a-f-]{36})")
STREAM: Final = b"text/event-stream"
REQUEST_ID: Final = b"x-request-id"


class RequestMiddleware:
    """Gives each request an id, and logs, counts and traces it.

    The id is taken from and returned in `x-request-id`. An exception that no other handler caught is answered with 500
    and the id, without any details.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._audit = AuditLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client_id = headers.get("x-request-id", "")
        request_id = client_id if REQUEST_ID_PATTERN.fullmatch(client_id) else str(ids.uuid7())
        scope["request_id"] = request_id
        bind(request_id=request_id)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        response = _Response(send, request_id, self._metrics)
        if self._tracing is None or scope["path"] in UNLOGGED_PATHS:
            await self._answered(scope, receive, response)
            return
        with self._tracing.request_span(_method(scope), headers) as span:
            try:
                await self._answered(scope, receive, response)
            finally:
                operation = _operation(scope)
                ids_of_request = {"request_id": request_id, **_ids(scope, response)}
                # Only the router knows the operation, so the span gets its name at the end.
                self._tracing.end_request(span, operation and _name(operation), response.status, ids_of_request)

    async def _answered(self, scope: Scope, receive: Receive, response: "_Response") -> None:
        try:
            await self._app(scope, receive, response.send)
        except Exception:
            log.exception("request failed")
            # After the head was sent, the connection can only be closed.
            if response.status == 0:
                await _internal_error(scope, response.request_id)(scope, receive, response.send)
        finally:
            response.close()
            self._record(scope, response)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket and log its end. Refusals are audited like those of requests."""
        closing = _Closing(send)
        scope[AUDIT] = self._audit
        try:
            await self._app(scope, receive, closing.send)
        except Exception:
            log.exception("request failed")
            # A socket that was closed or refused takes no second close.
            if closing.status in {0, 101}:
                await closing.send({"type": "websocket.close", "code": CLOSE_BASE + 500, "reason": "internal-error"})
        finally:
            path_ids = {
                name: str(value)[:MAX_LOGGED_CHARACTERS] for name, value in scope.get("path_params", {}).items()
            }
            operation = scope.get("endpoint")
            self._audit.record(
                scope, operation if isinstance(operation, WebSocketOperation) else None, closing.status, path_ids
            )
            fields = {"path": scope["path"][:MAX_LOGGED_CHARACTERS], "status_code": closing.status, **path_ids}
            if principal := scope.get("principal"):
                fields["principal"] = principal.identity
            log.info("socket", extra={**fields, "duration_s": round(closing.seconds(), 4)})

    def _record(self, scope: Scope, response: "_Response") -> None:
        operation, request_ids, duration_s = _operation(scope), _ids(scope, response), response.duration_s()
        # A label with the path would let clients create any number of time series.
        pair = (operation.method, operation.path) if operation else (scope["method"], NO_ROUTE)
        self._metrics.route(pair).observe(
            response.status, first_byte_s=response.time_to_first_byte_s, duration_s=duration_s
        )
        if response.status in MESSAGE_BY_STATUS or _may_delete(operation):
            self._audit.record(scope, operation, response.status, request_ids)
        if scope["path"] in UNLOGGED_PATHS:
            return
        fields = {
            "method": scope["method"],
            "path": scope["path"][:MAX_LOGGED_CHARACTERS],
            "status_code": response.status,
        }
        if principal := scope.get("principal"):
            fields["principal"] = principal.identity
        log.info("request", extra={**fields, **request_ids, "duration_s": round(duration_s, 4)})


def _may_delete(operation: Operation | None) -> bool:
    """Whether the operation may delete something. Only then the audit log is called."""
    return operation is not None and (operation.event in DELETE_EVENTS or operation.method == "DELETE")


class _Closing:
    """The end of a WebSocket as an HTTP status. 101: it was opened and not refused later."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began = time.monotonic()
        self.status = 0
        """0 until something is sent."""

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        elif kind == "websocket.close":
            self.status = _status_of(message.get("code", 1000), opened=self.status == 101)
        await self._send(message)

    def seconds(self) -> float:
        """Return the seconds since the handshake began."""
        return time.monotonic() - self._began


def _status_of(code: int, *, opened: bool) -> int:
    """Return the HTTP status of a close code. A socket that is closed before it opens has 403."""
    if not opened or code == POLICY_VIOLATION:
        return 403
    return code - CLOSE_BASE if CLOSE_BASE + 400 <= code < CLOSE_BASE + 600 else 101


class _Response:
    """The status and times of a response, recorded while it is sent."""

    def __init__(self, send: Send, request_id: str, metrics: Metrics) -> None:
        self._send = send
        self.request_id = request_id
        self._metrics = metrics
        self._received_at = time.monotonic()
        self._streams = False
        self.status = 0
        """0 until something is sent."""
        self.time_to_first_byte_s = 0.0
        """Seconds from the request to the head of the response."""
        self.location = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = cast("list[tuple[bytes, bytes]]", message["headers"])
            headers = dict(pairs)
            # The application of the project may set the header itself.
            if REQUEST_ID in headers:
                pairs = [pair for pair in pairs if pair[0] != REQUEST_ID]
            message["headers"] = [*pairs, (REQUEST_ID, self.request_id.encode())]
            self.status, self.time_to_first_byte_s = message["status"], self.duration_s()
            self.location = headers.get(b"content-location", b"").decode("latin-1")
            if headers.get(b"content-type", b"").startswith(STREAM):
                self._streams = True
                self._metrics.sse_connections.inc()
        await self._send(message)

    def close(self) -> None:
        """Record that nothing more will be sent."""
        if self._streams:
            self._metrics.sse_connections.dec()

    def duration_s(self) -> float:
        """Return the seconds since the request was received."""
        return time.monotonic() - self._received_at


def _operation(scope: Scope) -> Operation | None:
    """Return the operation that answered, or None, for example for a route of the project's own application."""
    endpoint = scope.get("endpoint")
    return endpoint if isinstance(endpoint, Operation) else None


def _method(scope: Scope) -> str:
    """Return the method for a span. Unknown methods share one name, because a client may send any word."""
    return scope["method"] if scope["method"] in METHODS else OTHER_METHOD


def _name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def _ids(scope: Scope, response: _Response) -> dict[str, str]:
    """Return the ids of the path and of the run that the request started. Return none if no operation answered."""
    if _operation(scope) is None:
        return {}
    path_ids = {name: str(value)[:MAX_LOGGED_CHARACTERS] for name, value in scope.get("path_params", {}).items()}
    if location := RUN_PATH.fullmatch(response.location):
        path_ids |= {"thread_id": location[1], "run_id": location[2]}
    return path_ids


def _internal_error(scope: Scope, request_id: str) -> Response:
    if is_openai(Request(scope)):
        return render_openai_status(500, f"Internal Server Error (request {request_id})", {})
    return json_response({"detail": "Internal Server Error", "code": "internal-error", "request_id": request_id}, 500)
