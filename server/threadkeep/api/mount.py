"""Mounting of routes by the `http` key of langgraph.json: switches, path prefix, CORS, and the project's own application.

Health checks, metrics and the OpenAPI document keep their paths, even if the project's application has the same paths.
"""

import copy
import logging
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException as RouterError  # noqa: TID251 - what a project's own routes raise
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from threadkeep.api.authentication import AuthenticatedRoute
from threadkeep.api.browser_guards import (
    AllowedOrigins,
    BrowserSecurityMiddleware,
    JsonWrites,
    PageGuard,
    allowed_hosts,
)
from threadkeep.api.errors import EXCEPTION_HANDLERS, on_no_json, render_router_error
from threadkeep.api.operation import Operation
from threadkeep.api.responses import json_response
from threadkeep.auth.jwks import is_loopback
from threadkeep.base.problems import StartupError
from threadkeep.importing import import_target, reason
from threadkeep.project import Cors, Http, Project
from threadkeep.runs.calling_run import CALLING_RUN
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
EXPOSED_HEADERS = (
    "content-location",
    "location",
    "retry-after",
    "x-pagination-total",
    "x-pagination-next",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-thread-id",
    "x-threadkeep-history",
)
"""Response headers that pages may read. Without Content-Location, `useStream` in a browser cannot rejoin a run."""
UNKNOWN_ORIGIN = "https://stranger.invalid"
"""An origin that matches only a pattern for every origin."""

