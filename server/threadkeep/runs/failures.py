"""Failures: the error report that a client gets for an exception of a graph.

As on the reference server, ordinary Python and LangGraph errors keep their text, because the graph author wrote it. Other
exceptions show only their class, because their text may contain secrets. An exception group reports each of its
exceptions by the same rule. A report never contains a traceback.
"""

from collections.abc import Iterator
from itertools import islice
from typing import cast

from threadkeep.base.problems import Problem

EXPOSED_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    RecursionError,
    TimeoutError,
    Problem,
)
INTERNAL_ERROR_MESSAGE = "An internal error occurred"
MAX_MESSAGE = 10_000
"""The most characters in a reported message."""
MAX_INNER = 10
"""The most exceptions reported for a group."""


def error_report(failure: BaseException, *, expose: bool = False, request_id: str | None = None) -> dict[str, str]:
    """Return `{"error": class, "message": text}` for an exception. If the text is hidden, add the `request_id`."""
    if isinstance(failure, BaseExceptionGroup):
        return _group(cast("BaseExceptionGroup[BaseException]", failure), expose=expose, request_id=request_id)
    is_exposed = expose or isinstance(failure, EXPOSED_ERRORS) or type(failure).__module__ == "langgraph.errors"
    report = {"error": type(failure).__name__, "message": _text(failure) if is_exposed else INTERNAL_ERROR_MESSAGE}
    return report if is_exposed or request_id is None else report | {"request_id": request_id}


def _group(group: BaseExceptionGroup[BaseException], *, expose: bool, request_id: str | None) -> dict[str, str]:
    """Report the inner exceptions, also of nested groups. `TaskGroup`s of asyncio and anyio, and MCP clients, raise groups."""
    reports = [
        error_report(failure, expose=expose, request_id=request_id) for failure in islice(_leaves(group), MAX_INNER)
    ]
    message = "; ".join(f"{report['error']}: {report['message']}" for report in reports)
    group_report = {"error": type(group).__name__, "message": message[:MAX_MESSAGE]}
    return group_report | {key: value for report in reports for key, value in report.items() if key == "request_id"}


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield the exceptions of a group without recursion, because groups may be nested very deeply."""
    pending: list[BaseException] = [group]
    while pending:
        failure = pending.pop()
        if isinstance(failure, BaseExceptionGroup):
            # Reversed, because the last one is taken next, and the order of the group must stay.
            pending.extend(reversed(cast("BaseExceptionGroup[BaseException]", failure).exceptions))
        else:
            yield failure


def _text(failure: BaseException) -> str:
    try:
        return str(failure)[:MAX_MESSAGE]
    except Exception:  # noqa: BLE001 - `__str__` is the graph author's code
        return INTERNAL_ERROR_MESSAGE
