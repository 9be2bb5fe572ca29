"""The config of a run: which keys reach the graph, what they do there, and which values are refused."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from anyio.lowlevel import checkpoint
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.settings import Settings

STEPS = 1200
SLOTS = 12
COMMON = {"assistant_id": "showing", "input": {}}


def _joined(left: list[Any] | None, right: list[Any] | None) -> list[Any]:
    return [*(left or []), *(right or [])]


class Count(TypedDict, total=False):
    n: int
    seen: Annotated[list[Any], _joined]
    config: dict[str, Any]


def _counting() -> StateGraph[Any]:
    async def step(state: Count) -> Count:
        return {"n": state.get("n", 0) + 1}

    def route(state: Count) -> str:
        return "step" if state.get("n", 0) < STEPS else END

    return StateGraph(Count).add_node("step", step).add_edge(START, "step").add_conditional_edges("step", route)


def _showing() -> StateGraph[Any]:
    async def show(state: Count, config: RunnableConfig) -> Count:
        kept = {key: config.get(key) for key in ("tags", "max_concurrency", "recursion_limit")}
        run_name = getattr(config.get("callbacks"), "parent_run_id", None)
        return {"config": {**kept, "has_parent": run_name is not None, "metadata": dict(config.get("metadata") or {})}}

    return StateGraph(Count).add_node("show", show).add_edge(START, "show")


def _spreading() -> StateGraph[Any]:
    running = 0

    async def work(state: Count) -> Count:
        nonlocal running
        running += 1
        seen = running
        for _ in range(20):
            await checkpoint()
        running -= 1
        return {"seen": [seen]}

    def spread(state: Count) -> list[Send]:
        return [Send("work", {}) for _ in range(8)]

    return StateGraph(Count).add_node("work", work).add_conditional_edges(START, spread, ["work"])


def _meeting(meeting: threading.Barrier) -> StateGraph[Any]:
    """A plain function that ends only when as many are in it as there are slots."""

    def meet(state: Count) -> Count:
        meeting.wait(timeout=20)
        return {"n": 1}

    return StateGraph(Count).add_node("meet", meet).add_edge(START, "meet")


@pytest.fixture
def graphs() -> Mapping[str, LoadedGraph]:
    makers = {
        "counting": _counting(),
        "showing": _showing(),
        "spreading": _spreading(),
        "meeting": _meeting(threading.Barrier(SLOTS)),
    }
    return {name: as_loaded_graph(name, graph, where="tests") for name, graph in makers.items()}


@pytest.fixture
async def url(settings: Settings, graphs: Mapping[str, LoadedGraph]) -> AsyncIterator[str]:
    async with serving(settings.model_copy(update={"run_slots": SLOTS}), graphs) as url:
        yield url


@pytest.mark.parametrize("limit", [None, STEPS + 1, 10_007])
async def test_client_may_ask_for_as_many_steps_as_langgraph_gives(client: LangGraphClient, limit: int | None) -> None:
    """Issue: without a limit a graph has 10,007 steps."""
    config: Any = {} if limit is None else {"recursion_limit": limit}

    answer: Any = await client.runs.wait(None, "counting", input={}, config=config)

    assert answer["n"] == STEPS


async def test_a_reached_limit_is_reported(client: LangGraphClient) -> None:
    """LangGraph's own words, with the number."""
    answer: Any = await client.runs.wait(None, "counting", input={}, config={"recursion_limit": 3}, raise_error=False)

    assert answer["__error__"]["error"] == "GraphRecursionError"
    assert "Recursion limit of 3" in answer["__error__"]["message"]


