"""TTL cache: values that were read lately, each for a limited time, read once however many callers want it at once.

It serves what is expensive to read and may be a little old: API keys, assistants, an issuer's public keys, counts.
Promise: a value is never given later than `ttl_s + grace_s` after the read that brought it began.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    fresh_until: float
    usable_until: float
    """Until then it is given while one caller reads it anew."""


@dataclass(slots=True, eq=False)
class _Read(Generic[Value]):
    """A read that is going on, and its outcome for those who wait for it."""

    over: anyio.Event = field(default_factory=anyio.Event)
    outcome: tuple[Value] | Exception | None = None
    """None when it is over: its caller was cancelled, and another one reads."""
    is_outdated: bool = False
    """The key was forgotten since it began: its value is not kept."""


class TtlCache(Generic[Key, Value]):
    """At most `capacity` values; one more drops the one that was read longest ago.

    Each is fresh for `ttl_s` seconds. For `grace_s` more, it is given to all but the one caller who reads it anew. With
    `lives_s`, no value is given for longer than that says of it. A read that fails raises, to all who waited for it. With
    `retry_s`, nobody reads again for so many seconds after a failure: callers get the old value within its grace, else
    the same exception.
    """

    def __init__(
        self,
        *,
        capacity: int,
        ttl_s: float,
        grace_s: float = 0,
        retry_s: float | None = None,
        lives_s: Callable[[Value], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._retry_s = retry_s
        self._lives_s = lives_s
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._reads: dict[Key, _Read[Value]] = {}
        self._failures: dict[Key, tuple[float, Exception]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value if it is fresh."""
        entry = self._entries.get(key)
        return entry.value if entry is not None and self._clock() < entry.fresh_until else None

    async def get_or_read(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """The value, by `read` if it is not there or no longer fresh. Raises what `read` raises."""
        while True:
            entry, now = self._entries.get(key), self._clock()
            if entry is not None and now < entry.fresh_until:
                return entry.value
            running = self._reads.get(key)
            if running is None:
                return await self._read(key, read)
            if entry is not None and now < entry.usable_until:
                return entry.value
            await running.over.wait()
            if isinstance(running.outcome, Exception):
                raise running.outcome
            if running.outcome is not None:
                return running.outcome[0]

    def put(self, key: Key, value: Value) -> None:
        """Keep a value that was read just now."""
        self._keep(key, value, self._clock())

    def forget(self, key: Key) -> None:
        """Read it anew when it is next wanted. Callers from now on do not wait for a read that is going on already."""
        self._entries.pop(key, None)
        self._failures.pop(key, None)
        if (running := self._reads.pop(key, None)) is not None:
            running.is_outdated = True

    def keys(self) -> set[Key]:
        """Those that it has a value of, or is reading."""
        return {*self._entries, *self._reads}

    async def _read(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """Read for all who want the key meanwhile."""
        running = self._reads[key] = _Read[Value]()
        began = self._clock()
        try:
            value = await self._attempt(key, read)
        except Exception as failure:
            running.outcome = failure
            raise
        else:
            running.outcome = (value,)
            if not running.is_outdated and key not in self._failures:  # an old value gets no younger by a failure
                self._keep(key, value, began)
            return value
        finally:
            running.over.set()
            if self._reads.get(key) is running:
                del self._reads[key]

    async def _attempt(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """What `read` gives; where `retry_s` asks for it, what there is instead of a read that fails or lately has."""
        if self._retry_s is None:
            return await read()
        failed_at, failure = self._failures.get(key, (-math.inf, None))
        if failure is None or self._clock() - failed_at >= self._retry_s:
            try:
                value = await read()
            except Exception as again:  # noqa: BLE001 - raised below, if there is no old value
                failure = again
                self._failures[key] = (self._clock(), again)
            else:
                self._failures.pop(key, None)
                return value
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.usable_until:
            raise failure
        return entry.value

    def _keep(self, key: Key, value: Value, read_at: float) -> None:
        ends = math.inf if self._lives_s is None else read_at + self._lives_s(value)
        fresh_until = read_at + self._ttl_s
        self._entries[key] = _Entry(value, min(fresh_until, ends), min(fresh_until + self._grace_s, ends))
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
