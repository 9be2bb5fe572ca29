"""Fair limiter: a fixed number of places that principals share.

Waiters are served round robin over principals, and in FIFO order within one. A principal that holds a place gets another
one only if it then holds at most a multiple of the places that stay free (dynamic thresholds, Choudhury and Hahne 1998).
A single principal therefore leaves `reserve` places free, and the next one leaves some of these. A newcomer without a
place finds one, even if the other places are held for long.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar, cast

import anyio

from threadkeep.base.problems import QueueFull

ANONYMOUS: Final = ""
"""The holder of all callers if authentication is off."""
BACKGROUND: Final = "\0background"
"""A holder that takes places for principals named later (`Place.assign`). No identity contains a NUL."""


Entry = TypeVar("Entry")


class RoundRobinQueue(Generic[Entry]):
    """A queue that serves holders round robin, and the entries of one holder in FIFO order."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, deque[Entry]] = OrderedDict()
        """The entries by holder. The first holder is served next. No deque is empty."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, holder: str) -> bool:
        """Whether the holder has an entry."""
        return holder in self._entries

    def append(self, holder: str, entry: Entry) -> None:
        """Add an entry at the end of the holder's entries."""
        entries = self._entries.get(holder)
        if entries is None:
            entries = self._entries[holder] = deque()
        entries.append(entry)

    def turn(self, may_have: Callable[[str], bool]) -> str | None:
        """Return the next holder for which `may_have` is true, or None."""
        return next((holder for holder in self._entries if may_have(holder)), None)

    def pop(self, holder: str | None = None) -> Entry:
        """Remove and return the first entry of a holder, by default of the next one. The holder moves to the end."""
        by_holder = self._entries
        if holder is None:
            holder = next(iter(by_holder))
        entries = by_holder[holder]
        entry = entries.popleft()
        if not entries:
            del by_holder[holder]
        # Most queues have one holder, and this test is cheaper than a move.
        elif len(by_holder) > 1:
            by_holder.move_to_end(holder)
        return entry

    def pop_newest(self, holder: str) -> Entry:
        """Remove and return the last entry of the holder."""
        entry = self._entries[holder].pop()
        self._drop_if_empty(holder)
        return entry

    def remove(self, holder: str, entry: Entry) -> None:
        """Remove an entry of the holder."""
        self._entries[holder].remove(entry)
        self._drop_if_empty(holder)

    def newest(self) -> list[Entry]:
        """Return the last entry of each holder."""
        return [entries[-1] for entries in self._entries.values()]

    def lengths(self) -> dict[str, int]:
        """Return the number of entries by holder."""
        return {holder: len(entries) for holder, entries in self._entries.items()}

    def _drop_if_empty(self, holder: str) -> None:
        if not self._entries[holder]:
            del self._entries[holder]


