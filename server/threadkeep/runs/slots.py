"""Slots: the limit of graphs that run at once in this process, and the admission queue (backpressure).

A slot is held exactly while a graph runs. Principals share the slots by the rules of `base/fair_limiter.py`. The queue
has a limit in length and in time. If it is full, a request is refused at once, which is backpressure.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from threadkeep.base.fair_limiter import ANONYMOUS, BACKGROUND, FairLimiter, Place
from threadkeep.base.problems import QueueFull


class Slot:
    """The slot of one graph. Its last owner releases it once."""

    def __init__(self, place: Place, limiter: FairLimiter) -> None:
        self._place: Place | None = place
        self._limiter = limiter
        self._holder = place.holder
        self._is_over = False
        self._waits = 0
        """The number of its own requests that the graph waits for."""
        self._resuming: anyio.Lock | None = None
        """Made by the first request of the graph that waits, because most graphs make none."""

    def release(self) -> None:
        """Release the slot for the next run. A second call does nothing."""
        # A request of the graph may still be waiting. It must not take the slot again.
        self._is_over = True
        self._release()

    def transfer(self) -> "Slot":
        """Return the same slot for another owner. Releasing this object then does nothing."""
        if self._place is None:
            raise RuntimeError("the slot was released")
        other, self._place = Slot(self._place, self._limiter), None
        return other

    def assign(self, holder: str) -> None:
        """Count the slot for the principal `holder`."""
        self._holder = holder
        if self._place is not None:
            self._place.assign(holder)

    async def for_child(self) -> "Slot":
        """A slot for a run that this slot's graph waits for: this slot, or the next free one if it is already lent."""
        if self._place is not None:
            return self.transfer()
        return Slot(await self._limiter.acquire_first(self._holder), self._limiter)

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[None]:
        """Release the slot while the graph waits for a run. Then take the next free one, ahead of the queue."""
        self._waits += 1
        self._release()
        try:
            yield
        finally:
            self._waits -= 1
            await self._resume()

    async def _resume(self) -> None:
        """Take a slot again if the graph waits for no other run."""
        self._resuming = self._resuming or anyio.Lock()
        async with self._resuming:  # of several requests that end at once, one takes the slot
            if self._waits or self._is_over or self._place is not None:
                return
            place = await self._limiter.acquire_first(self._holder)
            if self._waits or self._is_over:  # the graph waits again or was stopped meanwhile
                place.release()
            else:
                self._place = place

    def _release(self) -> None:
        if self._place is not None:
            self._place.release()
            self._place = None


class Slots:
    """The slots of this process. A `holder` is the identity of a principal. Without authentication there is only one."""

    def __init__(
        self, limiter: FairLimiter, *, timeout_s: float, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        """Create the slots. A wait lasts at most `timeout_s`. `waited` is called with the seconds of each wait."""
        self._limiter = limiter
        self._timeout_s = timeout_s
        self._waited = waited
        self.draining = False
        """The process is stopping."""

    @property
    def total(self) -> int:
        """The number of graphs that may run at once. 0 if this process runs no graphs."""
        return self._limiter.total

    @property
    def running(self) -> int:
        """The number of graphs that run now."""
        return self._limiter.taken

    @property
    def queue_length(self) -> int:
        """The number of requests in the queue."""
        return self._limiter.waiting

    def drain(self) -> None:
        """Give no more slots, because the process is stopping."""
        self.draining = True

    def is_free(self, holder: str = ANONYMOUS) -> bool:
        """Whether `holder` gets a slot without waiting."""
        return not self.draining and self._limiter.may_take_now(holder)

    def held_back(self) -> list[str]:
        """The holders that may not get the slot that the worker holds."""
        return self._limiter.held_back()

    def tell_of_release(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the next slot is released."""
        self._limiter.tell_of_release(callback)

    def check_capacity(self, holder: str = ANONYMOUS) -> None:
        """QueueFull if the queue has no room for `holder`, or the process is stopping."""
        if self.draining:
            raise QueueFull("the server is stopping")
        if self.total:  # without slots, runs wait in Postgres, whose queue has its own limit
            self._limiter.refuse_if_full(holder)

    async def acquire(self, holder: str = ANONYMOUS, *, timeout_s: float | None = None) -> Slot:
        """Take a slot after a wait of at most `timeout_s` seconds (default: the queue's limit).

        QueueFull if the queue is full, the wait was too long, or the process is stopping.
        """
        self.check_capacity(holder)
        if self._limiter.may_take_now(holder):
            slot = Slot(await self._limiter.acquire(holder), self._limiter)
            self._waited(0.0)
            return slot
        began = time.monotonic()
        with anyio.move_on_after(self._timeout_s if timeout_s is None else timeout_s):
            slot = Slot(await self._limiter.acquire(holder), self._limiter)
            self._waited(time.monotonic() - began)
            return slot
        raise QueueFull("no slot became free in time", retry_after_s=5)

    async def take_for(self, holder: str, parent: Slot | None) -> Slot:
        """Take a slot for a client's request, or for a request of the graph that holds the slot `parent` and waits."""
        return await self.acquire(holder) if parent is None else await parent.for_child()

    @asynccontextmanager
    async def acquire_unbounded(self) -> AsyncGenerator[Slot]:
        """Take a slot without a time limit, for the worker. Its runs wait in Postgres and not in this queue."""
        slot = Slot(await self._limiter.acquire(BACKGROUND), self._limiter)
        try:
            yield slot
        finally:
            slot.release()

    @asynccontextmanager
    async def slot(self, holder: str = ANONYMOUS, parent: Slot | None = None) -> AsyncGenerator[Slot]:
        """Take a slot until the block ends or the slot is released. See `take_for`."""
        slot = await self.take_for(holder, parent)
        try:
            yield slot
        finally:
            slot.release()
