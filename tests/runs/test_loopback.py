"""In-process client: a graph that asks its own server for runs, by `get_client()` without a URL."""

import asyncio
import operator
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypedDict

import anyio
import anyio.lowlevel
import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from auth.conftest import MakeKey
from conftest import WAIT_S, serving
from threadkeep.api import loopback
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.settings import Settings

loopback.install()
EARLY = get_client()
SLOTS = 12


class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]


async def answer(state: State, config: RunnableConfig) -> State:
    await anyio.lowlevel.checkpoint()
    return {"said": [config["configurable"]["langgraph_auth_user_id"] or "somebody"]}


async def wait_early(state: State) -> State:
    return {"said": (await EARLY.runs.wait(None, "callee", input={}))["said"]}


async def wait_on_thread(state: State) -> State:
    client = get_client()
    thread = await client.threads.create()
    return {"said": (await client.runs.wait(thread["thread_id"], "callee", input={}))["said"]}


async def join(state: State) -> State:
    client = get_client()
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "callee", input={})
    await client.runs.join(thread["thread_id"], run["run_id"])
    return {"said": (await client.threads.get_state(thread["thread_id"]))["values"]["said"]}


async def stream(state: State) -> State:
    parts = [part async for part in get_client().runs.stream(None, "callee", input={}, stream_mode="values")]
    return {"said": parts[-1].data["said"]}


async def several(state: State) -> State:
    client = get_client()
    runs = [await client.runs.wait(None, "callee", input={}) for _ in range(2)]
    runs += await asyncio.gather(*(client.runs.wait(None, "callee", input={}) for _ in range(3)))
    return {"said": [runs[0]["said"][0]] if len({str(run) for run in runs}) == 1 else [str(runs)]}


async def deep(state: State) -> State:
    return {"said": (await get_client().runs.wait(None, "several", input={}))["said"]}


def in_a_thread(state: State) -> State:
    async def ask() -> Any:
        return await get_client().runs.wait(None, "callee", input={})

    return {"said": asyncio.run(ask())["said"]}


async def own_thread(state: State, config: RunnableConfig) -> State:
    try:
        await get_client().runs.wait(config["configurable"]["thread_id"], "callee", input={})
    except httpx.HTTPStatusError as error:
        return {"said": [error.response.status_code]}
    return {"said": ["no error"]}


async def fail(state: State) -> State:
    failed: Any = await get_client().runs.wait(None, "nowhere", input={}, raise_error=False)
    return {"said": [failed]}


NODES = {
    "callee": answer,
    "wait_early": wait_early,
    "wait_on_thread": wait_on_thread,
    "join": join,
    "stream": stream,
    "several": several,
    "deep": deep,
    "in_a_thread": in_a_thread,
    "own_thread": own_thread,
    "fail": fail,
}
CALLING = ("wait_early", "wait_on_thread", "join", "stream", "several", "deep")


def graphs() -> Mapping[str, LoadedGraph]:
    made = {name: StateGraph(State).add_node("node", node).add_edge(START, "node") for name, node in NODES.items()}
    return {name: as_loaded_graph(name, graph, where="tests") for name, graph in made.items()}


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[LangGraphClient]:
    async with serving(settings, graphs()) as url, get_client(url=url, api_key=None) as client:
        yield client


@pytest.mark.parametrize("graph", [*CALLING, "in_a_thread"])
async def test_a_graph_runs_another_one(client: LangGraphClient, graph: str) -> None:
    """Protocol: by a client that was made at import or in the node, with a thread and without, from a thread too."""
    assert (await client.runs.wait(None, graph, input={}))["said"] == ["somebody"]


@pytest.mark.parametrize("graph", CALLING)
async def test_graphs_in_all_slots_can_wait_for_runs_of_their_own(client: LangGraphClient, graph: str) -> None:
    """Issue: no deadlock of slots. A graph that waits for a run lets others run meanwhile."""
    said: list[Any] = []

    async def ask() -> None:
        said.append((await client.runs.wait(None, graph, input={}))["said"])

    with anyio.fail_after(40):
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * SLOTS):
                tasks.start_soon(ask)
    load = (await client.http.get("/info"))["load"]

    assert said == [["somebody"]] * (2 * SLOTS)
    assert load == {"running": 0, "waiting": 0}


async def test_one_slot_is_enough(settings: Settings) -> None:
    """Issue: the limiter bounds the graphs that run, not those that wait for runs of their own."""
    one = settings.model_copy(update={"run_slots": 1})
    async with serving(one, graphs()) as url, get_client(url=url, api_key=None) as client:
        said = [(await client.runs.wait(None, graph, input={}))["said"] for graph in CALLING]
        load = (await client.http.get("/info"))["load"]

    assert said == [["somebody"]] * len(CALLING)
    assert load == {"running": 0, "waiting": 0}


async def test_a_graph_that_would_wait_for_itself_gets_an_error(client: LangGraphClient) -> None:
    """Ours: a thread has one run at a time, so that a wait for a further one would never end."""
    thread = await client.threads.create()
    with anyio.fail_after(WAIT_S):
        assert (await client.runs.wait(thread["thread_id"], "own_thread", input={}))["said"] == [409]


async def test_a_graph_calls_as_the_user_of_its_run(settings: Settings, make_key: MakeKey) -> None:
    """Issue: the graph calls as its user, and sees only that user's threads."""
    keyed = settings.model_copy(update={"auth_type": "api_key"})
    ada, bob = await make_key("ada"), await make_key("bob")
    async with (
        serving(keyed, graphs()) as url,
        get_client(url=url, api_key=ada) as client,
        get_client(url=url, api_key=bob) as other,
    ):
        said = [(await client.runs.wait(None, graph, input={}))["said"] for graph in CALLING]
        threads = [len(await each.threads.search()) for each in (client, other)]
        nobody = await EARLY.http.client.get("/threads/" + "0" * 32)

    assert said == [["ada"]] * len(CALLING)
    assert threads == [2, 0]
    assert nobody.status_code == 401


async def test_there_is_no_loopback_client_outside_of_a_server() -> None:
    """Ours: the error says so."""
    with pytest.raises(httpx.ConnectError, match="inside a running server only"):
        await EARLY.threads.create()
