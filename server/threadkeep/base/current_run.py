"""Current run: the run whose graph executes this code, in a context variable.

A graph calls the store, and this server by an SDK client without an address. Neither call has an argument for the run.
"""

from contextvars import ContextVar
from typing import Final

_current: Final[ContextVar[object | None]] = ContextVar("current_run", default=None)


def enter(run: object) -> None:
    """Make `run` the current run of this task and of the tasks that it starts."""
    _current.set(run)


def current() -> object | None:
    """The run that was entered (`runs/calling_run.py` has its type). None outside of graphs."""
    return _current.get()