async def test_cap_is_a_setting_that_the_refusal_names(settings: Settings, graphs: Mapping[str, LoadedGraph]) -> None:
    """A run, an assistant and a cron are refused; also a run whose assistant asks for more than is allowed by now."""
    above = {"config": {"recursion_limit": 51}}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url) as http:
        made = (await http.post("/assistants", json={"graph_id": "showing", **above})).json()
    async with (
        serving(settings.model_copy(update={"max_recursion": 50}), graphs) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        refused = [
            await http.post("/runs/wait", json={**COMMON, **above}),
            await http.post("/runs/wait", json={**COMMON, "assistant_id": made["assistant_id"]}),
            await http.post(f"/threads/{thread_id}/runs", json={**COMMON, **above}),
            await http.post("/runs/batch", json=[{**COMMON, **above}]),
            await http.post("/assistants", json={"graph_id": "showing", **above}),
            await http.patch(f"/assistants/{made['assistant_id']}", json=above),
            await http.post("/runs/crons", json={**COMMON, "schedule": "@daily", **above}),
            await http.post("/runs/crons", json={"assistant_id": made["assistant_id"], "schedule": "@daily"}),
        ]
        allowed = await http.post("/runs/wait", json={**COMMON, "config": {"recursion_limit": 50}})

    assert allowed.json()["config"]["recursion_limit"] == 50
    for answer in refused:
        assert (answer.status_code, answer.json()["field"]) == (422, "config"), answer.text
        assert "must be from 1 to 50 (the server's THREADKEEP_MAX_RECURSION)" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recursion_limit", 0), ("recursion_limit", "9"), ("recursion_limit", True), ("recursion_limit", 1.5),
        ("max_concurrency", 0), ("max_concurrency", -1), ("max_concurrency", "2"), ("tags", "a"), ("tags", [1]),
        ("run_name", 1),
    ],
)  # fmt: skip
async def test_value_that_no_run_could_have_is_refused(http: httpx.AsyncClient, key: str, value: object) -> None:
    """Ours: not a failed run, and none that waits without end."""
    answer = await http.post("/runs/wait", json={**COMMON, "config": {key: value}})

    assert answer.status_code == 422
    assert f"config.{key}" in answer.json()["detail"]


async def test_every_safe_key_reaches_the_graph(client: LangGraphClient) -> None:
    """The keys that are the server's do not; null is the same as none."""
    config: Any = {
        "tags": ["a"], "max_concurrency": 3, "recursion_limit": 40, "run_name": "mine", "metadata": {"of": "me"},
        "run_id": "forged", "callbacks": ["forged"], "unknown": 1,
    }  # fmt: skip
    seen: Any = (await client.runs.wait(None, "showing", input={}, config=config))["config"]
    events = [
        event.data async for event in client.runs.stream(None, "showing", input={}, config=config, stream_mode="events")
    ]

    assert {"a"} <= set(seen["tags"])
    assert (seen["max_concurrency"], seen["recursion_limit"], seen["metadata"]["of"]) == (3, 40, "me")
    assert "mine" in {event["name"] for event in events if "name" in event}
    assert seen["metadata"]["run_id"] != "forged"

    empty: Any = dict.fromkeys(("tags", "max_concurrency", "recursion_limit", "run_name"))
    assert (await client.runs.wait(None, "showing", input={}, config=empty))["config"]["max_concurrency"] is None


async def test_max_concurrency_bounds_a_fan_out(client: LangGraphClient) -> None:
    """Of a run, and of an assistant."""
    assistant = await client.assistants.create("spreading", {"max_concurrency": 2})  # type: ignore[typeddict-unknown-key]
    sent: Any = {"max_concurrency": 2}
    free: Any = await client.runs.wait(None, "spreading", input={})
    bound: Any = await client.runs.wait(None, "spreading", input={}, config=sent)
    assigned: Any = await client.runs.wait(None, assistant["assistant_id"], input={})

    assert max(free["seen"]) == 8
    assert max(bound["seen"]) == max(assigned["seen"]) == 2


async def test_as_many_plain_functions_run_at_once_as_there_are_slots(url: str) -> None:
    """Issue: the default executor has a thread for each core and four more."""
    async with get_client(url=url, api_key=None) as client:
        answers: Any = await asyncio.gather(*(client.runs.wait(None, "meeting", input={}) for _ in range(SLOTS)))

    assert [answer["n"] for answer in answers] == [1] * SLOTS
