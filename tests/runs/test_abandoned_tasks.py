"""Abandoned tasks: if a graph ignores its cancellation, its run ends and its slot is released."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypedDict

import anyio
import httpx
import pytest
from langgraph.graph import START, StateGraph

from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


class Wish(TypedDict):
    """The action of the node."""

    wish: str


class Deaf:
    """Holds nodes that ignore cancellation, so that a test can end them."""

    heard = 0
    released: asyncio.Event


async def _fulfil(state: Wish) -> Wish:
    if state["wish"] != "deaf":
        return state
    while not Deaf.released.is_set():
        try:
            await Deaf.released.wait()
        except asyncio.CancelledError:
            Deaf.heard += 1
    return state


async def _beside(state: Wish) -> None:
    """A second node in the step: LangGraph then runs both in tasks of their own."""


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A server of deaf graphs: one slot, and little patience."""
    Deaf.released = asyncio.Event()
    graphs = {}
    for name in ("alone", "together"):
        graph = StateGraph(Wish)
        graph.add_node("fulfil", _fulfil)
        graph.add_edge(START, "fulfil")
        if name == "together":
            graph.add_node("beside", _beside)
            graph.add_edge(START, "beside")
        graphs[name] = as_loaded_graph(name, graph, where="tests")
    hasty = settings.model_copy(update={"run_slots": 1, "run_timeout_s": 0.3, "stop_grace_s": 0.3})
    async with serving(hasty, graphs) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        try:
            yield http
        finally:
            Deaf.released.set()


@pytest.mark.parametrize("graph", ["alone", "together"])
@pytest.mark.parametrize("stateless", [False, True], ids=["thread", "stateless"])
async def test_a_run_over_its_time_limit_ends_although_its_node_goes_on(
    http: httpx.AsyncClient, graph: str, stateless: bool
) -> None:
    """Ours: a swallowed cancellation ends its own run. It keeps no slot and delays no other run."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    path = "/runs/wait" if stateless else f"/threads/{thread_id}/runs/wait"

    late = await http.post(path, json={"assistant_id": graph, "input": {"wish": "deaf"}})
    others = [await http.post(path, json={"assistant_id": graph, "input": {"wish": "peace"}}) for _ in range(3)]
    load = (await http.get("/info")).json()["load"]

    assert late.json()["__error__"]["error"] == "TimeoutError"
    assert [other.json() for other in others] == [{"wish": "peace"}] * 3
    assert load == {"running": 0, "waiting": 0}
    if not stateless:
        runs = (await http.get(f"/threads/{thread_id}/runs")).json()
        assert [run["status"] for run in runs] == ["success"] * 3 + ["timeout"]


@pytest.mark.parametrize("graph", ["alone", "together"])
async def test_a_cancelled_run_ends_although_its_node_goes_on(http: httpx.AsyncClient, graph: str) -> None:
    """Ours: the same where a client cancels."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": graph, "input": {"wish": "deaf"}}
    run_id = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()["run_id"]
    with anyio.fail_after(WAIT_S):
        while (await http.get("/info")).json()["load"]["running"] == 0:
            await anyio.sleep(0.01)

    cancelled = await http.post(f"/threads/{thread_id}/runs/{run_id}/cancel?wait=1")
    row = (await http.get(f"/threads/{thread_id}/runs/{run_id}")).json()

    assert cancelled.status_code == 200
    assert row["status"] in {"interrupted", "timeout"}
    assert (await http.get("/info")).json()["load"]["running"] == 0
