"""Errors of A2A: JSON-RPC errors with the reason in `data`, in the types of google.rpc (A2A 1.0, sections 5.4 and 9.5)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.base.problems import Problem

DOMAIN: Final = "a2a-protocol.org"
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
REASONS: Final[Mapping[int, str]] = {
    -32001: "TASK_NOT_FOUND",
    -32002: "TASK_NOT_CANCELABLE",
    -32003: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    -32004: "UNSUPPORTED_OPERATION",
    -32005: "CONTENT_TYPE_NOT_SUPPORTED",
    -32009: "VERSION_NOT_SUPPORTED",
}
"""Code -> the reason in its ErrorInfo."""


class A2AError(Exception):
    """An error that a method answers with HTTP status 200."""

    def __init__(
        self, code: int, message: str, *, metadata: Mapping[str, str] | None = None, field: str | None = None
    ) -> None:
        """`metadata`: of the ErrorInfo. `field`: the field of the request that is at fault."""
        super().__init__(message)
        self.code = code
        self.message = message
        self._metadata = metadata or {}
        self._field = field

    @property
    def fields(self) -> dict[str, Any]:
        """The `error` of a JSON-RPC answer."""
        details = self._details()
        return {"code": self.code, "message": self.message, **({"data": details} if details else {})}

    def _details(self) -> list[dict[str, Any]]:
        if reason := REASONS.get(self.code):
            return [{"@type": ERROR_INFO, "reason": reason, "domain": DOMAIN, "metadata": dict(self._metadata)}]
        if self._field is not None:
            return [{"@type": BAD_REQUEST, "fieldViolations": [{"field": self._field, "description": self.message}]}]
        return []


def task_not_found(task_id: str | UUID) -> A2AError:
    """The error for a task that does not exist, is another agent's, or that the caller may not see."""
    return A2AError(-32001, "Task not found", metadata={"taskId": str(task_id)[:100]})


def not_cancelable(task_id: UUID) -> A2AError:
    """The error for the cancel of a task that has ended."""
    return A2AError(-32002, "Task cannot be canceled: it has ended", metadata={"taskId": str(task_id)})


def unsupported(message: str, **metadata: str) -> A2AError:
    """The error for an operation that the agent, or the task in its state, does not support."""
    return A2AError(-32004, message, metadata=metadata)


def push_not_supported() -> A2AError:
    """The error for a method that needs push notifications."""
    return A2AError(-32003, "Push notifications are not supported")


def unsupported_content(media_type: str) -> A2AError:
    """The error for a media type that the agent's card does not name."""
    message = f"The media type {media_type[:100]!r} is not supported by this agent"
    return A2AError(-32005, message, metadata={"mediaType": media_type[:100]})


def invalid_params(field: str, description: str) -> A2AError:
    """The error for a field of the request that is missing or wrong."""
    return A2AError(INVALID_PARAMS, f"{field}: {description}", field=field)


def error_of_problem(problem: Problem) -> A2AError:
    """The JSON-RPC error that goes with a Problem."""
    # A2A has no statuses, so the code tells whose fault it is: of the parameters, the request or the server.
    if problem.status in {400, 422}:
        places = cast("Sequence[Mapping[str, Any]]", problem.fields.get("errors") or ())
        named = ".".join(str(part) for part in places[0]["loc"]) if places else problem.fields.get("field")
        return A2AError(INVALID_PARAMS, problem.detail, field=str(named) if named else "params")
    if problem.status == 415:
        return A2AError(-32005, problem.detail)
    return A2AError(INTERNAL_ERROR if problem.status >= 500 else INVALID_REQUEST, problem.detail)
