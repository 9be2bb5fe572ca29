"""Socket: a WebSocket of the table of routes, behind the same door as every other path.

A browser can't read why a handshake was refused. So a caller who may not use the path is told on the open socket: an
error frame, and 4000 + the status as the close code. Pages that may not call at all get no socket: `browser_guards`.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from starlette.websockets import WebSocket

from threadkeep.api import auth_values
from threadkeep.api.operation import AuthorizedRequest, state_of
from threadkeep.auth import AuthEvent
from threadkeep.auth.caller import ANYBODY, Caller
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable, TransactionConflict
from threadkeep.postgres.retry import CONFLICTS

log = logging.getLogger(__name__)

CLOSE_BASE: Final = 4000
"""What a close code is above the HTTP status that it stands for."""
CLOSE_CODES: Final = {
    401: "permission_denied",
    403: "permission_denied",
    422: "invalid_argument",
    400: "invalid_argument",
}
"""The protocol's error code for a status; else `unknown_error`."""
DATABASE: Final = (psycopg.OperationalError, PoolTimeout, PoolClosed, TooManyRequests)

Endpoint = Callable[[AuthorizedRequest[None, None], WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WebSocketOperation:
    """A line of the table that is a WebSocket. `endpoint` gets it accepted, with its caller known."""

    path: str
    endpoint: Endpoint
    event: AuthEvent
    method: Literal["WS"] = "WS"

    async def __call__(self, websocket: WebSocket) -> None:
        """Ask who is calling and what they may, and hand over."""
        websocket.scope["endpoint"] = self  # for the log and the audit, as the router does for other operations
        await websocket.accept()
        try:
            call = await self._call(websocket)
            with _counted(call, websocket):
                await self.endpoint(call, websocket)
        except Problem as problem:
            await close_with_problem(websocket, problem)
        except CONFLICTS as error:
            log.warning("a request conflicted with others for too long", exc_info=error)
            await close_with_problem(websocket, TransactionConflict())
        except DATABASE as error:
            log.warning("the database did not answer", exc_info=error)
            await close_with_problem(websocket, ServiceUnavailable())

    async def _call(self, websocket: WebSocket) -> AuthorizedRequest[None, None]:
        """What an operation makes of a request; of these, an endpoint uses only what a WebSocket has, too."""
        request = cast("Any", websocket)
        door = state_of(websocket).authenticator
        caller = ANYBODY
        if door is not None:
            principal = await door.authenticate(websocket)
            websocket.scope["principal"] = principal
            caller = Caller(principal, door, connection=websocket)
        call: AuthorizedRequest[None, None] = AuthorizedRequest(request=request, body=None, query=None, caller=caller)
        value = auth_values.auth_value(self.event, {"thread_id": call.thread_id}, None)
        return replace(call, authorized=await caller.authorize(self.event, value))


def _counted(call: AuthorizedRequest[None, None], websocket: WebSocket) -> AbstractContextManager[object]:
    """The socket is one of its principal's open streams; TooManyRequests where there are too many of them."""
    if (identity := call.caller.identity) is None:
        return nullcontext()
    quotas = state_of(websocket).quotas
    quotas.count_request(identity)
    return quotas.hold_stream(identity)


def error_frame(problem: Problem) -> dict[str, Any]:
    """A problem in the protocol's words."""
    return {
        "type": "error",
        "id": None,
        "error": CLOSE_CODES.get(problem.status, "unknown_error"),
        "message": problem.detail,
    }


async def close_with_problem(websocket: WebSocket, problem: Problem) -> None:
    """Say why, and close."""
    await websocket.send_text(json.dumps(error_frame(problem)).decode())
    await websocket.close(CLOSE_BASE + problem.status, problem.code)
