"""Isolation: a failure of a graph ends its own run, but not the server or the event loop.

A task that ends with SystemExit or KeyboardInterrupt stops asyncio's event loop, and LangGraph runs each node in a task.
So a task factory wraps the tasks that a graph creates. It turns any exception that is not an Exception into one.

A node may also swallow its cancellation. So a graph runs in a task that no task group owns, because a group would wait
for it without a limit. If a graph does not stop within its grace period, its task is abandoned, logged and counted, and
its run ends without it. Fencing refuses later writes of the task.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio

from threadkeep.base.flag import OneShotEvent

log = logging.getLogger(__name__)

CANCELS = 3
"""Cancellations of a graph within its grace period. A node that retries swallows the first one."""

Result = TypeVar("Result")

_inside: ContextVar[bool] = ContextVar("inside_a_graph", default=False)


class GraphEscape(RuntimeError):
    """A graph raised something that is not an Exception. It must not reach the server's own tasks."""


@contextmanager
def isolate_tasks() -> Generator[None]:
    """Wrap the tasks that graphs create in this event loop while the block runs."""
    loop = asyncio.get_running_loop()
    previous_factory = loop.get_task_factory()
    loop.set_task_factory(_make_task)
    try:
        yield
    finally:
        loop.set_task_factory(previous_factory)


async def isolate(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a graph, or other work that calls its code.

    Exceptions and the server's own cancellation pass unchanged. Everything else raises GraphEscape.
    """
    token = _inside.set(True)
    try:
        return await work()
    except anyio.get_cancelled_exc_class():
        # A cancelled scope of the server has this deadline. Otherwise code of the graph has raised the exception.
        if anyio.current_effective_deadline() == -math.inf:
            raise
        raise GraphEscape("a node of the graph cancelled itself") from None
    except Exception:
        raise
    except BaseException as failure:
        raise _escaped(failure) from failure
    finally:
        _inside.reset(token)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    # The class itself, because `create_task` would call this factory again.
    if not _inside.get():
        return asyncio.Task(coroutine, loop=loop, **options)
    task = asyncio.Task(_wrapped(coroutine), loop=loop, **options)
    task.add_done_callback(
        lambda _: coroutine.close()
    )  # a task that is cancelled before its first step never starts it
    return task


async def _wrapped(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as failure:
        raise _escaped(failure) from failure


def _escaped(failure: BaseException) -> GraphEscape:
    return GraphEscape(f"a node of the graph raised {type(failure).__name__}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a graph may run, and seconds that it may take to stop."""

    timeout_s: float
    grace_s: float


class AbandonedTasks:
    """Runs graphs in tasks, and counts the tasks that did not stop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.total = 0
        """The number of abandoned tasks since the start."""

    @property
    def running(self) -> int:
        """The number of abandoned tasks that still run."""
        return len(self._tasks)

    async def run(
        self, graph: Coroutine[Any, Any, None], stop: OneShotEvent, limits: Limits, ids: Mapping[str, str]
    ) -> bool:
        """Run a graph until it ends, `stop` is set, or it times out. Then stop it, or abandon its task.

        True if it ended by itself. Raises the graph's exception. `ids` are for the log.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(graph, name=f"graph of run {ids.get('run_id')}")
        # One event for all ends: the graph's own end, a cancel, and the time limit.
        task.add_done_callback(lambda _: stop.set())
        timeout = loop.call_later(limits.timeout_s, stop.set)
        await stop.wait()
        timeout.cancel()
        if task.done():
            task.result()
            return True
        if not await _cancelled(task, limits.grace_s):
            self._abandon(task, ids)
        return False

    def _abandon(self, task: "asyncio.Task[None]", ids: Mapping[str, str]) -> None:
        self.total += 1
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, ids))
        log.error("graph does not stop: its task was abandoned", extra={**ids, "abandoned_tasks": self.running})

    def _ended(self, ids: Mapping[str, str], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        log.warning(
            "an abandoned task has ended",
            extra={**ids, "error_type": type(failure).__name__ if failure else None},
        )


async def _cancelled(task: "asyncio.Task[None]", grace_s: float) -> bool:
    """Cancel a task several times. False if it still runs after `grace_s` seconds."""
    # A node may swallow one cancellation, for example in an `except` around its request.
    for _ in range(CANCELS):
        task.cancel()
        ended, _pending = await asyncio.wait([task], timeout=grace_s / CANCELS)
        if ended:
            _ = task.cancelled() or task.exception()  # mark it as retrieved: it only results from the cancellation
            return True
    return False
