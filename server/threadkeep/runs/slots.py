"""Slots: how many graphs run at once in this process, and who waits for one.

A slot is held exactly while a graph runs. Waiters are served in the order they came; the line is bounded in length
and in time, and whoever finds it full is told at once.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from threadkeep.base.problems import Overloaded


class Slot:
    """One graph's place. Given back once, by whoever holds it last."""

    def __init__(self, limiter: anyio.CapacityLimiter, borrower: object | None = None) -> None:
        self._limiter = limiter
        self._borrower = borrower or self
        self._held = True

    def give_back(self) -> None:
        """Let the next in line run; a second call does nothing."""
        if self._held:
            self._held = False
            self._limiter.release_on_behalf_of(self._borrower)

    def passed_on(self) -> "Slot":
        """The same place in other hands: giving this one back does nothing any more."""
        other = Slot(self._limiter, borrower=self._borrower)
        self._held = False
        return other


class Slots:
    """The process's `anyio.CapacityLimiter`, with a bounded line before it."""

    def __init__(
        self, total: int, *, max_waiting: int, timeout_s: float, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        self._limiter = anyio.CapacityLimiter(total)
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._waited = waited
        """Told how long each request waited."""
        self._line = 0
        self.draining = False
        """The process is stopping."""

    @property
    def total(self) -> int:
        return int(self._limiter.total_tokens)

    @property
    def running(self) -> int:
        """Graphs that run now."""
        return self._limiter.borrowed_tokens

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._line

    def drain(self) -> None:
        """From here on nobody gets a slot: the process is stopping."""
        self.draining = True

    def refuse_if_full(self) -> None:
        """Overloaded where there is no place in the line, or the process is stopping."""
        if self.draining:
            raise Overloaded("the server is stopping")
        if self.running >= self.total and self.waiting >= self._max_waiting:
            raise Overloaded("every slot is taken and the line is full", retry_after_s=2)

    async def take(self, *, timeout_s: float | None = None) -> Slot:
        """A slot, after a wait of at most `timeout_s` (by default the line's own limit).

        Overloaded where the line is full, the wait was too long, or the process is stopping.
        """
        self.refuse_if_full()
        slot = Slot(self._limiter)
        if not self._line and self.running < self.total:
            self._limiter.acquire_on_behalf_of_nowait(slot)
            self._waited(0.0)
            return slot
        began = time.monotonic()
        with anyio.move_on_after(self._timeout_s if timeout_s is None else timeout_s):
            await self._stand_in_line(slot)
            self._waited(time.monotonic() - began)
            return slot
        raise Overloaded("no slot became free in time", retry_after_s=5)

    async def _stand_in_line(self, slot: Slot) -> None:
        self._line += 1
        try:
            await self._limiter.acquire_on_behalf_of(slot)
        finally:
            self._line -= 1

    @asynccontextmanager
    async def hold_patiently(self) -> AsyncGenerator[Slot]:
        """A slot, however long it takes: for the worker, whose runs wait in Postgres and not in the line."""
        slot = Slot(self._limiter)
        await self._stand_in_line(slot)
        try:
            yield slot
        finally:
            slot.give_back()

    @asynccontextmanager
    async def hold(self) -> AsyncGenerator[Slot]:
        """A slot for the length of a block, unless somebody gave it back before."""
        slot = await self.take()
        try:
            yield slot
        finally:
            slot.give_back()
