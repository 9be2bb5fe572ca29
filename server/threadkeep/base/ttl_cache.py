"""TTL cache: keeps values for a limited time, and reads a value once for all concurrent callers.

It is for values that are expensive to read and may be slightly old: API keys, assistants, an issuer's public keys,
counts. A value is never returned later than `ttl_s + grace_s` seconds after its read began.
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
    """Until this time the value is returned while one caller reads it again."""


@dataclass(slots=True, eq=False)
class _Read(Generic[Value]):
    """A read in progress, and its outcome for the waiting callers."""

    over: anyio.Event = field(default_factory=anyio.Event)
    # In a tuple, because None may itself be a value.
    outcome: tuple[Value] | Exception | None = None
    """None if the read is over: its caller was cancelled, and a waiting caller must read."""
    is_outdated: bool = False
    """Whether the key was forgotten since the read began, so that its value is not cached."""


class TtlCache(Generic[Key, Value]):
    """A cache of at most `capacity` values. If it is full, the value that was read longest ago is dropped.

    A value is fresh for `ttl_s` seconds. For `grace_s` more seconds one caller reads it again, and the others get the
    old value. `lives_s(value)` limits the lifetime of a single value. A failed read raises for all waiting callers. With
    `retry_s`, there is no further read for that many seconds after a failure. Callers get the old value within its grace
    period, or else the same exception.
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
        """Return the value if it is fresh, else None."""
        entry = self._entries.get(key)
        return entry.value if entry is not None and self._clock() < entry.fresh_until else None

    async def get_or_read(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value. Call `read` if it is missing or no longer fresh, and raise what `read` raises."""
        while True:
            entry, now = self._entries.get(key), self._clock()
            if entry is not None and now < entry.fresh_until:
                return entry.value
            running = self._reads.get(key)
            if running is None:
                return await self._read(key, read)
            if entry is not None and now < entry.usable_until:
                return entry.value
            # If the reading caller was cancelled, there is no outcome, and the loop makes this caller read.
            await running.over.wait()
            if isinstance(running.outcome, Exception):
                raise running.outcome
            if running.outcome is not None:
                return running.outcome[0]

    def put(self, key: Key, value: Value) -> None:
        """Cache a value that was read just now."""
        self._keep(key, value, self._clock())

    def forget(self, key: Key) -> None:
        """Drop a value. Later callers read it again, and do not wait for a read in progress."""
        self._entries.pop(key, None)
        self._failures.pop(key, None)
        if (running := self._reads.pop(key, None)) is not None:
            running.is_outdated = True

    def keys(self) -> set[Key]:
        """Return the keys with a value or with a read in progress."""
        return {*self._entries, *self._reads}

    async def _read(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """Read a value for this caller and all callers that wait meanwhile."""
        running = self._reads[key] = _Read[Value]()
        # A value is as old as the beginning of its read, not its end.
        began = self._clock()
        try:
            value = await self._attempt(key, read)
        except Exception as failure:
            running.outcome = failure
            raise
        else:
            running.outcome = (value,)
            if not running.is_outdated and key not in self._failures:  # a failure does not renew an old value
                self._keep(key, value, began)
            return value
        finally:
            running.over.set()
            # `forget` may have removed this read, and a newer one may have taken its place.
            if self._reads.get(key) is running:
                del self._reads[key]

    async def _attempt(self, key: Key, read: Callable[[], Awaitable[Value]]) -> Value:
        """Call `read`. With `retry_s`, return the old value if the read fails, or if one failed recently."""
        if self._retry_s is None:
            return await read()
        failed_at, failure = self._failures.get(key, (-math.inf, None))
        if failure is None or self._clock() - failed_at >= self._retry_s:
            try:
                value = await read()
            except Exception as error:  # noqa: BLE001 - raised below, if there is no old value
                failure = error
                self._failures[key] = (self._clock(), error)
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
