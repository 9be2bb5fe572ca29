"""Calling run: the run whose graph calls this server from within, by an SDK client without an address.

The client's call has no argument for its run. So the transport of such calls (`api/loopback.py`) reads the context
variable of `base/current_run.py`. From there on the run is a part of the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threadkeep.base import current_run
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


def current() -> CallingRun | None:
    """The run in whose graph this code is executed. None outside of graphs."""
    run = current_run.current()
    return run if isinstance(run, CallingRun) else None
