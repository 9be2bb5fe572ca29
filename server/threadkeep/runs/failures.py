"""Failures: what the owner of a run is told about an exception of its graph.

As on the reference, ordinary Python and LangGraph errors keep their words, which are the graph author's own; of any
other only the class is told, for its text may hold what the client must not see. Never a trace.
"""

from threadkeep.base.problems import Problem

TOLD = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    RecursionError,
    TimeoutError,
    Problem,
)
HIDDEN = "An internal error occurred"
MAX_MESSAGE = 10_000
"""Characters of a message that are told."""


def describe(failure: BaseException, *, expose: bool = False, request_id: str | None = None) -> dict[str, str]:
    """`{"error": class, "message": text}` of an exception; of one whose text is not told, the `request_id` to ask by."""
    told = expose or isinstance(failure, TOLD) or type(failure).__module__ == "langgraph.errors"
    described = {"error": type(failure).__name__, "message": _text(failure) if told else HIDDEN}
    return described if told or request_id is None else described | {"request_id": request_id}


def _text(failure: BaseException) -> str:
    try:
        return str(failure)[:MAX_MESSAGE]
    except Exception:  # noqa: BLE001 - `__str__` is the graph author's code
        return HIDDEN
