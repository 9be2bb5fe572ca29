"""Middleware: pure ASGI, for what every request has in common."""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final, cast

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep import ids
from threadkeep.api.answers import json_answer
from threadkeep.api.audit import Audit
from threadkeep.api.call import Operation
from threadkeep.logs import bound
from threadkeep.metrics import UNMATCHED, Metrics
from threadkeep.tracing import Tracing

log = logging.getLogger(__name__)

PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A request id that a client may choose."""
QUIET = frozenset({"/livez", "/readyz", "/ok", "/", "/metrics"})
"""Paths that are asked too often to be logged or traced."""
SHOWN_CHARACTERS = 200
"""Of a path or an id, in a log."""
RUN_PATH: Final = re.compile(r"/threads/([0-9a-f-]{36})/runs/([0-9a-f-]{36})")
STREAM: Final = b"text/event-stream"
REQUEST_ID: Final = b"x-request-id"

GUARDS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
NO_PAGE: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of what is for programs: it is no page, no part of one, and nothing to keep."""
PROGRAMS: Final = (b"application/json", b"text/event-stream", b"")


class Guarded:
    """Gives each answer the headers that keep a browser from making more of it than it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _guard(message)
            await send(message)

        await self._app(scope, receive, send_guarded)


def _guard(message: Message) -> None:
    """Over none that the answer has of its own: a page may need another policy."""
    named = dict(cast("list[tuple[bytes, bytes]]", message["headers"]))  # ASGI has their names in lower case
    wanted = GUARDS + NO_PAGE if named.get(b"content-type", b"").split(b";")[0] in PROGRAMS else GUARDS
    message["headers"] = [*message["headers"], *(guard for guard in wanted if guard[0] not in named)]


class Requests:
    """Gives each request an id, taken from and returned in `x-request-id`, logs, counts and traces it, and answers 500
    for what nobody else caught: with the id to ask for, and nothing else."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._audit = Audit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if PLAIN_ID.fullmatch(sent) else str(ids.uuid7())
        scope["request_id"] = request_id
        answer = _Answer(send, request_id, self._metrics)
        traced = self._tracing if scope["path"] not in QUIET else None
        with (
            bound(request_id=request_id),
            traced.request(scope["method"], headers) if traced else nullcontext() as span,
        ):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                log.exception("request failed")
                if answer.status == 0:
                    await _internal_error(request_id)(scope, receive, answer.send)
            finally:
                answer.over()
                operation = _operation(scope)
                about = _ids(scope, answer) if operation else {}
                self._tell(scope, answer, operation, about)
                if traced and span:
                    about = {"request_id": request_id, **about}
                    traced.answered(span, operation and _name(operation), answer.status, about)

    def _tell(self, scope: Scope, answer: "_Answer", operation: Operation | None, about: Mapping[str, str]) -> None:
        pair = (operation.method, operation.path) if operation else (UNMATCHED, UNMATCHED)
        self._metrics.of_route(pair).answered(answer.status, answer.began_s)
        self._audit.answered(scope, operation, answer.status, about)
        if scope["path"] in QUIET:
            return
        fields = {"method": scope["method"], "path": scope["path"][:SHOWN_CHARACTERS], "status": answer.status}
        if principal := scope.get("principal"):
            fields["who"] = principal.identity
        log.info("request", extra={**fields, **about, "duration_s": round(answer.seconds(), 4)})


class _Answer:
    """What was answered, and when."""

    def __init__(self, send: Send, request_id: str, metrics: Metrics) -> None:
        self._send = send
        self._request_id = request_id
        self._metrics = metrics
        self._asked_at = time.monotonic()
        self._streams = False
        self.status = 0
        """0: nothing yet."""
        self.began_s = 0.0
        """How long the client waited for the first of it."""
        self.location = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            sent = cast("list[tuple[bytes, bytes]]", message["headers"])
            named = dict(sent)
            others = sent if REQUEST_ID not in named else [pair for pair in sent if pair[0] != REQUEST_ID]
            message["headers"] = [*others, (REQUEST_ID, self._request_id.encode())]
            self.status, self.began_s = message["status"], self.seconds()
            self.location = named.get(b"content-location", b"").decode("latin-1")
            if named.get(b"content-type", b"").startswith(STREAM):
                self._streams = True
                self._metrics.streams.inc()
        await self._send(message)

    def over(self) -> None:
        """Nothing more will be sent."""
        if self._streams:
            self._metrics.streams.dec()

    def seconds(self) -> float:
        """Since the request came."""
        return time.monotonic() - self._asked_at


def _operation(scope: Scope) -> Operation | None:
    """The line of the table that answered; None where none did, as for a route of the user's."""
    found = scope.get("endpoint")
    return found if isinstance(found, Operation) else None


def _name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def _ids(scope: Scope, answer: _Answer) -> dict[str, str]:
    """The ids of the path, and those of the run that the request has made."""
    found = {name: str(value)[:SHOWN_CHARACTERS] for name, value in scope.get("path_params", {}).items()}
    if made := RUN_PATH.fullmatch(answer.location):
        found |= {"thread_id": made[1], "run_id": made[2]}
    return found


def _internal_error(request_id: str) -> Response:
    return json_answer({"detail": "Internal Server Error", "code": "internal-error", "request_id": request_id}, 500)
