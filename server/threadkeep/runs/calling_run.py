"""Calling run: the run whose graph calls this server from within, by an SDK client without an address.

The client's call has no room for who calls. So the run is known by a context variable, which only the transport of such
calls reads (`api/loopback.py`). From there on it is a part of the request.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threadkeep.runs.execution import Execution
from threadkeep.runs.slots import Slot

CALLING_RUN: Final = "threadkeep.calling_run"
"""The key of a request's scope under which the run is found that makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingRun:
    """What a request from within takes over from its run."""

    user: Mapping[str, Any] | None
    """The run's user. None if authentication is off."""
    slot: Slot
    threads: frozenset[UUID]
    """The threads of the run and of the runs that wait for it: busy until it ends."""


_calling: ContextVar[CallingRun | None] = ContextVar("calling_run", default=None)


def current() -> CallingRun | None:
    """The run in whose graph this code is executed. None outside of graphs."""
    return _calling.get()


def enter(execution: Execution, slot: Slot) -> None:
    """From here on this task, and those that it starts, are of the run. The context may hold the run that started it."""
    above = _calling.get()
    threads = {execution.thread_id} if above is None else {execution.thread_id, *above.threads}
    _calling.set(CallingRun(user=execution.user, slot=slot, threads=frozenset(threads)))
