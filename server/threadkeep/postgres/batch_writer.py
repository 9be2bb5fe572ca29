"""Together: what many callers write at once leaves in one transaction after the other.

While a transaction is on its way, what comes meanwhile is gathered for the next, by turns of those for whom it is
written. Each caller is woken when its own is written; what nobody waits for yet waits a little for more. Where a
transaction fails, its callers are tried one by one, so that what fails, fails alone, and what conflicts with another
transaction keeps no other waiting.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from threadkeep.base.fair_limiter import ANONYMOUS, RoundRobinQueue
from threadkeep.base.flag import OneShotEvent
from threadkeep.postgres.retry import is_conflict, is_transient

Item = TypeVar("Item")
Result = TypeVar("Result")
OnCommit: TypeAlias = Callable[[int, float], None]
"""Told of each transaction: how many callers', and how many seconds."""
LINGER_S = 0.005
"""How long what nobody waits for waits for more."""


class PendingWrite(Generic[Item, Result]):
    """An item that was handed in, and what became of it."""

    __slots__ = ("_done", "_result", "_want", "cancelled", "error", "item")

    def __init__(self, item: Item, want: Callable[[], None]) -> None:
        self.item = item
        self._want = want
        """Says that somebody waits."""
        self.error: Exception | None = None
        """What Postgres said of it, when `done`."""
        self.cancelled = False
        """Its caller was cancelled before it was sent."""
        self._result: Any = None
        self._done = OneShotEvent()

    @property
    def done(self) -> bool:
        """It is written, or could not be."""
        return self._done.is_set()

    async def result(self) -> Result:
        """What came of it, when it is committed; raises what Postgres says of it."""
        await self.wait()
        if self.error is not None:
            raise self.error
        return self._result

    def expedite(self) -> None:
        """Have it written as if somebody waited for it."""
        self._want()

    async def wait(self) -> None:
        """Wait until it is written, or could not be."""
        if not self.done:
            self._want()
            await self._done.wait()

    def set_result(self, result: Result | None, failure: Exception | None = None) -> None:
        """Wake who waits for it."""
        self._result, self.error = result, failure
        self._done.set()


class BatchWriter(Generic[Item, Result]):
    """The queue and its one writer. A transaction gets no more when its items' sizes come to `most`.

    The queue is served round robin over holders, first in, first out within one.
    """

    def __init__(
        self,
        write_all: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        size: Callable[[Item], int],
        most: int,
        committed: OnCommit = lambda _callers, _seconds: None,
    ) -> None:
        self._write_all = write_all
        """Gives what came of each item, in their order."""
        self._size = size
        self._most = most
        self._committed = committed
        self._queue = RoundRobinQueue[PendingWrite[Item, Result]]()
        self._batch: Sequence[PendingWrite[Item, Result]] = ()
        """What is on its way."""
        self._filled = anyio.Event()
        """There is something in the queue."""
        self._wanted = anyio.Event()
        """And somebody waits for it."""

    @asynccontextmanager
    async def run(self) -> AsyncGenerator["BatchWriter[Item, Result]"]:
        """Its writer runs until the block ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, name="write together")
            yield self
            tasks.cancel_scope.cancel()

    def submit(self, item: Item, holder: str = ANONYMOUS) -> PendingWrite[Item, Result]:
        """Hand `item` in: it is written behind all that was handed in before for `holder`, whoever waits for it."""
        handed = PendingWrite[Item, Result](item, self._want)
        self._queue.append(holder, handed)
        self._filled.set()
        return handed

    async def write(self, item: Item, holder: str = ANONYMOUS) -> Result:
        """Write `item`; what came of it, when it is committed. Raises what Postgres says of it."""
        handed = self.submit(item, holder)
        try:
            return await handed.result()
        finally:
            handed.cancelled = True

    async def drain(self) -> None:
        """Wait until what was handed in so far has been written, or could not be."""
        for handed in (*self._batch, *self._queue.newest()):
            await handed.wait()

    async def _run(self) -> None:
        """Write what is queued, until cancelled; a transaction that has begun is finished first."""
        while True:
            await self._filled.wait()
            if not self._wanted.is_set():
                with anyio.move_on_after(LINGER_S):
                    await self._wanted.wait()
            if batch := self._take():
                began = time.monotonic()
                with anyio.CancelScope(shield=True):
                    await self._write_together(batch)
                self._batch = ()
                self._committed(len(batch), time.monotonic() - began)

    def _want(self) -> None:
        self._wanted.set()

    def _take(self) -> list[PendingWrite[Item, Result]]:
        """What goes into the next transaction; the events then tell of what is left."""
        self._batch = batch = list[PendingWrite[Item, Result]]()
        total = 0
        while self._queue and total < self._most:
            handed = self._queue.pop()
            if handed.cancelled:
                handed.set_result(None)
                continue
            batch.append(handed)
            total += self._size(handed.item)
        if not self._queue:
            self._filled, self._wanted = anyio.Event(), anyio.Event()
        return batch

    async def _write_together(self, batch: list[PendingWrite[Item, Result]]) -> None:
        try:
            results = await self._write_all([handed.item for handed in batch])
        except Exception as failure:  # noqa: BLE001 - whatever it is goes to the one whose item it is
            if len(batch) > 1 and (is_conflict(failure) or not is_transient(failure)):
                for handed in batch:
                    await self._write_together([handed])
                return
            for handed in batch:
                handed.set_result(None, failure)
            return
        for handed, result in zip(batch, results, strict=True):
            handed.set_result(result)
