"""SDK cache: `cache_get`, `cache_set` and `swr` of `langgraph_sdk.cache`, in the memory of this process.

The SDK imports them from LangGraph's own server. This module replaces them in the SDK. All graphs and users of the
process share one cache. Values are stored as JSON, so that a caller cannot change the value of another.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import anyio
import langgraph_sdk.cache as sdk
from anyio.abc import TaskGroup

from threadkeep.base import json

log = logging.getLogger(__name__)

MAX_AGE: Final = timedelta(days=1)
"""The longest TTL of a value, and the default."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest size of all values together. Beyond it, the values that were read longest ago are dropped."""
SWR_PREFIX: Final = "swr:"
"""The prefix of the keys of `swr`, which are separate from those of `cache_set`."""
UNSET: Final[Any] = object()

Loader = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as JSON, with its times on the monotonic clock."""

    raw: bytes
    stored_at: float
    ends_at: float


@dataclass(slots=True)
class Load:
    """A load in progress, and its outcome for the waiting callers."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    """The event loop of the caller that loads. Callers in another loop can't wait for it."""
    over: anyio.Event = field(default_factory=anyio.Event)
    outcome: bytes | Exception | None = None
    """None if the load is over: it was cancelled."""
    is_outdated: bool = False
    """Whether the key was set meanwhile, so that the loaded value is not stored."""


