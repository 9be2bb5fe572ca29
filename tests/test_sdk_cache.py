"""`langgraph_sdk.cache` in a server: values, their lives, and stale-while-revalidate."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.cache import SWRResult, cache_get, cache_set, swr
from pydantic import BaseModel
from typing_extensions import TypedDict

from conftest import WAIT_S, serving
from threadkeep import sdk_cache
from threadkeep.graphs import as_loaded_graph
from threadkeep.sdk_cache import MemoryCache, SdkCache
from threadkeep.settings import Settings

MINUTE = timedelta(minutes=1)


class Counting:
    """A loader that says how often it was called, and waits if it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = anyio.Event()
        self.gate.set()

    async def __call__(self) -> Any:
        self.calls += 1
        call = self.calls
        await self.gate.wait()
        return {"call": call}


@pytest.fixture
async def cache() -> AsyncIterator[SdkCache]:
    async with sdk_cache.opened() as cache:
        yield cache


async def test_values_are_json_and_nobody_elses(cache: SdkCache) -> None:
    """Protocol: `cache_get`, `cache_set`; None for what is not there."""
    value = {"a": [1, None, True, "x"]}
    await cache_set("k", value)
    (await cache_get("k"))["a"].append("changed")

    assert (await cache_get("k"), await cache_get("other")) == (value, None)
    with pytest.raises(TypeError):
        await cache_set("k", object())


async def test_a_value_lives_for_its_time_and_at_most_a_day() -> None:
    """Protocol: `ttl`; None or zero is a day."""
    now = 0.0
    memory = MemoryCache(clock=lambda: now)
    for key, ttl in {"short": MINUTE, "long": timedelta(days=9), "none": None, "zero": timedelta(0)}.items():
        memory.put(key, 1, ttl)
    alive = {}
    for now in (59.0, 61.0, 86_399.0, 86_401.0):
        alive[now] = [key for key in ("short", "long", "none", "zero") if memory.get(key)]

    others = ["long", "none", "zero"]
    assert alive == {59.0: ["short", *others], 61.0: others, 86_399.0: others, 86_401.0: []}


async def test_the_cache_is_bounded_in_bytes() -> None:
    """Ours: what was read longest ago goes first."""
    memory = MemoryCache(max_bytes=30)
    for key in ("a", "b", "c"):
        memory.put(key, "x" * 8, None)
    memory.get("a")
    memory.put("d", "x" * 8, None)

    assert [key for key in ("a", "b", "c", "d") if memory.get(key)] == ["a", "c", "d"]
    with pytest.raises(ValueError, match="larger than the whole cache"):
        memory.put("e", "x" * 30, None)


async def test_swr_misses_is_fresh_and_is_stale(cache: SdkCache) -> None:
    """Protocol: a stale value is given at once, and loaded anew in the background."""
    load = Counting()
    missed = await swr("k", load, fresh_for=MINUTE)
    fresh = await swr("k", load, fresh_for=MINUTE)
    stale = await swr("k", load)
    with anyio.fail_after(WAIT_S):
        while (await swr("k", load, fresh_for=MINUTE)).value == {"call": 1}:
            await anyio.lowlevel.checkpoint()

    assert isinstance(missed, SWRResult)
    assert [(one.status, one.value) for one in (missed, fresh, stale)] == [
        ("miss", {"call": 1}),
        ("fresh", {"call": 1}),
        ("stale", {"call": 1}),
    ]
    assert load.calls == 2


async def test_swr_loads_once_for_all_who_wait(cache: SdkCache) -> None:
    """Protocol: one load of a key at a time."""
    load, values = Counting(), list[Any]()
    load.gate = anyio.Event()

    async def ask() -> None:
        values.append((await swr("k", load, fresh_for=MINUTE)).value)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        load.gate.set()

    assert (values, load.calls) == ([{"call": 1}] * 5, 1)


async def test_swr_in_a_loop_of_another_thread_loads_for_itself(cache: SdkCache) -> None:
    """Ours: a sync node that calls `asyncio.run` must not wait for an event of the server's loop."""
    loader = Counting()
    loader.gate = anyio.Event()

    async def at_once() -> Any:
        return {"call": "of the node"}

    def node() -> Any:
        return asyncio.run(cache.swr("k", at_once, fresh_for=MINUTE, max_age=MINUTE)).value

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(cache.swr, "k", loader, fresh_for=MINUTE, max_age=MINUTE))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(WAIT_S):
            value = await anyio.to_thread.run_sync(node, abandon_on_cancel=True)
        loader.gate.set()

    assert value == {"call": "of the node"}
    assert (await cache.swr("k", at_once, fresh_for=MINUTE, max_age=MINUTE)).value == value


async def test_swr_mutates(cache: SdkCache) -> None:
    """Protocol: `mutate(value)` sets, `mutate()` loads; what was loading meanwhile does not undo it."""
    load = Counting()
    result = await swr("k", load, fresh_for=MINUTE)
    assert await result.mutate({"call": "mine"}) == result.value == {"call": "mine"}
    assert (await swr("k", load, fresh_for=MINUTE)).value == {"call": "mine"}
    assert await result.mutate() == {"call": 2}

    load.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(result.mutate)
        await anyio.wait_all_tasks_blocked()
        await (await swr("k", load, fresh_for=MINUTE)).mutate({"call": "later"})
        load.gate.set()
    assert (await swr("k", load, fresh_for=MINUTE)).value == {"call": "later"}


async def test_swr_takes_models_and_refuses_what_makes_no_sense(cache: SdkCache) -> None:
    """Protocol: `model`; windows that contradict each other are a ValueError."""

    class User(BaseModel):
        name: str

    async def load() -> User:
        return User(name="ada")

    values = [(await swr("k", load, fresh_for=MINUTE, model=User)).value for _ in range(2)]
    assert values == [User(name="ada")] * 2
    with pytest.raises(ValueError, match="fresh_for"):
        await swr("k", load, fresh_for=MINUTE, max_age=timedelta(seconds=1))


async def test_a_load_that_fails_is_told_and_not_kept(cache: SdkCache) -> None:
    """Ours: a miss raises what the loader raised; the next caller tries again."""

    async def fail() -> Any:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await swr("k", fail)
    load = Counting()
    assert (await swr("k", load)).status == "miss"


class State(TypedDict, total=False):
    seen: Any


async def _use(state: State) -> State:
    before = await cache_get("count") or 0
    await cache_set("count", before + 1)
    return {"seen": before}


async def test_graphs_of_a_server_share_it(settings: Settings) -> None:
    """Issue: it works in a graph, and outside of a server it says so."""
    graph = StateGraph(State).add_node("use", _use).add_edge(START, "use")
    graphs = {"using": as_loaded_graph("using", graph, where="tests")}
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        seen = [(await client.runs.wait(None, "using", input={}))["seen"] for _ in range(3)]

    assert seen == [0, 1, 2]
    with pytest.raises(RuntimeError, match="only available server-side"):
        await cache_get("count")
