"""Failures: what the owner of a run is told about an exception of its graph.

As on the reference, ordinary Python and LangGraph errors keep their words, which are the graph author's own; of any
other only the class is told, for its text may hold what the client must not see. An exception group tells each of its
exceptions by the same rule. Never a trace.
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
"""Characters of a message that are told."""
MAX_INNER = 10
"""Exceptions of a group that are told."""


def error_report(failure: BaseException, *, expose: bool = False, request_id: str | None = None) -> dict[str, str]:
    """`{"error": class, "message": text}` of an exception; of one whose text is not told, the `request_id` to ask by."""
    if isinstance(failure, BaseExceptionGroup):
        return _group(cast("BaseExceptionGroup[BaseException]", failure), expose=expose, request_id=request_id)
    told = expose or isinstance(failure, EXPOSED_ERRORS) or type(failure).__module__ == "langgraph.errors"
    described = {"error": type(failure).__name__, "message": _text(failure) if told else INTERNAL_ERROR_MESSAGE}
    return described if told or request_id is None else described | {"request_id": request_id}


def _group(group: BaseExceptionGroup[BaseException], *, expose: bool, request_id: str | None) -> dict[str, str]:
    """The inner exceptions, of nested groups too. `TaskGroup`s of asyncio and anyio, and MCP clients, raise such groups."""
    inner = [error_report(each, expose=expose, request_id=request_id) for each in islice(_leaves(group), MAX_INNER)]
    message = "; ".join(f"{each['error']}: {each['message']}" for each in inner)
    described = {"error": type(group).__name__, "message": message[:MAX_MESSAGE]}
    return described | {key: value for each in inner for key, value in each.items() if key == "request_id"}


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Without recursion: a group may be nested as deeply as its author likes."""
    pending: list[BaseException] = [group]
    while pending:
        failure = pending.pop()
        if isinstance(failure, BaseExceptionGroup):
            pending.extend(reversed(cast("BaseExceptionGroup[BaseException]", failure).exceptions))
        else:
            yield failure


def _text(failure: BaseException) -> str:
    try:
        return str(failure)[:MAX_MESSAGE]
    except Exception:  # noqa: BLE001 - `__str__` is the graph author's code
        return INTERNAL_ERROR_MESSAGE
