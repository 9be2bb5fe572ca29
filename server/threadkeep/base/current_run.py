"""Current run: a context variable with the run whose graph executes the code.

A graph calls the store, and this server through an SDK client without a URL. Neither call has an argument for the run.
"""

from contextvars import ContextVar
from typing import Final

_current: Final[ContextVar[object | None]] = ContextVar("current_run", default=None)


def enter(run: object) -> None:
    """Make `run` the current run of this task and of the tasks that it starts."""
    # Nothing resets it, because each run has a task of its own, and the value ends with the task.
    _current.set(run)


def current() -> object | None:
    """Return the current run (its type is in `runs/calling_run.py`), or None outside of graphs."""
    return _current.get()
