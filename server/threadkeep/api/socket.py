"""WebSocket operations of the route table, with the same authentication as all other paths.

A browser cannot read the reason of a refused handshake. A refused caller therefore gets the reason on the open socket:
an error frame, and 4000 + the HTTP status as close code. `browser_guards` refuses the handshake of a forbidden page.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from starlette.websockets import WebSocket, WebSocketDisconnect

from threadkeep.api import auth_values
from threadkeep.api.operation import AuthorizedRequest, state_of
from threadkeep.auth import AuthEvent
from threadkeep.auth.caller import ANYBODY, Caller
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable, TransactionConflict
from threadkeep.postgres.retry import CONFLICTS

log = logging.getLogger(__name__)

CLOSE_BASE: Final = 4000
"""The difference of a close code and its HTTP status."""
CLOSE_CODES: Final = {
    401: "permission_denied",
    403: "permission_denied",
    422: "invalid_argument",
    400: "invalid_argument",
}
"""HTTP status -> error code of the protocol v2. All others are `unknown_error`."""
# `TooManyRequests` is that of the pool, whose queue is full. The problem of the same name is about quotas.
DATABASE: Final = (psycopg.OperationalError, PoolTimeout, PoolClosed, TooManyRequests)

Endpoint = Callable[[AuthorizedRequest[None, None], WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WebSocketOperation:
    """A WebSocket in the route table. It is accepted and its caller authorized before `endpoint` is called."""

    path: str
    endpoint: Endpoint
    event: AuthEvent
    method: Literal["WS"] = "WS"

    async def __call__(self, websocket: WebSocket) -> None:
        """Accept the socket, authorize the caller and call the endpoint."""
        websocket.scope["endpoint"] = self  # for the log and the audit, as the router does for other operations
        # A client may leave at any time, also before it has read why it is refused.
        with suppress(WebSocketDisconnect):
            await websocket.accept()
            await self._serve(websocket)

    async def _serve(self, websocket: WebSocket) -> None:
        try:
            call = await self._call(websocket)
            with _counted(call, websocket):
                await self.endpoint(call, websocket)
        except Problem as problem:
            await close_with_problem(websocket, problem)
        except CONFLICTS as error:
            log.warning("request refused: its transaction conflicted with others too often", exc_info=error)
            await close_with_problem(websocket, TransactionConflict())
        except DATABASE as error:
            log.warning("the database did not answer", exc_info=error)
            await close_with_problem(websocket, ServiceUnavailable())

    async def _call(self, websocket: WebSocket) -> AuthorizedRequest[None, None]:
        """Return the authorized request. An endpoint uses only the parts of it that a WebSocket also has."""
        request = cast("Any", websocket)
        authenticator = state_of(websocket).authenticator
        caller = ANYBODY
        if authenticator is not None:
            principal = await authenticator.authenticate(websocket)
            websocket.scope["principal"] = principal
            caller = Caller(principal, authenticator, connection=websocket)
        call: AuthorizedRequest[None, None] = AuthorizedRequest(request=request, body=None, query=None, caller=caller)
        value = auth_values.auth_value(self.event, {"thread_id": call.thread_id}, None)
        return replace(call, authorized=await caller.authorize(self.event, value))


def _counted(call: AuthorizedRequest[None, None], websocket: WebSocket) -> AbstractContextManager[object]:
    """Count the socket as an open stream of its principal. Raise TooManyRequests if there are too many."""
    if (identity := call.caller.identity) is None:
        return nullcontext()
    quotas = state_of(websocket).quotas
    quotas.count_request(identity)
    return quotas.hold_stream(identity)


def error_frame(problem: Problem) -> dict[str, Any]:
    """Return a problem as an error of the protocol v2."""
    return {
        "type": "error",
        "id": None,
        "error": CLOSE_CODES.get(problem.status, "unknown_error"),
        "message": problem.detail,
    }


async def close_with_problem(websocket: WebSocket, problem: Problem) -> None:
    """Send the problem and close the socket."""
    await websocket.send_text(json.dumps(error_frame(problem)).decode())
    await websocket.close(CLOSE_BASE + problem.status, problem.code)
