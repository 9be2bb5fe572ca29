"""Doors: the caller of a request, before anything else is read; also for the routes that a project brings."""

from typing import Any

from starlette.datastructures import URLPath
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from threadkeep.api.body import read_bytes
from threadkeep.api.errors import EXCEPTION_HANDLERS
from threadkeep.auth import Authenticator, Principal
from threadkeep.auth.principal import User, of_user
from threadkeep.runs.calling_run import CALLING_RUN

AUTH_PROBLEMS: tuple[type[Exception], ...] = tuple(EXCEPTION_HANDLERS)
POLICY_VIOLATION = 1008
"""The code with which a WebSocket that nobody may open is closed."""


async def authenticate(door: Authenticator, request: Request[Any]) -> tuple[Principal, Request[Any]]:
    """Who is calling, and the request to go on with: where the door looks into the body, one that has it still.

    A request from within a graph is its run's user's, whatever it shows.
    """
    if (run := request.scope.get(CALLING_RUN)) is not None:
        request.scope["principal"] = of_user(run.user)
        return request.scope["principal"], request
    if door.reads_body:
        request = Request(request.scope, replay_body(await read_bytes(request), request.receive))
    principal = await door.authenticate(request)
    request.scope["principal"] = principal  # for the log and the audit
    return principal, request


def replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` again, and then what comes."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


class AuthenticatedRoute(BaseRoute):
    """A route of a project's own application, behind the same door as ours (`http.enable_custom_route_auth`)."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route
        self.path = getattr(route, "path", "")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As the route itself."""
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """As the route itself."""
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The route, for a caller who is known: `request.user` is who."""
        door: Authenticator = scope["state"]["threadkeep"].authenticator
        try:
            if scope["type"] == "http":
                principal, request = await authenticate(door, Request(scope, receive))
                receive = request.receive
            else:
                principal = scope["principal"] = await door.authenticate(HTTPConnection(scope))
        except AUTH_PROBLEMS as refused:
            await _refuse(refused, scope, receive, send)
            return
        await self._route.handle({**scope, "user": User(principal.user)}, receive, send)


async def _refuse(refused: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """As for a route of ours: the application around this one would make a 500 of it."""
    if scope["type"] == "http":
        answer = next(EXCEPTION_HANDLERS[kind] for kind in type(refused).__mro__ if kind in EXCEPTION_HANDLERS)
        await (await answer(Request(scope), refused))(scope, receive, send)
        return
    await WebSocket(scope, receive, send).close(POLICY_VIOLATION)
