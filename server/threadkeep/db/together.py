"""Together: what many callers write at once leaves in one transaction after the other.

While a transaction is on its way, what comes meanwhile is gathered for the next. Each caller is woken when its own is
written. Where a transaction fails, its callers are tried one by one, so that what fails, fails alone.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import anyio

from threadkeep.db.outage import is_away

Item = TypeVar("Item")
Committed: TypeAlias = Callable[[int, float], None]
"""Told of each transaction: how many callers', and how many seconds."""


@dataclass(slots=True)
class _Waiter(Generic[Item]):
    item: Item
    done: anyio.Event = field(default_factory=anyio.Event)
    failure: BaseException | None = None
    gone: bool = False
    """Its caller was cancelled before it was sent."""


class Together(Generic[Item]):
    """The queue and its one writer. A transaction gets no more when its items' sizes come to `most`."""

    def __init__(
        self,
        write_all: Callable[[list[Item]], Awaitable[None]],
        *,
        size: Callable[[Item], int],
        most: int,
        committed: Committed = lambda _callers, _seconds: None,
    ) -> None:
        self._write_all = write_all
        self._size = size
        self._most = most
        self._committed = committed
        self._queue: list[_Waiter[Item]] = []
        self._filled = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator["Together[Item]"]:
        """Its writer runs until the block ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, name="write together")
            yield self
            tasks.cancel_scope.cancel()

    async def write(self, item: Item) -> None:
        """Write `item`; returns when it is committed, raises what Postgres says of it."""
        waiter = _Waiter(item)
        self._queue.append(waiter)
        self._filled.set()
        try:
            await waiter.done.wait()
        finally:
            waiter.gone = True
        if waiter.failure is not None:
            raise waiter.failure

    async def _run(self) -> None:
        """Write what is queued, until cancelled; a transaction that has begun is finished first."""
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            while batch := self._take():
                began = time.monotonic()
                with anyio.CancelScope(shield=True):
                    await self._write_together(batch)
                self._committed(len(batch), time.monotonic() - began)

    def _take(self) -> list[_Waiter[Item]]:
        batch: list[_Waiter[Item]] = []
        total = 0
        while self._queue and total < self._most:
            waiter = self._queue.pop(0)
            if not waiter.gone:
                batch.append(waiter)
                total += self._size(waiter.item)
        return batch

    async def _write_together(self, batch: list[_Waiter[Item]]) -> None:
        try:
            await self._write_all([waiter.item for waiter in batch])
        except Exception as failure:  # noqa: BLE001 - whatever it is goes to the one whose item it is
            if is_away(failure):
                for waiter in batch:
                    waiter.failure = failure
            elif len(batch) > 1:
                for waiter in batch:
                    await self._write_together([waiter])
                return
            else:
                batch[0].failure = failure
        for waiter in batch:
            waiter.done.set()