class MemoryCache:
    """Values by key, limited in bytes and in time."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._clock = clock
        self._loads: dict[str, Load] = {}

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, or None if it is missing or expired."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.ends_at:
            return None
        self._entries.move_to_end(key)
        return entry

    def age_s(self, entry: Entry) -> float:
        """Return the seconds since the entry was stored."""
        return self._clock() - entry.stored_at

    def put(self, key: str, value: object, ttl: timedelta | None) -> bytes:
        """Store a value as JSON and return the JSON. Raise ValueError if it has none, or is larger than the cache."""
        raw = json.dumps_plain(value)
        if len(raw) > self._max_bytes:
            raise ValueError(f"a value of {len(raw)} bytes is larger than the whole cache")
        # The load began before this value was set, so its result is older.
        if running := self._loads.get(key):
            running.is_outdated = True
        now = self._clock()
        # First, so that the size of the old value does not count, and the new one is the last to be dropped.
        self._drop(key)
        life = MAX_AGE if ttl is None or ttl <= timedelta(0) else min(ttl, MAX_AGE)
        self._entries[key] = Entry(raw, now, now + life.total_seconds())
        self._bytes += len(raw)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        return raw

    async def load(self, key: str, loader: Loader, ttl: timedelta) -> bytes:
        """Store the result of `loader` and return its JSON. Concurrent callers in a loop share one call. Raise what `loader` raises."""
        # A loop, because a load that was cancelled has no outcome. One of the callers then loads.
        while running := self._loads.get(key):
            if running.loop is not asyncio.get_running_loop():
                # A sync node may have a loop in its thread, which an event of another loop would never wake.
                return self.put(key, await loader(), ttl)
            await running.over.wait()
            if isinstance(running.outcome, Exception):
                raise running.outcome
            if running.outcome is not None:
                return running.outcome
        running = self._loads[key] = Load()
        try:
            running.outcome = self._loaded(key, await loader(), ttl, running)
        except Exception as error:
            running.outcome = error
            raise
        finally:
            # Before the event, so that a caller that wakes finds no load in progress.
            del self._loads[key]
            running.over.set()
        return running.outcome

    def is_loading(self, key: str) -> bool:
        """Whether a load of the key is in progress."""
        return key in self._loads

    def _loaded(self, key: str, value: object, ttl: timedelta, running: Load) -> bytes:
        # The value that was set meanwhile wins, unless it has expired already.
        entry = self.get(key) if running.is_outdated else None
        return entry.raw if entry is not None else self.put(key, value, ttl)

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._bytes -= len(entry.raw)


class SwrResult(sdk.SWRResult[Any]):
    """A value of `swr`, and whether it was fresh, stale, expired or missing."""

    def __init__(self, value: Any, status: sdk.CacheStatus, swr: "Swr") -> None:
        self.value = value
        self.status = status
        self._swr = swr

    async def mutate(self, value: Any = UNSET) -> Any:
        """Set the value, or load it again if none is given. Return the new value."""
        self.value = await self._swr.reload() if value is UNSET else self._swr.store(value)
        return self.value


@dataclass(frozen=True, slots=True)
class Swr:
    """One key of `swr`, with the loader and the TTL of its value."""

    cache: MemoryCache
    key: str
    loader: Loader
    max_age: timedelta
    model: Any
    """The pydantic model of values, or None for plain JSON."""

    async def reload(self) -> Any:
        """Load, store and return the value."""
        return self.read(await self.cache.load(self.key, self._json, self.max_age))

    def store(self, value: Any) -> Any:
        """Store a value and return it."""
        self.cache.put(self.key, self._plain(value), self.max_age)
        return value

    def read(self, raw: bytes) -> Any:
        """Return the value of its JSON."""
        value = json.loads(raw)
        return value if self.model is None else self.model.model_validate(value)

    async def _json(self) -> Any:
        return self._plain(await self.loader())

    def _plain(self, value: Any) -> Any:
        return value if self.model is None else value.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class SdkCache:
    """The functions that the SDK calls, and the tasks that reload stale values."""

    tasks: TaskGroup
    loop: asyncio.AbstractEventLoop
    memory: MemoryCache = field(default_factory=MemoryCache)

    async def cache_get(self, key: str) -> Any | None:
        """Return the value of a key, or None."""
        entry = self.memory.get(key)
        return None if entry is None else json.loads(entry.raw)

    async def cache_set(self, key: str, value: Any, ttl: timedelta | None = None) -> None:
        """Store a value for `ttl`, at most and by default one day."""
        self.memory.put(key, value, ttl)

    async def swr(
        self, key: str, loader: Loader, *, fresh_for: timedelta, max_age: timedelta, model: Any = None
    ) -> SwrResult:
        """Return a value no older than `max_age`. If it is older than `fresh_for`, also reload it in the background."""
        if fresh_for < timedelta(0) or max_age <= timedelta(0) or min(fresh_for, MAX_AGE) > max_age:
            raise ValueError("fresh_for and max_age must satisfy 0 <= fresh_for <= max_age and max_age > 0")
        swr = Swr(self.memory, SWR_PREFIX + key, loader, min(max_age, MAX_AGE), model)
        entry = self.memory.get(swr.key)
        if entry is None or self.memory.age_s(entry) >= swr.max_age.total_seconds():
            return SwrResult(await swr.reload(), "miss" if entry is None else "expired", swr)
        if self.memory.age_s(entry) < fresh_for.total_seconds():
            return SwrResult(swr.read(entry.raw), "fresh", swr)
        if not self.memory.is_loading(swr.key):
            await self._reload_soon(swr)
        return SwrResult(swr.read(entry.raw), "stale", swr)

    async def _reload_soon(self, swr: Swr) -> None:
        """Reload in the background. A node with its own event loop waits for it, because that loop may end."""
        if asyncio.get_running_loop() is self.loop:
            self.tasks.start_soon(_reload_quietly, swr)
        else:
            await _reload_quietly(swr)


async def _reload_quietly(swr: Swr) -> None:
    """Reload a value. If that fails, keep the old value until it expires."""
    try:
        await swr.reload()
    except Exception:
        log.debug("stale value not reloaded", extra={"key": swr.key}, exc_info=True)


@asynccontextmanager
async def opened() -> AsyncGenerator[SdkCache]:
    """Replace the functions of the SDK while the block runs."""
    loose: Any = sdk
    names = {"_cache_get": "cache_get", "_cache_set": "cache_set", "_api_swr": "swr"}
    # Restored at the end, because a process may open several servers, as in the tests.
    originals = {name: getattr(loose, name) for name in names}
    async with anyio.create_task_group() as tasks:
        cache = SdkCache(tasks, asyncio.get_running_loop())
        for name, method in names.items():
            setattr(loose, name, getattr(cache, method))
        try:
            yield cache
        finally:
            for name, value in originals.items():
                setattr(loose, name, value)
            tasks.cancel_scope.cancel()
