"""Batch writer: puts the writes of many callers into one transaction.

While a transaction is running, new writes are collected for the next one, round robin over their holders. Each caller is
woken when its own write is committed. Writes that no caller waits for linger for a short time. If a transaction fails,
each write is retried alone. So one failure or conflict does not affect other callers.
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
"""Called after each transaction with the number of callers and the seconds."""
LINGER_S = 0.005
"""Seconds that a batch waits for more writes if no caller waits."""


class PendingWrite(Generic[Item, Result]):
    """A submitted item, and later its result."""

    __slots__ = ("_done", "_result", "_want", "cancelled", "error", "item")

    def __init__(self, item: Item, want: Callable[[], None]) -> None:
        self.item = item
        self._want = want
        """Tells the writer that a caller waits."""
        self.error: Exception | None = None
        """The error of the write, if it has failed."""
        self.cancelled = False
        """Its caller was cancelled before it was sent."""
        self._result: Any = None
        self._done = OneShotEvent()

    @property
    def done(self) -> bool:
        """It is committed or has failed."""
        return self._done.is_set()

    async def result(self) -> Result:
        """Wait until it is committed, and return its result. Raises its error."""
        await self.wait()
        if self.error is not None:
            raise self.error
        return self._result

    def expedite(self) -> None:
        """Write it at once, as if a caller waited for it."""
        self._want()

    async def wait(self) -> None:
        """Wait until it is committed or has failed."""
        if not self.done:
            self._want()
            await self._done.wait()

    def set_result(self, result: Result | None, failure: Exception | None = None) -> None:
        """Set the result and wake the waiting caller."""
        self._result, self.error = result, failure
        self._done.set()


class BatchWriter(Generic[Item, Result]):
    """A queue with one writer. A transaction is full when the sizes of its items reach `most`.

    The queue is served round robin over holders, and first in, first out for each holder.
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
        """Writes a batch and returns the results in order."""
        self._size = size
        self._most = most
        self._committed = committed
        self._queue = RoundRobinQueue[PendingWrite[Item, Result]]()
        self._batch: Sequence[PendingWrite[Item, Result]] = ()
        """The batch that is being written."""
        self._filled = OneShotEvent()
        """Set if the queue is not empty."""
        self._caller_waits = OneShotEvent()
        """Set if a caller waits for an item of the queue."""

    @asynccontextmanager
    async def run(self) -> AsyncGenerator["BatchWriter[Item, Result]"]:
        """Run the writer until the block ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, name="write together")
            yield self
            tasks.cancel_scope.cancel()

    def submit(self, item: Item, holder: str = ANONYMOUS) -> PendingWrite[Item, Result]:
        """Submit `item`. It is written after all earlier items of `holder`."""
        # `PendingWrite[Item, Result](...)` would cost more than the object, because `typing` makes the call in Python.
        pending: PendingWrite[Item, Result] = PendingWrite(item, self._want)
        self._queue.append(holder, pending)
        self._filled.set()
        return pending

    async def write(self, item: Item, holder: str = ANONYMOUS) -> Result:
        """Write `item`, wait for the commit, and return its result. Raises its error."""
        pending = self.submit(item, holder)
        try:
            return await pending.result()
        finally:
            # It has no effect on a write that was already sent.
            pending.cancelled = True

    async def drain(self) -> None:
        """Wait until all items so far are committed or have failed."""
        for pending in (*self._batch, *self._queue.newest()):
            await pending.wait()

    async def _run(self) -> None:
        """Write the queue until cancelled. A running transaction is finished first."""
        while True:
            await self._filled.wait()
            await self._caller_waits.wait(LINGER_S)
            if batch := self._take():
                began = time.monotonic()
                # Postgres may already have committed. Only the end of the call tells which result the callers get.
                with anyio.CancelScope(shield=True):
                    await self._write_batch(batch)
                self._batch = ()
                self._committed(len(batch), time.monotonic() - began)

    def _want(self) -> None:
        self._caller_waits.set()

    def _take(self) -> list[PendingWrite[Item, Result]]:
        """Take the next batch from the queue, and update the events."""
        batch: list[PendingWrite[Item, Result]] = []
        self._batch = batch
        total = 0
        while self._queue and total < self._most:
            pending = self._queue.pop()
            # It was not sent, and its caller no longer waits. So it need not be written.
            if pending.cancelled:
                pending.set_result(None)
                continue
            batch.append(pending)
            total += self._size(pending.item)
        if not self._queue:
            # Such an event can't be cleared, so each round needs new ones.
            self._filled, self._caller_waits = OneShotEvent(), OneShotEvent()
        return batch

    async def _write_batch(self, batch: list[PendingWrite[Item, Result]]) -> None:
        try:
            results = await self._write_all([pending.item for pending in batch])
        except Exception as failure:  # noqa: BLE001 - the caller of the item gets the error
            # If Postgres is unavailable, single writes would fail too.
            if len(batch) > 1 and (is_conflict(failure) or not is_transient(failure)):
                for pending in batch:
                    await self._write_batch([pending])
                return
            for pending in batch:
                pending.set_result(None, failure)
            return
        for pending, result in zip(batch, results, strict=True):
            pending.set_result(result)
