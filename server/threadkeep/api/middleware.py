"""Middleware: pure ASGI, for what every request has in common."""

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
"""Paths that are asked too often to be logged or traced."""
MAX_LOGGED_CHARACTERS = 200
"""Of a path or an id, in a log."""
RUN_PATH: Final = re.compile(r"/threads/([0-9a-f-]{36})/runs/([0-9a-f-]{36})")
STREAM: Final = b"text/event-stream"
REQUEST_ID: Final = b"x-request-id"


class RequestMiddleware:
    """Gives each request an id, taken from and returned in `x-request-id`, logs, counts and traces it, and answers 500
    for what nobody else caught: with the id to ask for, and nothing else."""

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
        sent = headers.get("x-request-id", "")
        request_id = sent if REQUEST_ID_PATTERN.fullmatch(sent) else str(ids.uuid7())
        scope["request_id"] = request_id
        bind(request_id=request_id)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        answer = _Response(send, request_id, self._metrics)
        if self._tracing is None or scope["path"] in UNLOGGED_PATHS:
            await self._answered(scope, receive, answer)
            return
        with self._tracing.request_span(_method(scope), headers) as span:
            try:
                await self._answered(scope, receive, answer)
            finally:
                operation = _operation(scope)
                about = {"request_id": request_id, **_ids(scope, answer)}
                self._tracing.end_request(span, operation and _name(operation), answer.status, about)

    async def _answered(self, scope: Scope, receive: Receive, answer: "_Response") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            log.exception("request failed")
            if answer.status == 0:
                await _internal_error(scope, answer.request_id)(scope, receive, answer.send)
        finally:
            answer.close()
            self._tell(scope, answer)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, and log how it ended. Its refusals are audited as those of requests are."""
        closing = _Closing(send)
        scope[AUDIT] = self._audit
        try:
            await self._app(scope, receive, closing.send)
        except Exception:
            log.exception("request failed")
            if closing.status in {0, 101}:
                await closing.send({"type": "websocket.close", "code": CLOSE_BASE + 500, "reason": "internal-error"})
        finally:
            about = {name: str(value)[:MAX_LOGGED_CHARACTERS] for name, value in scope.get("path_params", {}).items()}
            operation = scope.get("endpoint")
            self._audit.record(
                scope, operation if isinstance(operation, WebSocketOperation) else None, closing.status, about
            )
            fields = {"path": scope["path"][:MAX_LOGGED_CHARACTERS], "status_code": closing.status, **about}
            if principal := scope.get("principal"):
                fields["principal"] = principal.identity
            log.info("socket", extra={**fields, "duration_s": round(closing.seconds(), 4)})

    def _tell(self, scope: Scope, answer: "_Response") -> None:
        operation, about, duration_s = _operation(scope), _ids(scope, answer), answer.duration_s()
        pair = (operation.method, operation.path) if operation else (scope["method"], NO_ROUTE)
        self._metrics.route(pair).observe(
            answer.status, first_byte_s=answer.time_to_first_byte_s, duration_s=duration_s
        )
        if answer.status in MESSAGE_BY_STATUS or (operation is not None and operation.event in DELETE_EVENTS):
            self._audit.record(scope, operation, answer.status, about)
        if scope["path"] in UNLOGGED_PATHS:
            return
        fields = {
            "method": scope["method"],
            "path": scope["path"][:MAX_LOGGED_CHARACTERS],
            "status_code": answer.status,
        }
        if principal := scope.get("principal"):
            fields["principal"] = principal.identity
        log.info("request", extra={**fields, **about, "duration_s": round(duration_s, 4)})


class _Closing:
    """How a WebSocket ended, as an HTTP status. 101: it was opened, and not refused later."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began = time.monotonic()
        self.status = 0
        """0: nothing yet."""

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
        """Since the handshake began."""
        return time.monotonic() - self._began


def _status_of(code: int, *, opened: bool) -> int:
    """The HTTP status that a close code stands for; a socket that is closed before it opens is answered 403."""
    if not opened or code == POLICY_VIOLATION:
        return 403
    return code - CLOSE_BASE if CLOSE_BASE + 400 <= code < CLOSE_BASE + 600 else 101


class _Response:
    """What was answered, and when."""

    def __init__(self, send: Send, request_id: str, metrics: Metrics) -> None:
        self._send = send
        self.request_id = request_id
        self._metrics = metrics
        self._received_at = time.monotonic()
        self._streams = False
        self.status = 0
        """0: nothing yet."""
        self.time_to_first_byte_s = 0.0
        """How long the client waited for the first of it."""
        self.location = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            sent = cast("list[tuple[bytes, bytes]]", message["headers"])
            named = dict(sent)
            others = sent if REQUEST_ID not in named else [pair for pair in sent if pair[0] != REQUEST_ID]
            message["headers"] = [*others, (REQUEST_ID, self.request_id.encode())]
            self.status, self.time_to_first_byte_s = message["status"], self.duration_s()
            self.location = named.get(b"content-location", b"").decode("latin-1")
            if named.get(b"content-type", b"").startswith(STREAM):
                self._streams = True
                self._metrics.sse_connections.inc()
        await self._send(message)

    def close(self) -> None:
        """Nothing more will be sent."""
        if self._streams:
            self._metrics.sse_connections.dec()

    def duration_s(self) -> float:
        """Since the request came."""
        return time.monotonic() - self._received_at


def _operation(scope: Scope) -> Operation | None:
    """The line of the table that answered; None where none did, as for a route of the user's."""
    found = scope.get("endpoint")
    return found if isinstance(found, Operation) else None


def _method(scope: Scope) -> str:
    """The method as a span tells it: a client may send any word."""
    return scope["method"] if scope["method"] in METHODS else OTHER_METHOD


def _name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def _ids(scope: Scope, answer: _Response) -> dict[str, str]:
    """The ids of the path, and those of the run that the request has made; none where no line of the table answered."""
    if _operation(scope) is None:
        return {}
    found = {name: str(value)[:MAX_LOGGED_CHARACTERS] for name, value in scope.get("path_params", {}).items()}
    if made := RUN_PATH.fullmatch(answer.location):
        found |= {"thread_id": made[1], "run_id": made[2]}
    return found


def _internal_error(scope: Scope, request_id: str) -> Response:
    if is_openai(Request(scope)):
        return render_openai_status(500, f"Internal Server Error (request {request_id})", {})
    return json_response({"detail": "Internal Server Error", "code": "internal-error", "request_id": request_id}, 500)
