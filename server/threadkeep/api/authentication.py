"""Authentication of requests: find the caller before the request is read, also on a project's own routes."""

from typing import Any

from starlette.datastructures import URLPath
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from threadkeep.api.body import read_bytes
from threadkeep.api.errors import EXCEPTION_HANDLERS
from threadkeep.api.session_cookie import with_credential
from threadkeep.auth import Authenticator, Principal
from threadkeep.auth.principal import User, of_user
from threadkeep.runs.calling_run import CALLING_RUN

AUTH_PROBLEMS: tuple[type[Exception], ...] = tuple(EXCEPTION_HANDLERS)
POLICY_VIOLATION = 1008
"""The close code of a WebSocket whose caller was refused."""


async def authenticate(authenticator: Authenticator, request: Request[Any]) -> tuple[Principal, Request[Any]]:
    """Return the caller, and the request to use from now on.

    If the authenticator reads the body, the returned request replays it. A request from within a graph has the user of
    its run, and its credentials are ignored. Raise Unauthenticated or another Problem if the caller is refused.
    """
    if (run := request.scope.get(CALLING_RUN)) is not None:
        request.scope["principal"] = of_user(run.user)
        return request.scope["principal"], request
    # Programs send no cookie, so they do not pay for the parsing.
    if b"cookie" in dict(request.scope["headers"]):
        request = with_credential(request, authenticator)
    if authenticator.reads_body:
        body, receive = await read_bytes(request), request.receive
        principal = await authenticator.authenticate(Request(request.scope, replay_body(body, receive)))
        # The authenticator has used its replay up. A route of http.app would wait for the body for ever.
        request = Request(request.scope, replay_body(body, receive))
    else:
        principal = await authenticator.authenticate(request)
    request.scope["principal"] = principal  # for the log and the audit
    return principal, request


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields `body` first and then the messages of the original `receive`."""
    is_replayed = False

    async def receive_again() -> Message:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


class AuthenticatedRoute(BaseRoute):
    """A route of a project's own application that requires authentication (`http.enable_custom_route_auth`)."""

    def __init__(self, route: BaseRoute) -> None:
        self._route = route
        self.path = getattr(route, "path", "")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as the wrapped route does."""
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of the wrapped route."""
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate the caller and call the route. `request.user` is the caller."""
        authenticator: Authenticator = scope["state"]["threadkeep"].authenticator
        try:
            if scope["type"] == "http":
                principal, request = await authenticate(authenticator, Request(scope, receive))
                receive = request.receive
            else:
                principal = scope["principal"] = await authenticator.authenticate(HTTPConnection(scope))
        except AUTH_PROBLEMS as refused:
            await _refuse(refused, scope, receive, send)
            return
        await self._route.handle({**scope, "user": User(principal.user)}, receive, send)


async def _refuse(refused: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a refusal as on the server's own routes. The application around this route would answer 500."""
    if scope["type"] == "http":
        render = next(EXCEPTION_HANDLERS[kind] for kind in type(refused).__mro__ if kind in EXCEPTION_HANDLERS)
        await (await render(Request(scope), refused))(scope, receive, send)
        return
    # The socket is not accepted yet, so the server answers the handshake with 403.
    await WebSocket(scope, receive, send).close(POLICY_VIOLATION)
