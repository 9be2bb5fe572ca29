"""Calling run: the run whose graph calls this server in its own process, by an SDK client without a URL.

The client's call has no argument for its run. So the transport of such calls (`api/loopback.py`) reads the run from the
context variable of `base/current_run.py` and puts it into the scope of the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threadkeep.base import current_run
from threadkeep.runs.slots import Slot

CALLING_RUN: Final = "threadkeep.calling_run"
"""The key in a request's scope that holds the run that sent the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingRun:
    """The values that a request from a graph inherits from its run."""

    user: Mapping[str, Any] | None
    """The run's user. None if authentication is off."""
    slot: Slot
    threads: frozenset[UUID]
    """The threads of the run and of the runs that wait for it. They are busy until it ends."""


def current() -> CallingRun | None:
    """The run whose graph executes this code. None outside of graphs."""
    run = current_run.current()
    return run if isinstance(run, CallingRun) else None
