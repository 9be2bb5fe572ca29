"""Mount: the `http` key of langgraph.json: what is served, where, to which origins, and beside which routes of the user's.

Health checks, metrics and the spec keep their paths whatever the user's application has there.
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
from starlette.routing import BaseRoute, Mount, Route, Router, compile_path

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
from threadkeep.auth.jwks import is_loopback
from threadkeep.base.problems import StartupError
from threadkeep.importing import import_target, reason
from threadkeep.project import Cors, Http, Project
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
"""Without Content-Location a browser's useStream can't rejoin a run."""
UNKNOWN_ORIGIN = "https://stranger.invalid"
"""An origin that only a pattern for every origin fits."""

HEALTH_PATHS = frozenset({"/", "/ok", "/livez", "/readyz", "/metrics"})
"""What stays at the root, too, below a `mount_prefix`: who asks does not know it."""
PROBES = ("/ok", "/livez", "/readyz")
"""What load balancers ask for, by whatever name they know the server."""
ALWAYS_SERVED = frozenset({"/ok", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""Paths that a user's application can't take."""

FOR_APPS: Mapping[Any, Any] = {RouterError: render_router_error, JSONDecodeError: on_no_json}
"""For an application that does not handle these itself: the answer is JSON, and the status is the error's own."""


def enabled_operations(http: Http, table: Iterable[Operation]) -> list[Operation]:
    """The operations that no switch takes away."""
    return [operation for operation in table if not any(getattr(http, switch) for switch in operation.switches)]


def cors_policy(http: Http, host: str) -> Middleware:
    """CORS for the origins of `origins`. StartupError if every origin could send credentials."""
    chosen, allowed = http.cors or Cors(), origins(http, host)
    if chosen.allow_credentials and allowed.allows(UNKNOWN_ORIGIN):
        raise StartupError("http.cors: allow_credentials with every origin would let any site act as its visitor")
    return Middleware(
        BrowserSecurityMiddleware,
        allow_origins=allowed.names,
        allow_origin_regex=allowed.pattern.pattern if allowed.pattern else None,
        allow_methods=chosen.allow_methods or ["*"],
        allow_headers=chosen.allow_headers or ["*"],
        allow_credentials=chosen.allow_credentials,
        allow_private_network=True,
        expose_headers=list(dict.fromkeys((*EXPOSED_HEADERS, *(name.lower() for name in chosen.expose_headers)))),
        max_age=chosen.max_age,
    )


def origins(http: Http, host: str) -> AllowedOrigins:
    """The origins of `http.cors`. Without it: this machine's, if no other machine can reach `host`.

    StartupError if the pattern is not a regular expression.
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
    """The refusal of pages that may not call, on every route and WebSocket, those of `http.app` included.

    Links may open public paths and the routes of `http.app`, but no other path of ours. Probes may use any name if other
    machines reach the server: load balancers have names of their own.
    """
    above, private = mount_prefix(http), [one for one in served if one.event != "public"]
    named = () if is_loopback(settings.host) else (*PROBES, *(above + path for path in PROBES))
    return Middleware(
        PageGuard,
        origins=origins(http, settings.host),
        hosts=None if authenticates else allowed_hosts(settings),
        probes=frozenset(named),
        no_documents=[compile_path(above + (one.route_path or one.path))[0] for one in private if one.method == "GET"],
    )


def mount_routes(http: Http, routes: Sequence[BaseRoute], custom: Starlette | None) -> list[BaseRoute]:
    """The routes of the whole application: ours, the user's, and the prefix above both.

    Writes to ours have to be JSON. What the user's take is the user's affair.
    """
    above = mount_prefix(http)
    for route in routes:
        if isinstance(route, Route):
            route.app = JsonWrites(route.app)
    inner = list(routes) if custom is None else _around(custom, routes, doored=http.enable_custom_route_auth)
    if not above:
        return inner
    return [*(route for route in routes if _path(route) in HEALTH_PATHS), Mount(above, routes=inner)]


def mount_prefix(http: Http) -> str:
    """The path that all routes stand below; empty without `mount_prefix`. StartupError where it is none."""
    path = (http.mount_prefix or "").rstrip("/")
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path):
        raise StartupError(f"http.mount_prefix: {http.mount_prefix!r} is no path such as /agents")
    return path


def _around(custom: Starlette, routes: Sequence[BaseRoute], *, doored: bool) -> list[BaseRoute]:
    """Ours where no route of the user's fits; the user's middleware and error handling stand around both."""
    kept = [route for route in routes if _path(route) in ALWAYS_SERVED]
    core = ExceptionMiddleware(Router(routes), EXCEPTION_HANDLERS)
    # Never the user's own routes: a path of KEPT that is switched off is nobody's.
    theirs: list[BaseRoute] = [route for route in custom.router.routes if _path(route) not in ALWAYS_SERVED]
    if doored:
        theirs = [AuthenticatedRoute(route) for route in theirs]
    custom.router.routes = [*theirs, Mount("", app=core)]
    return [*kept, Mount("", app=custom)]


def load_custom_app(project: Project) -> Starlette | None:
    """The user's own application, a copy that may be changed; None where there is none. StartupError if it is no Starlette."""
    target = project.http.app
    if not target:
        return None
    found = import_target(project.root, target, key="http.app")
    if not isinstance(found, Starlette):
        raise StartupError(f"http.app: {target} is no application of Starlette or of what is built on it")
    custom = copy.copy(found)
    custom.router = Router(found.router.routes)  # a copied one would go on calling the original
    custom.router.lifespan_context = found.router.lifespan_context
    custom.middleware_stack = None
    custom.exception_handlers = {**FOR_APPS, **found.exception_handlers}
    return custom


@asynccontextmanager
async def custom_lifespan(custom: Starlette | None, root: Path) -> AsyncGenerator[Mapping[str, Any]]:
    """The lifespan of the user's application, and the state that it gives its requests. StartupError if it fails."""
    if custom is None:
        yield {}
        return
    async with AsyncExitStack() as stack:
        try:
            state = await stack.enter_async_context(custom.router.lifespan_context(custom))
        except Exception as error:
            log.debug("the lifespan of http.app failed", exc_info=True)
            raise StartupError(f"http.app: its lifespan raised {reason(error, root)}") from error
        yield state or {}


def check_http_config(http: Http, *, has_door: bool) -> None:
    """StartupError for what would leave a door open if it were ignored; a line in the log for the rest."""
    if http.enable_custom_route_auth and not has_door:
        raise StartupError("http.enable_custom_route_auth: there is no authentication that could guard http.app")
    ignored = {
        "http.logging_headers": http.logging_headers.includes,
        "http.middleware_order": http.middleware_order,
    }
    if keys := sorted(key for key, value in ignored.items() if value):
        log.warning("keys that do nothing on this server are ignored", extra={"keys": keys})


def _path(route: BaseRoute) -> str:
    return cast("str", getattr(route, "path", ""))
