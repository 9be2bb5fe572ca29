"""Error responses: render every expected exception as JSON. `middleware.RequestMiddleware` handles the unexpected ones.

Below `/v1` all errors have the format of the OpenAI API (`openai/errors.py`). Below `/a2a` they also have a JSON-RPC error.
"""

import logging
from http import HTTPStatus
from typing import Any, cast

from starlette.exceptions import HTTPException as RouterError  # noqa: TID251 - what starlette's own router raises
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api.a2a.rpc import add_rpc_error
from threadkeep.api.openai.errors import render_openai_problem, render_openai_status
from threadkeep.api.responses import json_response
from threadkeep.base.problems import InvalidRequest, Problem, QueryTimeout, ServiceUnavailable, TransactionConflict
from threadkeep.postgres.retry import CONFLICTS, TRANSIENT_ERRORS

log = logging.getLogger(__name__)

BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})
"""Statuses of responses without a body."""


async def render_problem(request: Request[Any], error: Exception) -> Response:
    """Render a Problem with its status, `detail`, `code` and own fields."""
    problem = cast("Problem", error)
    if is_openai(request):
        return render_openai_problem(request, problem)
    # The request was refused before its JSON-RPC message was read, so the id of the message is not known.
    if is_a2a(request) and "error" not in problem.fields:
        add_rpc_error(problem, None)
    fields: dict[str, object] = {"detail": problem.detail, "code": problem.code, **problem.fields}
    if isinstance(problem, QueryTimeout):
        # The original API of `/query` has the text here.
        fields["error"] = problem.detail
    return json_response(fields, problem.status, problem.headers)


async def render_router_error(request: Request[Any], error: Exception) -> Response:
    """Render an HTTPException: an unknown path or method, or an error of a route of the project's own application."""
    refused = cast("RouterError", error)
    status, headers = refused.status_code, dict(refused.headers or {})
    # A route of the project may raise any status. HTTP allows no body with these.
    if status < HTTPStatus.OK or status in BODILESS:
        return Response(status_code=status, headers=headers)
    if is_openai(request):
        return render_openai_status(status, str(refused.detail), headers)
    return json_response({"detail": refused.detail, "code": _code(status)}, status, headers)


def is_openai(request: Request[Any]) -> bool:
    """Whether a request is for the OpenAI API, served below `/v1` of the server or of `http.mount_prefix`."""
    state: Any = request.scope.get("state", {}).get("threadkeep")
    if state is None or state.project.http.disable_openai:
        return False
    prefix = (state.project.http.mount_prefix or "").rstrip("/")
    return request.scope["path"].startswith(f"{prefix}/v1/")


def is_a2a(request: Request[Any]) -> bool:
    """Whether a request calls a method of A2A. Its errors with an HTTP status of their own also have a JSON-RPC error."""
    state: Any = request.scope.get("state", {}).get("threadkeep")
    if state is None or state.project.http.disable_a2a or request.scope.get("method") != "POST":
        return False
    prefix = (state.project.http.mount_prefix or "").rstrip("/")
    return request.scope["path"].startswith(f"{prefix}/a2a/")


def _code(status: int) -> str:
    """Return the code of a status, from its HTTP phrase. A status without a phrase is `error`."""
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "-")
    except ValueError:
        return "error"


async def on_no_json(request: Request[Any], error: Exception) -> Response:
    """Render the error of a route of the project's own application that read a body which is not JSON."""
    del error
    return await render_problem(request, InvalidRequest("the body is not JSON"))


async def render_database_error(request: Request[Any], error: Exception) -> Response:
    """Render 503: Postgres is down, out of connections, or too slow."""
    log.warning("the database did not answer", exc_info=error)
    return await render_problem(request, ServiceUnavailable())


async def render_conflict(request: Request[Any], error: Exception) -> Response:
    """Render the error of a transaction that conflicted with others in every retry."""
    log.warning("request refused: its transaction conflicted with others too often", exc_info=error)
    return await render_problem(request, TransactionConflict())


EXCEPTION_HANDLERS: dict[Any, Any] = {
    Problem: render_problem,
    RouterError: render_router_error,
    **dict.fromkeys(TRANSIENT_ERRORS, render_database_error),
    # Starlette takes the handler of the nearest class, so conflicts do not get that of OperationalError.
    **dict.fromkeys(CONFLICTS, render_conflict),
}
"""For `Starlette(exception_handlers=…)`."""
