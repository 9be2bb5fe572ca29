"""Measure: what is counted and traced of a run, around its execution."""

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import LiveRun
from threadkeep.runs.graph_call import Job
from threadkeep.runs.slots import Slot

Execute = Callable[[Engine, Job, LiveRun, Slot], Awaitable[None]]


async def measured(execute: Execute, engine: Engine, job: Job, live: LiveRun, slot: Slot) -> None:
    """`execute` the run, and count how it ended."""
    began = time.monotonic()
    tracing = engine.tracing
    with nullcontext() if tracing is None else tracing.run(job.about, lambda: _outcome(live)):
        try:
            await execute(engine, job, live, slot)
        finally:
            if counted := engine.metrics.of_graph(job.graph_id):
                first_s = None if live.first_at is None else live.first_at - began
                counted.ended(_outcome(live), time.monotonic() - began, first_s)
            engine.metrics.events.inc(live.last - live.events_before)


def _outcome(live: LiveRun) -> str:
    return live.outcome.status if live.outcome else "lost"
