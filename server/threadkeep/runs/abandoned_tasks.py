"""Stuck: graphs that are told to stop and do not, because a node swallows its cancellation.

A graph runs in a task of its own, which no task group owns: a group waits for its tasks, and nobody is to wait for
this one for ever. Whoever stops a run gives its graph some seconds; then it is left behind, logged and counted, and
the run is closed without it. What it goes on to write has lost its lease.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from threadkeep.base.flag import Flag

log = logging.getLogger(__name__)

TELLINGS = 3
"""How often a graph is told to stop within its grace: a node that retries swallows the first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a graph may run, and how long it may take to stop, in seconds."""

    timeout_s: float
    grace_s: float


class Stuck:
    """The graphs of this process that were left behind."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.total = 0
        """How many there have been."""

    @property
    def running(self) -> int:
        """How many still run."""
        return len(self._tasks)

    async def run(self, graph: Coroutine[Any, Any, None], over: Flag, limits: Limits, about: Mapping[str, str]) -> bool:
        """Run a graph until it ends, or `over` is set, or its time is: then stop it, or leave it behind.

        True where it came to its end; raises what it raised then. `about` is what a log tells of its run.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(graph, name=f"graph of run {about.get('run_id')}")
        task.add_done_callback(lambda _: over.set())
        late = loop.call_later(limits.timeout_s, over.set)
        await over.wait()
        late.cancel()
        if task.done():
            task.result()
            return True
        if not await _stop(task, limits.grace_s):
            self._leave(task, about)
        return False

    def _leave(self, task: "asyncio.Task[None]", about: Mapping[str, str]) -> None:
        self.total += 1
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        log.error("a graph does not stop: it was left behind", extra={**about, "stuck": self.running})

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        log.warning(
            "a graph that was left behind has ended",
            extra={"task": task.get_name(), "error": type(failure).__name__ if failure else None},
        )


async def _stop(task: "asyncio.Task[None]", grace_s: float) -> bool:
    """Tell a task to stop, several times; False where it goes on behind `grace_s`."""
    for _ in range(TELLINGS):
        task.cancel()
        done, _pending = await asyncio.wait([task], timeout=grace_s / TELLINGS)
        if done:
            _ = task.cancelled() or task.exception()  # it was told to end, so that how it did says nothing
            return True
    return False
