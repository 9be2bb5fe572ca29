"""The metrics endpoint, on the server's port or on a separate port, with or without authentication."""

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from threadkeep.api.authentication import authenticate
from threadkeep.api.browser_guards import AllowedOrigins, PageGuard, allowed_hosts
from threadkeep.api.connections import uvicorn_config
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.ops.scrape import MetricsExporter
from threadkeep.auth.jwks import is_loopback
from threadkeep.base.problems import StartupError
from threadkeep.settings import Settings


def serves_metrics(settings: Settings) -> bool:
    """Whether `/metrics` is on the server's own port."""
    return settings.metrics != "off" and settings.metrics_port is None


def requires_authentication(settings: Settings, *, has_authenticator: bool) -> bool:
    """Whether `/metrics` requires authentication. Raise StartupError if it is configured without an authenticator."""
    if settings.metrics == "auth" and not has_authenticator:
        raise StartupError("THREADKEEP_METRICS=auth: authentication is off, so nothing would guard /metrics")
    if not has_authenticator:
        return False
    return settings.metrics == "auth" or (settings.metrics is None and not is_loopback(settings.host))


async def metrics(call: AuthorizedRequest[None, None]) -> Response:
    """GET /metrics: read the metrics in Prometheus format, or OpenMetrics if `Accept` asks for it.

    They are those of all processes of one `threadkeep serve`.
    """
    request, scrape = call.request, call.state.metrics_exporter
    # The route is public for the route table, because settings decide whether it requires a caller.
    if scrape.requires_authentication and (authenticator := call.state.authenticator):
        await authenticate(authenticator, request)
    return await scrape.respond(request.headers.get("accept", ""))


@asynccontextmanager
async def serve_metrics_port(scrape: MetricsExporter, settings: Settings) -> AsyncGenerator[int | None]:
    """Serve only `/metrics` on a separate port while the block runs. Yield the port, or None if there is none."""
    if settings.metrics_port is None or settings.metrics == "off":
        yield None
        return

    async def answer(request: Request[Any]) -> Response:
        return await scrape.respond(request.headers.get("accept", ""))

    # If other machines can reach the server, Prometheus may use its own name for it.
    hosts = allowed_hosts(settings) if is_loopback(settings.host) else None
    guard = Middleware(PageGuard, origins=AllowedOrigins(names=frozenset()), hosts=hosts)
    app = Starlette(routes=[Route("/metrics", answer)], middleware=[guard])
    # Two processes cannot bind one port. The supervisor binds it, and its processes share the listener.
    shared = None if scrape.siblings is None else scrape.siblings.metrics_listener
    bound = metrics_socket(settings.host, settings.metrics_port) if shared is None else nullcontext(shared)
    with bound as listener:
        server = _MetricsServer(uvicorn_config(app, settings, lifespan="off"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener], name="metrics")
            yield listener.getsockname()[1]
            server.should_exit = True


class _MetricsServer(uvicorn.Server):
    """A second server in the process, which leaves signals to the first one."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextmanager
def metrics_socket(host: str, port: int) -> Generator[socket.socket]:
    """Yield a socket that is bound to `THREADKEEP_METRICS_PORT`. Raise StartupError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # After a restart the port still has connections of the last process in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise StartupError(f"THREADKEEP_METRICS_PORT: {host}:{port}: {error.strerror}") from None
        yield listener
