"""Slots: how many graphs run at once in this process, and the queue of those that wait for one.

A slot is held exactly while a graph runs. Principals share the slots by the rules of `base/fair_limiter.py`. The queue
is bounded in length and in time, and a request that finds it full is told at once.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from threadkeep.base.fair_limiter import ANONYMOUS, BACKGROUND, FairLimiter, Place
from threadkeep.base.problems import QueueFull


class Slot:
    """The slot of one graph. It is given back once, by its last owner."""

    def __init__(self, place: Place, limiter: FairLimiter) -> None:
        self._place: Place | None = place
        self._limiter = limiter
        self._holder = place.holder
        self._is_over = False
        self._waits = 0
        """Requests of the graph's for which it waits."""
        self._going_on = anyio.Lock()

    def release(self) -> None:
        """Let the next one run. A second call does nothing."""
        self._is_over = True
        self._release()

    def transfer(self) -> "Slot":
        """The same slot for another owner: giving this one back does nothing any more."""
        if self._place is None:
            raise RuntimeError("the slot was given back")
        other, self._place = Slot(self._place, self._limiter), None
        return other

    def assign(self, holder: str) -> None:
        """Count the slot as the holder's whose run it is for."""
        self._holder = holder
        if self._place is not None:
            self._place.assign(holder)

    async def for_child(self) -> "Slot":
        """A slot for a run that the graph of this one waits for: this one, or, if it is lent, the next that is free."""
        if self._place is not None:
            return self.transfer()
        return Slot(await self._limiter.acquire_first(self._holder), self._limiter)

    @asynccontextmanager
    async def aside(self) -> AsyncGenerator[None]:
        """Let others run while the graph waits for a run. It goes on when it has a slot again, before all who wait."""
        self._waits += 1
        self._release()
        try:
            yield
        finally:
            self._waits -= 1
            await self._go_on()

    async def _go_on(self) -> None:
        """Take a place again, if the graph waits for nothing any more."""
        async with self._going_on:  # of several that end at once, one takes it
            if self._waits or self._is_over or self._place is not None:
                return
            place = await self._limiter.acquire_first(self._holder)
            if self._waits or self._is_over:  # it waits again, or was stopped, meanwhile
                place.release()
            else:
                self._place = place

    def _release(self) -> None:
        if self._place is not None:
            self._place.release()
            self._place = None


class Slots:
    """The slots of this process. A `holder` is the identity of a principal; without authentication there is one."""

    def __init__(
        self, limiter: FairLimiter, *, timeout_s: float, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        """`timeout_s` bounds a wait. `waited` is told how long each request waited."""
        self._limiter = limiter
        self._timeout_s = timeout_s
        self._waited = waited
        self.draining = False
        """The process is stopping."""

    @property
    def total(self) -> int:
        """The graphs that may run at once."""
        return self._limiter.total

    @property
    def running(self) -> int:
        """The graphs that run now."""
        return self._limiter.taken

    @property
    def queue_length(self) -> int:
        """The requests in the queue."""
        return self._limiter.waiting

    def drain(self) -> None:
        """Give no slot from here on: the process is stopping."""
        self.draining = True

    def is_free(self, holder: str = ANONYMOUS) -> bool:
        """Whether `holder` gets a slot without waiting."""
        return not self.draining and self._limiter.may_take_now(holder)

    def held_back(self) -> list[str]:
        """The holders that may not get the slot which the worker holds."""
        return self._limiter.held_back()

    def tell_of_release(self, told: Callable[[], None]) -> None:
        """Call `told` when the next slot is given back, once."""
        self._limiter.tell_of_release(told)

    def check_capacity(self, holder: str = ANONYMOUS) -> None:
        """Overloaded if the queue has no room for `holder`, or the process is stopping."""
        if self.draining:
            raise QueueFull("the server is stopping")
        self._limiter.refuse_if_full(holder)

    async def acquire(self, holder: str = ANONYMOUS, *, timeout_s: float | None = None) -> Slot:
        """A slot, after a wait of at most `timeout_s` seconds (by default the queue's own limit).

        Overloaded if the queue is full, the wait was too long, or the process is stopping.
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
        """A slot for a request from outside, or for one of a graph, which has the slot `parent` and waits meanwhile."""
        return await self.acquire(holder) if parent is None else await parent.for_child()

    @asynccontextmanager
    async def acquire_unbounded(self) -> AsyncGenerator[Slot]:
        """A slot, however long it takes: for the worker, whose runs wait in Postgres and not in this queue."""
        slot = Slot(await self._limiter.acquire(BACKGROUND), self._limiter)
        try:
            yield slot
        finally:
            slot.release()

    @asynccontextmanager
    async def slot(self, holder: str = ANONYMOUS, parent: Slot | None = None) -> AsyncGenerator[Slot]:
        """A slot for the length of a block, unless it is given back before. See `take_for`."""
        slot = await self.take_for(holder, parent)
        try:
            yield slot
        finally:
            slot.release()
