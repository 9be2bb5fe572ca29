"""Health checks and information about the server."""

from collections.abc import Callable, Mapping
from typing import Final

import anyio
from langgraph.version import __version__ as langgraph_version
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from threadkeep import __version__
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response
from threadkeep.postgres import migrate
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.project import Http

_SWITCHES: Final[Mapping[str, Callable[[Http], bool]]] = {
    # Without runs, the OpenAI API still serves models and conversations.
    "openai": lambda http: http.disable_openai,
    "mcp": lambda http: http.disable_mcp or http.disable_runs,
    "a2a": lambda http: http.disable_a2a or http.disable_runs,
    "ag-ui": lambda http: http.disable_agui or http.disable_runs,
}
"""Surface -> whether langgraph.json disables it."""
CHECK_S = 1.0
"""Seconds that a health check waits for Postgres, because probes have short timeouts."""


class OkQuery(BaseModel):
    """The query of the health check."""

    model_config = ConfigDict(extra="ignore")

    check_db: bool = False


async def ok(call: AuthorizedRequest[None, OkQuery]) -> Response:
    """GET /ok: check whether the server answers. With `check_db=1`, also check Postgres."""
    if not call.query.check_db:
        return json_response({"ok": True})
    healthy = await _database_answers(call.state.pool)
    services = {"postgres": "healthy" if healthy else "unhealthy"}
    return json_response({"ok": healthy, "services": services}, 200 if healthy else 503)


async def root(call: AuthorizedRequest[None, OkQuery]) -> Response:
    """GET /: whether the server answers. A browser is sent to the console."""
    if call.state.console and "text/html" in call.request.headers.get("accept", ""):
        # A cache must not answer a health check with the redirect for a browser.
        return Response(status_code=307, headers={"location": _console_location(call), "vary": "Accept"})
    return await ok(call)


def _console_location(call: AuthorizedRequest[None, OkQuery]) -> str:
    """From here, because a proxy may have put more before the path."""
    prefix = (call.state.project.http.mount_prefix or "").strip("/")
    is_below = prefix and call.request.url.path.startswith(f"/{prefix}/")
    return "console/" if is_below or not prefix else f"{prefix}/console/"


async def livez(call: AuthorizedRequest[None, None]) -> Response:
    """GET /livez: check whether the event loop runs. It does not check Postgres."""
    del call
    return json_response({"ok": True})


async def readyz(call: AuthorizedRequest[None, None]) -> Response:
    """GET /readyz: check whether the server accepts requests.

    It does if Postgres answers, the tables are up to date, and the server is not stopping.
    """
    state = call.state
    answers = await _database_answers(state.pool)
    checks = {
        "database": answers,
        # Without Postgres there is no second wait, because probes have short timeouts.
        "migrations": answers and await _is_migrated(state.pool),
        # The load balancer stops sending requests to this process, while the requests in progress are still answered.
        "accepting": not state.signals.stopping.is_set(),
    }
    ready = all(checks.values())
    return json_response({"ready": ready, "checks": checks}, 200 if ready else 503)


async def info(call: AuthorizedRequest[None, None]) -> Response:
    """GET /info: read the versions, features, limits and current load of the server."""
    settings, slots = call.state.settings, call.state.slots
    return json_response(
        {
            "version": __version__,
            "langgraph_py_version": langgraph_version,
            "flags": {"assistants": True, "crons": True, "langsmith": False, "langsmith_tracing_replicas": False},
            "surfaces": [name for name, is_off in _SWITCHES.items() if not is_off(call.state.project.http)],
            "host": {"kind": "self-hosted", "project_id": None, "revision_id": None, "tenant_id": None},
            "server": "threadkeep",
            "role": settings.role,
            "auth": {"kind": call.state.auth_type},
            "row_level_security": call.state.pool.row_security,
            "database": {
                "pooler": call.state.pool.pooler,
                # Without LISTEN, for example with PgBouncer, processes find new rows only by polling.
                "wake_ups": "polling" if call.state.wakeups.polls else "listen",
            },
            "limits": {
                "run_slots": slots.total,
                "max_waiting": settings.max_waiting,
                "queue_timeout_s": settings.queue_timeout_s,
                "query_timeout_s": settings.query_timeout_s,
                "run_timeout_s": settings.run_timeout_s,
                "body_bytes": settings.max_body_bytes,
            },
            "load": {"running": slots.running, "waiting": slots.queue_length},
        }
    )


async def _database_answers(pool: Pool) -> bool:
    try:
        with anyio.fail_after(CHECK_S):
            async with pool.connection() as conn:
                await conn.execute("SELECT 1")
    except (*TRANSIENT_ERRORS, TimeoutError):
        return False
    return True


async def _is_migrated(pool: Pool) -> bool:
    try:
        with anyio.fail_after(CHECK_S):
            async with pool.connection() as conn:
                return await migrate.is_current(conn)
    except (*TRANSIENT_ERRORS, TimeoutError):
        return False