HEALTH_PATHS = frozenset({"/", "/ok", "/livez", "/readyz", "/metrics"})
"""Paths that are also served without the `mount_prefix`, because probes do not know the prefix."""
PROBES = ("/ok", "/livez", "/readyz")
"""Paths that load balancers request, with any name of the server as `Host`."""
ALWAYS_SERVED = frozenset({"/ok", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""Paths that a project's application cannot override."""

FOR_APPS: Mapping[Any, Any] = {RouterError: render_router_error, JSONDecodeError: on_no_json}
"""Handlers for an application without its own. They answer JSON with the status of the error."""


class HealthOnly:
    """Answers only health checks and metrics, for a process of the role `worker`. Its graphs still reach the whole API."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or CALLING_RUN in scope or scope["path"] in self._paths:
            await self._app(scope, receive, send)
            return
        refusal: ASGIApp = WebSocketClose() if scope["type"] == "websocket" else _not_here()
        await refusal(scope, receive, send)


def _not_here() -> Response:
    text = "This process only runs graphs (THREADKEEP_ROLE=worker). Ask one of the role api or all."
    return json_response({"detail": text, "code": "not-found"}, 404)


def role_guard(http: Http, settings: Settings) -> list[Middleware]:
    """Return the middleware for a process of the role `worker`. Other roles need none."""
    if settings.role != "worker":
        return []
    prefix, paths = mount_prefix(http), (*PROBES, "/metrics")
    return [Middleware(HealthOnly, paths=frozenset((*paths, *(prefix + path for path in paths))))]


def enabled_operations(http: Http, table: Iterable[Operation]) -> list[Operation]:
    """Return the operations that no switch disables."""
    return [operation for operation in table if not any(getattr(http, switch) for switch in operation.switches)]


def cors_policy(http: Http, host: str) -> Middleware:
    """Return the CORS middleware for `origins(http, host)`. Raise StartupError if every origin could send credentials."""
    chosen, allowed = http.cors or Cors(), origins(http, host)
    if chosen.allow_credentials and allowed.allows(UNKNOWN_ORIGIN):
        raise StartupError(
            "http.cors: allow_credentials with every origin lets any site act as its visitor: name the origins"
        )
    return Middleware(
        BrowserSecurityMiddleware,
        allow_origins=allowed.names,
        allow_origin_regex=allowed.pattern.pattern if allowed.pattern else None,
        allow_methods=chosen.allow_methods or ["*"],
        allow_headers=chosen.allow_headers or ["*"],
        allow_credentials=chosen.allow_credentials,
        # For allowed origins only: `preflight_response` takes the permission away from other ones.
        allow_private_network=True,
        expose_headers=list(dict.fromkeys((*EXPOSED_HEADERS, *(name.lower() for name in chosen.expose_headers)))),
        max_age=chosen.max_age,
    )


def origins(http: Http, host: str) -> AllowedOrigins:
    """Return the origins of `http.cors`. Without it, allow this machine's if no other machine can reach `host`.

    Raise StartupError if the pattern is not a regular expression.
    """
    chosen = http.cors or Cors()
    pattern = chosen.allow_origin_regex
    if not chosen.allow_origins and pattern is None and is_loopback(host):
        pattern = LOOPBACK_ORIGINS
    try:
        compiled = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise StartupError(f"http.cors.allow_origin_regex: {error}") from None
    return AllowedOrigins(names=frozenset(chosen.allow_origins), pattern=compiled)


def page_guard(http: Http, settings: Settings, served: Iterable[Operation], *, authenticates: bool) -> Middleware:
    """Return the middleware that refuses pages on every route and WebSocket, including those of `http.app`.

    Links may open public paths and the routes of `http.app`, but no other path of the server. If other machines can
    reach the server, probes may use any `Host`, because load balancers have their own names for it.
    """
    prefix, private = mount_prefix(http), [operation for operation in served if operation.event != "public"]
    documents = [operation.route_path or operation.path for operation in private if operation.method == "GET"]
    probes = () if is_loopback(settings.host) else (*PROBES, *(prefix + path for path in PROBES))
    return Middleware(
        PageGuard,
        origins=origins(http, settings.host),
        # DNS rebinding gives a page no credentials, so with authentication every name is safe.
        hosts=None if authenticates else allowed_hosts(settings),
        probes=frozenset(probes),
        no_documents=[compile_path(prefix + path)[0] for path in documents],
    )


def mount_routes(http: Http, routes: Sequence[BaseRoute], custom: Starlette | None) -> list[BaseRoute]:
    """Return the routes of the whole application: the server's, the project's, and the prefix of both.

    Writes to the server's own routes must be JSON. The project's routes may accept anything.
    """
    prefix = mount_prefix(http)
    for route in routes:
        if isinstance(route, Route):
            route.app = JsonWrites(route.app)
    inner = list(routes) if custom is None else _around(custom, routes, authenticated=http.enable_custom_route_auth)
    if not prefix:
        return inner
    return [*(route for route in routes if _path(route) in HEALTH_PATHS), Mount(prefix, routes=inner)]


def mount_prefix(http: Http) -> str:
    """Return the prefix of all routes, or an empty string. Raise StartupError if `mount_prefix` is not a path."""
    path = (http.mount_prefix or "").rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path):
        raise StartupError(f"http.mount_prefix: {http.mount_prefix!r} is not a path such as /agents")
    return path


def _around(custom: Starlette, routes: Sequence[BaseRoute], *, authenticated: bool) -> list[BaseRoute]:
    """Mount the server's routes after the project's, inside the project's middleware and error handlers."""
    always_served = [route for route in routes if _path(route) in ALWAYS_SERVED]
    # Inside the application of the project, whose own handlers would otherwise render the problems of the server.
    core = ExceptionMiddleware(Router(routes), EXCEPTION_HANDLERS)
    # A path of ALWAYS_SERVED that is switched off stays unserved, even if the project has a route for it.
    custom_routes: list[BaseRoute] = [route for route in custom.router.routes if _path(route) not in ALWAYS_SERVED]
    if authenticated:
        custom_routes = [AuthenticatedRoute(route) for route in custom_routes]
    custom.router.routes = [*custom_routes, Mount("", app=core)]
    return [*always_served, Mount("", app=custom)]


def load_custom_app(project: Project) -> Starlette | None:
    """Return a copy of the project's own application, or None. Raise StartupError if it is not a Starlette application."""
    target = project.http.app
    if not target:
        return None
    app = import_target(project.root, target, key="http.app")
    if not isinstance(app, Starlette):
        raise StartupError(f"http.app: {target} is not a Starlette or FastAPI application")
    # Two servers in one process must not add their routes to the same application.
    custom = copy.copy(app)
    custom.router = Router(app.router.routes)  # a copied router would still call the original application
    custom.router.lifespan_context = app.router.lifespan_context
    # Starlette builds the stack once. The copied stack would still lead to the original router.
    custom.middleware_stack = None
    custom.exception_handlers = {**FOR_APPS, **app.exception_handlers}
    return custom


@asynccontextmanager
async def custom_lifespan(custom: Starlette | None, root: Path) -> AsyncGenerator[Mapping[str, Any]]:
    """Run the lifespan of the project's application and yield its state. Raise StartupError if it fails."""
    if custom is None:
        yield {}
        return
    async with AsyncExitStack() as stack:
        try:
            state = await stack.enter_async_context(custom.router.lifespan_context(custom))
        except (Exception, SystemExit) as error:
            log.debug("the lifespan of http.app failed", exc_info=True)
            raise StartupError(f"http.app: its lifespan raised {reason(error, root)}") from error
        yield state or {}  # a lifespan may yield None


def check_http_config(http: Http, *, has_authenticator: bool) -> None:
    """Raise StartupError if ignoring a key would leave routes unprotected. Log other keys without effect."""
    if http.enable_custom_route_auth and not has_authenticator:
        raise StartupError(
            "http.enable_custom_route_auth: authentication is off, so http.app would be open: set AUTH_TYPE"
        )
    ignored = {
        "http.logging_headers": http.logging_headers.includes,
        "http.middleware_order": http.middleware_order,
    }
    if keys := sorted(key for key, value in ignored.items() if value):
        log.warning("keys without an effect on this server are ignored", extra={"keys": keys})


def _path(route: BaseRoute) -> str:
    return cast("str", getattr(route, "path", ""))
