"""Fair limiter: a bounded number of places that principals share.

Waiters are served round robin over principals, and first in, first out within one. A principal that holds a place gets a
further one only if it then holds no more than a multiple of those that stay free (dynamic thresholds, Choudhury and Hahne
1998). So one alone leaves `reserve` places free, and the next one leaves some of these: a newcomer, who holds none, finds
a place although the others' are held for long.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar, cast

import anyio

from threadkeep.base.problems import QueueFull

ANONYMOUS: Final = ""
"""The holder if authentication is off: all callers are one."""
BACKGROUND: Final = "\0background"
"""Takes places for principals that it names later (`Place.assign`). No identity holds a NUL."""


Entry = TypeVar("Entry")


class RoundRobinQueue(Generic[Entry]):
    """A queue that serves holders by turns, and the entries of one holder first in, first out."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Entry]] = OrderedDict()
        """The turn is the first holder's. No line is empty."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __contains__(self, holder: str) -> bool:
        """Whether the holder has an entry."""
        return holder in self._lines

    def append(self, holder: str, entry: Entry) -> None:
        """Add the holder's last entry."""
        line = self._lines.get(holder)
        if line is None:
            line = self._lines[holder] = deque()
        line.append(entry)

    def turn(self, may_have: Callable[[str], bool]) -> str | None:
        """The holder whose turn it is, of those that may have one."""
        return next((holder for holder in self._lines if may_have(holder)), None)

    def pop(self, holder: str | None = None) -> Entry:
        """Take the first entry of the holder, by default of the one whose turn it is. The holder is the last then."""
        if holder is None:
            holder = next(iter(self._lines))
        line = self._lines[holder]
        entry = line.popleft()
        if line:
            self._lines.move_to_end(holder)
        else:
            del self._lines[holder]
        return entry

    def pop_newest(self, holder: str) -> Entry:
        """Take the last entry of the holder."""
        entry = self._lines[holder].pop()
        self._drop_if_empty(holder)
        return entry

    def remove(self, holder: str, entry: Entry) -> None:
        """Take an entry of the holder out."""
        self._lines[holder].remove(entry)
        self._drop_if_empty(holder)

    def newest(self) -> list[Entry]:
        """The last entry of each holder."""
        return [line[-1] for line in self._lines.values()]

    def lengths(self) -> dict[str, int]:
        """The number of entries by holder."""
        return {holder: len(line) for holder, line in self._lines.items()}

    def _drop_if_empty(self, holder: str) -> None:
        if not self._lines[holder]:
            del self._lines[holder]