def quarter(total: int) -> int:
    """Return the usual reserve: a quarter of the places, or one of two or three places."""
    return max(1, total // 4) if total > 1 else 0


class Place:
    """One place of a limiter. It is released once. Further calls do nothing."""

    __slots__ = ("_limiter", "holder")

    def __init__(self, limiter: "FairLimiter", holder: str) -> None:
        self._limiter: FairLimiter | None = limiter
        self.holder = holder

    def release(self) -> None:
        """Free the place for the next waiter."""
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
    """Grants at most `total` places at once: an `anyio.CapacityLimiter` with a fair queue."""

    def __init__(
        self,
        total: int,
        *,
        reserve: int = 0,
        max_waiting: int | None = None,
        is_alone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`reserve`: places that a principal leaves free unless `is_alone` is true for it. `max_waiting=None`: no limit."""
        self._limiter = anyio.CapacityLimiter(total)
        self.total = total
        # Below `total`, so that each principal can have a place. `total` is 0 in a process that runs no graphs.
        self._reserve = max(0, min(reserve, total - 1))
        self._max_waiting = max_waiting
        self._is_alone = is_alone
        self._held = Counter[str]()
        self._queue = RoundRobinQueue[_Waiter]()
        self._on_release: Callable[[], None] | None = None
        self._first: deque[_Waiter] = deque()
        """Waiters that lent their place to others. They are served before all others."""
        self.waiting = 0
        """Number of waiters, without `BACKGROUND` and without those that are served first."""

    @property
    def taken(self) -> int:
        """The number of places that are held."""
        return self._limiter.borrowed_tokens

    def may_take(self, holder: str, *, freed: int = 0) -> bool:
        """Whether `holder` may have another place now, or would if `freed` more places were free."""
        free = self.total - self.taken + freed
        if free <= 0:
            return False
        # Without authentication all callers are one principal, so nothing is reserved for others. The worker checks
        # each principal itself.
        if holder in {ANONYMOUS, BACKGROUND} or not self._reserve:
            return True
        places = self._held[holder]
        # The multiple is (total - reserve) / reserve, so a lone principal stops at `total - reserve` places.
        # Both sides are multiplied by `reserve`, because a division would round.
        leaves_enough = (places + 1) * self._reserve <= (self.total - self._reserve) * (free - 1)
        return places == 0 or leaves_enough or self._is_alone(holder)

    def may_take_now(self, holder: str) -> bool:
        """Whether `holder` gets a place without waiting. If a place is free then, no waiter is allowed to have it."""
        return not self._first and holder not in self._queue and self.may_take(holder)

    def held_back(self) -> list[str]:
        """Return the holders to which the place of `BACKGROUND` must not be assigned."""
        # `freed=1`: the place of `BACKGROUND` counts as taken, but it is the one that the holder would get.
        return [holder for holder in self._held if not self.may_take(holder, freed=1)]

    def tell_of_release(self, on_release: Callable[[], None]) -> None:
        """Call `on_release` once, when the next place is released. A holder that was held back may then have one."""
        self._on_release = on_release

    def refuse_if_full(self, holder: str) -> None:
        """Raise QueueFull if `holder` would have to wait and the queue has no room for it."""
        has_room = self._max_waiting is None or self.waiting < self._max_waiting or self._longest(holder)
        if not has_room and not self.may_take_now(holder):
            raise QueueFull("every slot is taken and the queue is full", retry_after_s=2)

    async def acquire(self, holder: str) -> Place:
        """Wait for a place for `holder`. Raise QueueFull if the queue is full, or becomes full of other holders' waiters."""
        if self.may_take_now(holder):
            return self._grant(holder)
        if holder != BACKGROUND:
            self._make_room(holder)
        waiter = _Waiter()
        self._queue.append(holder, waiter)
        self._count_waiting(holder, 1)
        # A place may be free for this holder although earlier waiters may not have it.
        self._dispatch()
        try:
            await waiter.changed.wait()
        except BaseException:
            self._leave(holder, waiter)
            raise
        if waiter.place is None:
            raise QueueFull("the queue is full, mostly with your own requests", retry_after_s=2)
        return waiter.place

    async def acquire_first(self, holder: str) -> Place:
        """Wait for the next free place, before all other waiters and without a time limit."""
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
        """Wait like `acquire`, but at most `timeout_s` seconds. Raise QueueFull after that."""
        with anyio.move_on_after(timeout_s):
            return await self.acquire(holder)
        raise QueueFull("earlier requests of this kind take too long", retry_after_s=5)

    @asynccontextmanager
    async def hold(self, holder: str, timeout_s: float) -> AsyncGenerator[Place]:
        """Hold a place for the block, unless it is released before. Raise QueueFull like `acquire_within`."""
        place = await self.acquire_within(holder, timeout_s)
        try:
            yield place
        finally:
            place.release()

    def take_back(self, place: Place) -> None:
        """Free a place. Only `Place.release` calls this."""
        self._limiter.release_on_behalf_of(place)
        self._count(place.holder, -1)
        self._dispatch()
        # It is removed before the call, because the call may register the next one.
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release()

    def move(self, place: Place, holder: str) -> None:
        """Count a place for another holder. Only `Place.assign` calls this."""
        self._count(place.holder, -1)
        self._count(holder, 1)
        place.holder = holder

    def _grant(self, holder: str) -> Place:
        place = Place(self, holder)
        # The place is the borrower, because anyio allows a borrower one token, and a task may hold several places.
        self._limiter.acquire_on_behalf_of_nowait(place)
        self._count(holder, 1)
        return place

    def _count(self, holder: str, change: int) -> None:
        self._held[holder] += change
        # `held_back` goes through all holders, so principals that hold nothing must not stay.
        if not self._held[holder]:
            del self._held[holder]

    def _count_waiting(self, holder: str, change: int) -> None:
        if holder != BACKGROUND:
            self.waiting += change

    def _dispatch(self) -> None:
        """Grant free places to the next waiters that may have one."""
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
        """Remove a cancelled waiter, which may already have been granted a place or refused."""
        # The place was granted in the same moment as the cancellation. It goes to the next waiter.
        if waiter.place is not None:
            waiter.place.release()
        elif not waiter.refused:
            self._queue.remove(holder, waiter)
            self._count_waiting(holder, -1)

    def _make_room(self, holder: str) -> None:
        """If the queue is full, refuse the newest waiter of the holder with the most. Raise QueueFull if there is none."""
        self.refuse_if_full(holder)
        if self._max_waiting is None or self.waiting < self._max_waiting:
            return
        if (longest := self._longest(holder)) is not None:
            waiter = self._queue.pop_newest(longest)
            self._count_waiting(longest, -1)
            # The waiter raises QueueFull in its own task.
            waiter.refused = True
            waiter.changed.set()

    def _longest(self, holder: str) -> str | None:
        """Return the holder with the most waiters, if it has more than `holder` would with one more. Else return None."""
        lengths = self._queue.lengths()
        principals = [candidate for candidate in lengths if candidate not in {ANONYMOUS, BACKGROUND}]
        longest = max(principals, key=lambda candidate: lengths[candidate], default=None)
        return longest if longest is not None and lengths[longest] > lengths.get(holder, 0) + 1 else None
