"""Errors of the OpenAI API: every problem as `{"error": {"message", "type", "param", "code"}}`.

OpenAI's SDKs send a request again after 408, 409, 429 and each status from 500 on, without an idempotency key. A run that
failed would be repeated twice, so `x-should-retry: false` goes with each failure that a repetition does not help.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.responses import json_response
from threadkeep.base.problems import Problem, ThreadBusy

RETRIED: Final = frozenset({408, 409, 429})
"""Statuses below 500 after which the SDKs send a request again."""
OPENAI_CODES: Final[Mapping[int, str]] = {
    401: "invalid_api_key",
    403: "insufficient_permissions",
    404: "not_found",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    500: "internal_error",
    504: "timeout",
}
"""The `code` of a status, for problems that have no code of the OpenAI API."""


class OpenAIProblem(Problem):
    """A problem with a `code` of the OpenAI API, and the `param` that is at fault."""

    def __init__(self, detail: str, /, *, code: str, param: str | None = None) -> None:
        super().__init__(detail)
        self.openai_code = code
        self.param = param


class InvalidParameter(OpenAIProblem):
    """A parameter that is missing, has a wrong type or value, or is not supported. `param` names it."""

    status, code = 400, "invalid-request"

    def __init__(self, detail: str, /, *, param: str | None, code: str = "invalid_value") -> None:
        super().__init__(detail, code=code, param=param)


class ResourceNotFound(OpenAIProblem):
    """The resource does not exist, or you may not see it."""

    status, code = 404, "not-found"

    def __init__(self, detail: str, /, *, param: str | None = None, code: str = "not_found") -> None:
        super().__init__(detail, code=code, param=param)


class RunFailed(OpenAIProblem):
    """The graph raised an exception, or the run was cancelled."""

    status, code = 500, "run-failed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="run_failed")


class RunTimedOut(OpenAIProblem):
    """The run exceeded its time limit."""

    status, code = 504, "timeout"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="timeout")


class ErrorFields(TypedDict):
    """The error of a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """An error of the OpenAI API."""

    error: ErrorFields


def unknown_model(model: str) -> ResourceNotFound:
    """Return the problem of a `model` that the caller does not have."""
    detail = f"The model {model[:200]!r} does not exist or you do not have access to it."
    return ResourceNotFound(detail, param="model", code="model_not_found")


def error_body(problem: Problem) -> ErrorBody:
    """Return a problem in the form of the OpenAI API."""
    fields: ErrorFields = {
        "message": problem.detail,
        "type": _type(problem.status),
        "param": _param(problem),
        "code": _code(problem),
    }
    return {"error": fields}


def render_openai_problem(request: Request[Any], problem: Problem) -> Response:
    """Return the response to a request that ended with a problem."""
    status = openai_status(problem)
    headers = {**problem.headers, **_rate_limits(request, status)}
    # A problem with this header passes, and the SDKs wait for that time.
    if (status >= 500 or status in RETRIED) and "retry-after" not in headers:
        headers["x-should-retry"] = "false"
    return json_response(error_body(problem), status, headers)


def render_openai_status(status: int, detail: str, headers: dict[str, str]) -> Response:
    """Return the response for an unknown path, an unknown method, or a fault of the server."""
    code = "unknown_url" if status == HTTPStatus.NOT_FOUND else OPENAI_CODES.get(status)
    fields: ErrorFields = {"message": detail, "type": _type(status), "param": None, "code": code}
    retry = {"x-should-retry": "false"} if status >= 500 else {}
    return json_response(ErrorBody(error=fields), status, {**headers, **retry})


def openai_status(problem: Problem) -> int:
    """Return the status of a problem. OpenAI has no 422, and the SDKs would repeat a request that gets 409."""
    if isinstance(problem, ThreadBusy):
        return 503
    return 400 if problem.status == 422 else problem.status


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _code(problem: Problem) -> str | None:
    if isinstance(problem, OpenAIProblem):
        return problem.openai_code
    if errors := _errors(problem):
        # OpenAI names one fault. pydantic may find several.
        kind = str(errors[0]["type"])
        if kind == "missing":
            return "missing_required_parameter"
        # Names of pydantic, such as `string_type` and `int_parsing`.
        return "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    if problem.status == 503:
        return "overloaded" if problem.code == "overloaded" else "unavailable"
    if problem.status in {400, 422}:
        return "invalid_value"
    return OPENAI_CODES.get(problem.status, problem.code.replace("-", "_"))


def _param(problem: Problem) -> str | None:
    if isinstance(problem, OpenAIProblem):
        return problem.param
    errors = _errors(problem)
    return place(errors[0]["loc"]) if errors and errors[0]["loc"] else None


def _errors(problem: Problem) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", problem.fields.get("errors") or [])


def place(parts: list[int | str]) -> str:
    """Return a place in a body in OpenAI's form: `messages[0].content[1]`."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _rate_limits(request: Request[Any], status: int) -> dict[str, str]:
    state: Any = request.scope.get("state", {}).get("threadkeep")
    principal: Any = request.scope.get("principal")
    if status != HTTPStatus.TOO_MANY_REQUESTS or state is None or principal is None:
        return {}
    return rate_limit_headers(state.quotas.request_share(principal.identity))


def rate_limit_headers(share: Any) -> dict[str, str]:
    """Return the headers with the rest of the caller's requests in this minute. Empty if there is no limit."""
    if share is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(share.limit),
        "x-ratelimit-remaining-requests": str(share.remaining),
        "x-ratelimit-reset-requests": f"{share.reset_s:g}s",
    }
