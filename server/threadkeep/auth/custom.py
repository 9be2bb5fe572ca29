"""Custom authentication: the `authenticate` function and the handlers of the project's own `langgraph_sdk.Auth`.

Any exception of the project's code refuses the request. Only the text of an `HTTPException` is sent to the caller.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import anyio.to_thread
from langgraph_sdk import Auth
from langgraph_sdk.auth.exceptions import HTTPException
from langgraph_sdk.auth.types import AuthContext
from starlette.exceptions import HTTPException as RouterError  # noqa: TID251 - projects raise FastAPI's, which is a subclass
from starlette.requests import HTTPConnection

from threadkeep.auth.authenticator import CHALLENGE, AuthValue, CredentialHeader
from threadkeep.auth.authorization import AuthEvent
from threadkeep.auth.custom_values import AuthenticateArguments, InvalidAuthResult, parse_filters, parse_principal
from threadkeep.auth.principal import Principal, User
from threadkeep.auth.scopes import ALL_EVENTS
from threadkeep.base.problems import (
    Conflict,
    Forbidden,
    NotFound,
    Problem,
    ServiceUnavailable,
    StartupError,
    Unauthenticated,
)
from threadkeep.importing import import_target
from threadkeep.postgres.tenancy import Filters
from threadkeep.project import Project

log = logging.getLogger(__name__)

ANY: Final = "*"
RESOURCES: Final = {event.split(".")[0] for event in ALL_EVENTS} | {ANY}
ACTIONS: Final = {event.split(".")[1] for event in ALL_EVENTS} | {ANY}
PROBLEM_BY_STATUS: Final[Mapping[int, type[Problem]]] = {404: NotFound, 409: Conflict}
"""Statuses that a project may answer besides 401, 403 and 503. Any other status becomes 403."""

Handler = Callable[..., Awaitable[Any]]


class CustomAuthenticator:
    """Authenticates callers by the project's own code."""

    reads_values = True

    def __init__(self, auth: Auth, recheck_s: float) -> None:
        loose: Any = auth
        self.recheck_s = recheck_s
        self._authenticate: Callable[..., Any] = loose._authenticate_handler  # noqa: SLF001 - the SDK has it for servers
        self._handlers: Mapping[tuple[str, str], list[Handler]] = loose._handlers  # noqa: SLF001 - the same
        self._global: list[Handler] = loose._global_handlers  # noqa: SLF001 - the same
        self._parameters = tuple(inspect.signature(self._authenticate).parameters)
        self.reads_body = bool({"body", "request"} & set(self._parameters))
        self.credential_header: CredentialHeader = (
            "authorization" if "authorization" in self._parameters else "x-api-key"
        )
        # A decorator of the project may have wrapped the coroutine function in a plain one.
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(self._authenticate))

    def granted_scopes(self, principal: Principal) -> Sequence[str] | None:
        """None: only the project's handlers know a principal's permissions."""
        del principal

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Return the principal that the project's `authenticate` returns. Raise its HTTPException as a Problem."""
        available = AuthenticateArguments(connection)
        try:
            arguments = {
                name: await available.get(name) for name in self._parameters if name in AuthenticateArguments.NAMES
            }
            if self._is_async:
                user = await self._authenticate(**arguments)
            else:
                # A plain function may block, for example in a request to an issuer.
                user = await anyio.to_thread.run_sync(lambda: self._authenticate(**arguments))
                # An object with an async `__call__` is no coroutine function, but returns an awaitable.
                user = await user if inspect.isawaitable(user) else user
            return parse_principal(user)
        except (HTTPException, RouterError) as refused:
            raise _problem_of(refused) from None
        # These are no Exceptions: they would end the whole server, for the code of one request.
        except (SystemExit, KeyboardInterrupt) as error:
            raise InvalidAuthResult(f"authenticate raised {type(error).__name__}") from error

    async def authorize(self, principal: Principal, event: AuthEvent, value: AuthValue) -> Filters:
        """Return the filters of the project's most specific handler. If it has none, allow everything."""
        resource, action = event.split(".")
        handler = self._handler(resource, action)
        if handler is None:
            return Filters({})
        context = AuthContext(
            permissions=list(principal.permissions),
            user=cast("Any", User(principal.user)),
            resource=cast("Any", resource),
            action=cast("Any", action),
        )
        try:
            result = await handler(ctx=context, value=value)
        except (HTTPException, RouterError) as refused:
            raise _problem_of(refused) from None
        except (SystemExit, KeyboardInterrupt) as error:
            raise InvalidAuthResult(f"a handler raised {type(error).__name__}") from error
        if result is False:
            raise Forbidden("Forbidden")
        return parse_filters(result)

    def _handler(self, resource: str, action: str) -> Handler | None:
        for key in ((resource, action), (resource, ANY), (ANY, action)):
            if handlers := self._handlers.get(key):
                return handlers[-1]
        return self._global[-1] if self._global else None


def _problem_of(refused: HTTPException | RouterError) -> Problem:
    """Return the project's HTTPException as a Problem, with its text and headers."""
    headers = {name.lower(): value for name, value in (refused.headers or {}).items()}
    detail = str(refused.detail)
    if refused.status_code == Unauthenticated.status:
        return Unauthenticated(detail, challenge=CHALLENGE, headers=headers)
    if refused.status_code == ServiceUnavailable.status:
        return ServiceUnavailable(detail)
    return PROBLEM_BY_STATUS.get(refused.status_code, Forbidden)(detail, headers=headers)


def load_custom_authenticator(project: Project, recheck_s: float) -> CustomAuthenticator:
    """Load the authenticator of `auth` in langgraph.json. Raise StartupError if it is not usable."""
    target = project.auth.path or ""
    where = f"auth.path: {target}"
    auth = import_target(project.root, target, key="auth.path")
    if not isinstance(auth, Auth):
        raise StartupError(f"{where}: this is not a langgraph_sdk.Auth")
    authenticate: Any = auth._authenticate_handler  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - the SDK has it for servers
    if authenticate is None:
        raise StartupError(f"{where}: it has no @auth.authenticate, so no caller could be authenticated")
    _check_parameters(where, authenticate)
    for resource, action in auth._handlers:  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - the same
        if resource not in RESOURCES or action not in ACTIONS:
            raise StartupError(
                f"{where}: the handler of {resource}.{action} is never called, because this event does not exist"
            )
    if project.auth.cache:
        log.warning("auth.cache is ignored: authenticate is called for each request")
    return CustomAuthenticator(auth, recheck_s)


def _check_parameters(where: str, authenticate: Callable[..., Any]) -> None:
    for name, parameter in inspect.signature(authenticate).parameters.items():
        # These may be empty, so nothing has to be given for them.
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            continue
        is_available = name in AuthenticateArguments.NAMES and parameter.kind is not parameter.POSITIONAL_ONLY
        if not is_available and parameter.default is parameter.empty:
            raise StartupError(
                f"{where}: authenticate has the parameter {name!r}: it may have, by name, {', '.join(sorted(AuthenticateArguments.NAMES))}"
            )
