"""TTL cache: the life of values, the reader of a missing value, and the results of waiting callers."""

import math
from dataclasses import dataclass, field

import anyio
import pytest

from conftest import WAIT_S
from threadkeep.base.ttl_cache import TtlCache


@dataclass
class Clock:
    """Time that goes on when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Source:
    """What is read: a number that is one higher each time; it may fail, or keep its readers waiting."""

    reads: int = 0
    failure: Exception | None = None
    gate: anyio.Event | None = None
    waiting: anyio.Event = field(default_factory=anyio.Event)
    """Somebody waits at the gate."""

    async def __call__(self) -> int:
        self.reads += 1
        number = self.reads
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return number


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cache_of(clock: Clock, **options: float) -> TtlCache[str, int]:
    return TtlCache(capacity=2, ttl_s=5, clock=clock, **options)


async def test_a_value_is_read_once_while_it_is_fresh(clock: Clock) -> None:
    source, cache = Source(), cache_of(clock)

    values = [await cache.get_or_read("a", source) for _ in range(3)]
    clock.now += 4.9
    assert (values, cache.get("a")) == ([1, 1, 1], 1)

    clock.now += 0.1
    assert cache.get("a") is None
    assert await cache.get_or_read("a", source) == 2


async def test_a_value_is_as_old_as_the_beginning_of_its_read(clock: Clock) -> None:
    cache = cache_of(clock)

    async def slow() -> int:
        clock.now += 5
        return 1

    assert await cache.get_or_read("a", slow) == 1
    assert cache.get("a") is None


async def test_the_value_that_was_read_longest_ago_makes_room(clock: Clock) -> None:
    source, cache = Source(), cache_of(clock)
    for key in ("a", "b", "a", "c"):
        await cache.get_or_read(key, source)

    assert (len(cache), cache.get("a"), cache.get("b"), cache.get("c")) == (2, None, 2, 3)


async def test_no_value_outlives_what_it_says_of_itself(clock: Clock) -> None:
    cache: TtlCache[str, int] = TtlCache(capacity=9, ttl_s=5, grace_s=5, lives_s=lambda value: value, clock=clock)
    cache.put("short", 3)
    cache.put("long", 100)
    clock.now += 3

    assert (cache.get("short"), cache.get("long")) == (None, 100)


async def _at_once(cache: TtlCache[str, int], source: Source, callers: int) -> list[object]:
    """The results of callers that want the same key at once: values or exceptions."""
    outcomes: list[object] = []

    async def call() -> None:
        try:
            outcomes.append(await cache.get_or_read("a", source))
        except LookupError as failure:
            outcomes.append(failure)

    source.gate = anyio.Event()
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(call)
            await source.waiting.wait()
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
    return outcomes


async def test_many_callers_at_once_are_one_read(clock: Clock) -> None:
    source = Source()

    assert await _at_once(cache_of(clock), source, 10) == [1] * 10
    assert source.reads == 1


async def test_a_read_that_fails_fails_for_all_who_wait_and_is_forgotten(clock: Clock) -> None:
    source, cache = Source(failure=LookupError("away")), cache_of(clock)

    assert await _at_once(cache, source, 3) == [source.failure] * 3
    source.failure = None
    assert (source.reads, await cache.get_or_read("a", source)) == (1, 2)


async def test_the_old_value_is_given_in_its_grace_while_one_caller_reads(clock: Clock) -> None:
    source, cache = Source(), cache_of(clock, grace_s=1)
    await cache.get_or_read("a", source)
    clock.now += 5.9

    outcomes = await _at_once(cache, source, 3)
    assert sorted(map(str, outcomes)) == ["1", "1", "2"]

    clock.now += 6
    source.waiting = anyio.Event()
    assert await _at_once(cache, source, 3) == [3, 3, 3]


async def test_a_caller_that_is_cancelled_leaves_the_read_to_another(clock: Clock) -> None:
    source, cache, found = Source(gate=anyio.Event()), cache_of(clock), list[int]()

    async def call() -> None:
        found.append(await cache.get_or_read("a", source))

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as leaving:
            leaving.start_soon(call)
            await source.waiting.wait()
            tasks.start_soon(call)
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            source.gate = None
            leaving.cancel_scope.cancel()

    assert (found, source.reads) == ([2, 2], 2)


async def test_what_was_forgotten_during_a_read_is_read_anew(clock: Clock) -> None:
    source, cache, found = Source(gate=anyio.Event()), cache_of(clock), list[int]()
    gate = source.gate

    async def call() -> None:
        found.append(await cache.get_or_read("a", source))

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await source.waiting.wait()
            cache.forget("a")
            source.gate = None
            assert await cache.get_or_read("a", source) == 2
            assert gate is not None
            gate.set()

    assert (found, cache.get("a"), cache.keys()) == ([1], 2, {"a"})


async def test_after_a_failure_nobody_reads_for_a_while(clock: Clock) -> None:
    source, cache = Source(), cache_of(clock, grace_s=10, retry_s=3)
    await cache.get_or_read("a", source)
    source.failure = LookupError("away")
    clock.now += 5

    assert [await cache.get_or_read("a", source) for _ in range(3)] == [1, 1, 1]
    assert source.reads == 2
    clock.now += 3
    assert (await cache.get_or_read("a", source), source.reads) == (1, 3)

    clock.now += 7  # its grace is over
    for _ in range(3):
        with pytest.raises(LookupError):
            await cache.get_or_read("a", source)
    assert source.reads == 4

    source.failure = None
    clock.now += 3
    assert await cache.get_or_read("a", source) == 5
    assert cache.get("a") == 5


def test_a_cache_without_a_limit_of_time_keeps_its_values(clock: Clock) -> None:
    cache: TtlCache[str, int] = TtlCache(capacity=1, ttl_s=math.inf, clock=clock)
    cache.put("a", 1)
    clock.now += 1e9

    assert cache.get("a") == 1
