"""Cases: what is asked of both servers. A case is a function of a server; its own threads keep it apart from others."""

from collections.abc import Callable
from typing import TypeAlias

from cases import assistants, crons, interrupts, lifecycle, multitask, runs, state, store, streams, system, threads
from recording import Server

Case: TypeAlias = Callable[[Server], None]

ALONE: tuple[Case, ...] = (lifecycle.cancel_all,)
"""Cases that reach what other cases made."""
CASES: tuple[Case, ...] = (
    *system.CASES,
    *assistants.CASES,
    *threads.CASES,
    *state.CASES,
    *streams.CASES,
    *runs.CASES,
    *interrupts.CASES,
    *multitask.CASES,
    *lifecycle.CASES,
    *crons.CASES,
    *store.CASES,
    *ALONE,
)
NOWHERE = "00000000-0000-4000-8000-000000000000"
"""An id that nothing has."""
