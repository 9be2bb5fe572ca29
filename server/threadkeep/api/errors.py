"""Errors: every expected exception as JSON, in one place. The unexpected end in `middleware.RequestMiddleware`.

Below `/v1` an error has the format of the OpenAI API (`openai/errors.py`), whatever the error is.
"""

import logging
from http import HTTPStatus
from typing import Any, cast

from psycopg.errors import QueryCanceled
from psycopg_pool import PoolClosed
from starlette.exceptions import HTTPException as RouterError  # noqa: TID251 - what starlette's own router raises
from starlette.requests import Request
from starlette.responses import Response

from threadkeep.api.openai.errors import render_openai_problem, render_openai_status
from threadkeep.api.responses import json_response
from threadkeep.base.problems import InvalidRequest, Problem, QueryTimeout, ServiceUnavailable, TransactionConflict
from threadkeep.postgres.retry import CONFLICTS, TRANSIENT_ERRORS

log = logging.getLogger(__name__)

BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})
"""Statuses whose answers have no body."""


async def render_problem(request: Request[Any], error: Exception) -> Response:
    """A Problem: its status, `detail`, `code`, and its own fields."""
    problem = cast("Problem", error)
    if is_openai(request):
        return render_openai_problem(request, problem)
    shown: dict[str, object] = {"detail": problem.detail, "code": problem.code, **problem.fields}
    if isinstance(problem, QueryTimeout):
        shown["error"] = problem.detail
    return json_response(shown, problem.status, problem.headers)


async def render_router_error(request: Request[Any], error: Exception) -> Response:
    """No such path, or not with that method; or what a route of the project's own application raised."""
    refused = cast("RouterError", error)
    status, headers = refused.status_code, dict(refused.headers or {})
    if status < HTTPStatus.OK or status in BODILESS:
        return Response(status_code=status, headers=headers)
    if is_openai(request):
        return render_openai_status(status, str(refused.detail), headers)
    return json_response({"detail": refused.detail, "code": _code(status)}, status, headers)


def is_openai(request: Request[Any]) -> bool:
    """Whether a request is for the OpenAI API, which is served below `/v1` of the server or of `http.mount_prefix`."""
    state: Any = request.scope.get("state", {}).get("threadkeep")
    if state is None or state.project.http.disable_openai:
        return False
    prefix = (state.project.http.mount_prefix or "").rstrip("/")
    return request.scope["path"].startswith(f"{prefix}/v1/")


def _code(status: int) -> str:
    """A status in words; those that no standard names are an `error`."""
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "-")
    except ValueError:
        return "error"


async def on_no_json(request: Request[Any], error: Exception) -> Response:
    """A route of the project's own application read a body that is no JSON."""
    del error
    return await render_problem(request, InvalidRequest("the body is not JSON"))


async def render_database_error(request: Request[Any], error: Exception) -> Response:
    """Postgres is away, full, or too slow: come again."""
    log.warning("the database did not answer", exc_info=error)
    return await render_problem(request, ServiceUnavailable())


async def render_conflict(request: Request[Any], error: Exception) -> Response:
    """The transaction conflicted with others, however often it was repeated."""
    log.warning("a request conflicted with others for too long", exc_info=error)
    return await render_problem(request, TransactionConflict())


EXCEPTION_HANDLERS: dict[Any, Any] = {
    Problem: render_problem,
    RouterError: render_router_error,
    **dict.fromkeys(TRANSIENT_ERRORS, render_database_error),
    **dict.fromkeys(CONFLICTS, render_conflict),
    QueryCanceled: render_database_error,
    PoolClosed: render_database_error,
}
"""For `Starlette(exception_handlers=…)`."""
