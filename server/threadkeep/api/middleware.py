"""Middleware: pure ASGI, for what every request has in common."""

import logging
import re
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep import ids
from threadkeep.api.answers import json_answer
from threadkeep.logs import bound

log = logging.getLogger(__name__)

PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A request id that a client may choose."""
QUIET = frozenset({"/livez", "/readyz", "/ok", "/"})
"""Paths that are asked too often to be logged."""


class Requests:
    """Gives each request an id, taken from and returned in `x-request-id`, logs one line for it, and answers 500 for
    what nobody else caught: with the id to ask for, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if PLAIN_ID.fullmatch(sent) else str(ids.uuid7())
        scope["request_id"] = request_id
        began, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with bound(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                log.exception("request failed")
                if status == 0:
                    await _internal_error(request_id)(scope, receive, send_with_id)
            finally:
                if scope["path"] not in QUIET:
                    _log(scope, status, time.monotonic() - began)


def _internal_error(request_id: str) -> Response:
    return json_answer({"detail": "Internal Server Error", "code": "internal-error", "request_id": request_id}, 500)


def _log(scope: Scope, status: int, seconds: float) -> None:
    log.info(
        "request",
        extra={
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_s": round(seconds, 4),
        },
    )
