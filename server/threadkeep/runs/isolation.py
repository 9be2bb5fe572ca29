"""Contain: whatever a graph raises ends its own run, and neither the server nor the event loop.

A task that ends by SystemExit or KeyboardInterrupt stops asyncio's event loop, and LangGraph runs nodes as tasks of
their own. So tasks that are made while a graph runs are wrapped, by a task factory: what they raise beyond Exception
becomes an ordinary exception.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio

Result = TypeVar("Result")

_inside: ContextVar[bool] = ContextVar("inside_a_graph", default=False)


class Escaped(RuntimeError):
    """A graph raised what is no ordinary exception, which must not travel on through the server."""


@contextmanager
def containing() -> Generator[None]:
    """While the block runs, wrap the tasks that graphs make in this event loop."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(_make_task)
    try:
        yield
    finally:
        loop.set_task_factory(before)


async def contained(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a graph, or what else calls its code: Exception and our own cancellation come through, all else as Escaped."""
    token = _inside.set(True)
    try:
        return await work()
    except anyio.get_cancelled_exc_class():
        if anyio.current_effective_deadline() == -math.inf:
            raise
        raise Escaped("a node of the graph cancelled itself") from None
    except Exception:
        raise
    except BaseException as failure:
        raise _escaped(failure) from failure
    finally:
        _inside.reset(token)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    if not _inside.get():
        return asyncio.Task(coroutine, loop=loop, **options)
    task = asyncio.Task(_wrapped(coroutine), loop=loop, **options)
    task.add_done_callback(lambda _: coroutine.close())  # cancelled before its first step, it was never begun
    return task


async def _wrapped(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as failure:
        raise _escaped(failure) from failure


def _escaped(failure: BaseException) -> Escaped:
    return Escaped(f"a node of the graph raised {type(failure).__name__}")