def quarter(total: int) -> int:
    """The usual reserve: a quarter of the places, and one if there are two or three."""
    return max(1, total // 4) if total > 1 else 0


class Place:
    """One place of a limiter. It is released once; further calls do nothing."""

    __slots__ = ("_limiter", "holder")

    def __init__(self, limiter: "FairLimiter", holder: str) -> None:
        self._limiter: FairLimiter | None = limiter
        self.holder = holder

    def release(self) -> None:
        """Give the place to the next waiter."""
        if self._limiter is not None:
            limiter, self._limiter = self._limiter, None
            limiter.take_back(self)

    def assign(self, holder: str) -> None:
        """Count the place as another holder's."""
        if self._limiter is not None:
            self._limiter.move(self, holder)


class _Waiter:
    __slots__ = ("changed", "holder", "place", "refused")

    def __init__(self) -> None:
        self.holder = ANONYMOUS
        self.changed = anyio.Event()
        self.place: Place | None = None
        self.refused = False


class FairLimiter:
    """At most `total` places are held at once: an `anyio.CapacityLimiter`, with a fair queue in front of it."""

    def __init__(
        self,
        total: int,
        *,
        reserve: int = 0,
        max_waiting: int | None = None,
        is_alone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`reserve`: places that a principal leaves free unless it `is_alone`. `max_waiting=None`: any number."""
        self._limiter = anyio.CapacityLimiter(total)
        self.total = total
        self._reserve = min(reserve, total - 1)
        self._max_waiting = max_waiting
        self._is_alone = is_alone
        self._held = Counter[str]()
        self._queue = RoundRobinQueue[_Waiter]()
        self._told: Callable[[], None] | None = None
        self._first: deque[_Waiter] = deque()
        """Waiters that had a place and let others have it. They go before all others."""
        self.waiting = 0
        """Waiters of all holders, without `BACKGROUND` and those that go first."""

    @property
    def taken(self) -> int:
        """The places that are held."""
        return self._limiter.borrowed_tokens

    def may_take(self, holder: str, *, freed: int = 0) -> bool:
        """Whether `holder` may have a further place now, or if `freed` more were free."""
        free = self.total - self.taken + freed
        if free <= 0:
            return False
        if holder in {ANONYMOUS, BACKGROUND} or not self._reserve:
            return True
        held = self._held[holder]
        leaves_enough = (held + 1) * self._reserve <= (self.total - self._reserve) * (free - 1)
        return held == 0 or leaves_enough or self._is_alone(holder)

    def may_take_now(self, holder: str) -> bool:
        """Whether `holder` gets a place without waiting. If places are free, no other waiter may have one."""
        return not self._first and holder not in self._queue and self.may_take(holder)

    def held_back(self) -> list[str]:
        """The holders to which the place that `BACKGROUND` holds may not be assigned."""
        return [holder for holder in self._held if not self.may_take(holder, freed=1)]

    def tell_of_release(self, told: Callable[[], None]) -> None:
        """Call `told` when the next place is released, once: a holder that was held back may then have one."""
        self._told = told

    def refuse_if_full(self, holder: str) -> None:
        """Overloaded if `holder` would have to wait and the queue has no room for it."""
        has_room = self._max_waiting is None or self.waiting < self._max_waiting or self._longest(holder)
        if not has_room and not self.may_take_now(holder):
            raise QueueFull("every slot is taken and the queue is full", retry_after_s=2)

    async def acquire(self, holder: str) -> Place:
        """A place for `holder`, after a wait. Overloaded if the queue is full, or fills up with others' waiters."""
        if self.may_take_now(holder):
            return self._grant(holder)
        if holder != BACKGROUND:
            self._make_room(holder)
        waiter = _Waiter()
        self._queue.append(holder, waiter)
        self._count_waiting(holder, 1)
        self._dispatch()
        try:
            await waiter.changed.wait()
        except BaseException:
            self._leave(holder, waiter)
            raise
        if waiter.place is None:
            raise QueueFull("the queue is full, mostly of your own requests", retry_after_s=2)
        return waiter.place

    async def acquire_first(self, holder: str) -> Place:
        """The next place that is free, before all others and however long it takes."""
        waiter = _Waiter()
        self._first.append(waiter)
        waiter.holder = holder
        self._dispatch()
        try:
            await waiter.changed.wait()
        except BaseException:
            if waiter.place is None:
                self._first.remove(waiter)
                self._dispatch()
            else:
                waiter.place.release()
            raise
        return cast("Place", waiter.place)

    async def acquire_within(self, holder: str, timeout_s: float) -> Place:
        """As `acquire`. Overloaded also after a wait of `timeout_s` seconds."""
        with anyio.move_on_after(timeout_s):
            return await self.acquire(holder)
        raise QueueFull("earlier requests of this kind take too long", retry_after_s=5)

    @asynccontextmanager
    async def hold(self, holder: str, timeout_s: float) -> AsyncGenerator[Place]:
        """A place for the length of a block, unless it is released before. Overloaded as above."""
        place = await self.acquire_within(holder, timeout_s)
        try:
            yield place
        finally:
            place.release()

    def take_back(self, place: Place) -> None:
        """For `Place.release` alone."""
        self._limiter.release_on_behalf_of(place)
        self._count(place.holder, -1)
        self._dispatch()
        told, self._told = self._told, None
        if told is not None:
            told()

    def move(self, place: Place, holder: str) -> None:
        """For `Place.assign` alone."""
        self._count(place.holder, -1)
        self._count(holder, 1)
        place.holder = holder

    def _grant(self, holder: str) -> Place:
        place = Place(self, holder)
        self._limiter.acquire_on_behalf_of_nowait(place)
        self._count(holder, 1)
        return place

    def _count(self, holder: str, change: int) -> None:
        self._held[holder] += change
        if not self._held[holder]:
            del self._held[holder]

    def _count_waiting(self, holder: str, change: int) -> None:
        if holder != BACKGROUND:
            self.waiting += change

    def _dispatch(self) -> None:
        """Give free places to those whose turn it is and who may have one."""
        while self._first and self.taken < self.total:
            first = self._first.popleft()
            first.place = self._grant(first.holder)
            first.changed.set()
        while not self._first and (holder := self._queue.turn(self.may_take)) is not None:
            waiter = self._queue.pop(holder)
            self._count_waiting(holder, -1)
            waiter.place = self._grant(holder)
            waiter.changed.set()

    def _leave(self, holder: str, waiter: _Waiter) -> None:
        """A waiter was cancelled, perhaps after it had been given a place or refused."""
        if waiter.place is not None:
            waiter.place.release()
        elif not waiter.refused:
            self._queue.remove(holder, waiter)
            self._count_waiting(holder, -1)

    def _make_room(self, holder: str) -> None:
        """If the queue is full, refuse the newest waiter of the holder that has the most. Overloaded as above."""
        self.refuse_if_full(holder)
        if self._max_waiting is None or self.waiting < self._max_waiting:
            return
        if (longest := self._longest(holder)) is not None:
            waiter = self._queue.pop_newest(longest)
            self._count_waiting(longest, -1)
            waiter.refused = True
            waiter.changed.set()

    def _longest(self, holder: str) -> str | None:
        """The holder with the most waiters, if it has more than `holder` with one more; None: there is no such one."""
        lengths = self._queue.lengths()
        others = [other for other in lengths if other not in {ANONYMOUS, BACKGROUND}]
        longest = max(others, key=lambda other: lengths[other], default=None)
        own = lengths.get(holder, 0)
        return longest if longest is not None and lengths[longest] > own + 1 else None
