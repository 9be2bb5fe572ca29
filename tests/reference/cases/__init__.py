"""Cases: what is asked of both servers. A case is a function of a server; its own threads keep it apart from others."""

from collections.abc import Callable
from typing import TypeAlias

from recording import Server

from cases import assistants, crons, interrupts, lifecycle, multitask, runs, state, store, streams, system, threads

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
