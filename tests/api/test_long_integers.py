"""Integers above 64 bits: the same wherever a client puts one in, and wherever one comes out."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import tool_call
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from api.test_protocol_http import send, watch
from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

LONG = [2**64, -(2**63) - 1, 2**256 + 1, -(10**1000)]
OBJECT = {"amounts": LONG, "deep": {"a": [{"wei": 2**70, "ratio": 0.1}]}}


class State(TypedDict, total=False):
    sent: Any
    doubled: list[int]
    answer: Any
    context: Any


class Context(TypedDict, total=False):
    limit: int


async def _double(state: State, runtime: Any) -> State:
    return {"doubled": [number * 2 for number in state["sent"]["amounts"]], "context": runtime.context}


async def _ask(state: State) -> State:
    return {"answer": interrupt(state["sent"])}


async def _call(state: MessagesState) -> Any:
    return {"messages": [AIMessage("", tool_calls=[tool_call(name="pay", args={"wei": 2**70}, id="call-1")])]}


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    graphs = {
        "doubling": StateGraph(State, context_schema=Context).add_node("double", _double).add_edge(START, "double"),
        "asking": StateGraph(State).add_node("ask", _ask).add_edge(START, "ask"),
        "calling": StateGraph(MessagesState).add_node("call", _call).add_edge(START, "call"),
    }
    async with serving(
        settings, {name: as_loaded_graph(name, graph, where="t") for name, graph in graphs.items()}
    ) as url:
        yield url


async def test_long_integers_of_an_input_are_the_same_everywhere(http: httpx.AsyncClient) -> None:
    """Issue: integers of any size are the same in thread, state, history and stream. The client's own are so, too."""
    thread_id = (await http.post("/threads", json={"metadata": OBJECT})).json()["thread_id"]
    run = {"assistant_id": "doubling", "input": {"sent": OBJECT}, "context": {"limit": 2**65}, "metadata": OBJECT}
    waited = (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()
    streamed = (await http.post(f"/threads/{thread_id}/runs/stream", json=run | {"stream_mode": ["values"]})).text
    queued = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()
    joined = (await http.get(f"/threads/{thread_id}/runs/{queued['run_id']}/join")).json()
    stateless = (await http.post("/runs/wait", json=run)).json()
    thread = (await http.get(f"/threads/{thread_id}")).json()
    state = (await http.get(f"/threads/{thread_id}/state")).json()
    history = (await http.get(f"/threads/{thread_id}/history")).json()
    last = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line.startswith("data: {")][-1]

    values = {"sent": OBJECT, "doubled": [number * 2 for number in LONG], "context": {"limit": 2**65}}
    for told in (waited, last, joined, stateless, thread["values"], state["values"], history[0]["values"]):
        assert told == values
    assert OBJECT.items() <= thread["metadata"].items()
    assert OBJECT.items() <= queued["metadata"].items()
    assert queued["kwargs"]["input"] == {"sent": OBJECT}


async def test_long_integers_are_kept_in_every_field(http: httpx.AsyncClient) -> None:
    """Issue: likewise in answers to a question, state updates, commands, assistants, crons, searches and the store."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "asking", "input": {"sent": OBJECT}}
    asked = (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()
    resume = {"assistant_id": "asking", "command": {"resume": OBJECT}}
    answered = (await http.post(f"/threads/{thread_id}/runs/wait", json=resume)).json()
    await http.post(f"/threads/{thread_id}/state", json={"values": {"sent": LONG}})
    updated = (await http.get(f"/threads/{thread_id}/state")).json()
    assistant = (
        await http.post("/assistants", json={"graph_id": "doubling", "context": {"limit": 2**80}, "metadata": OBJECT})
    ).json()
    cron = {"assistant_id": "doubling", "schedule": "0 0 1 1 *", "input": {"sent": OBJECT}}
    kept = (await http.post("/runs/crons", json=cron)).json()
    await http.put("/store/items", json={"namespace": ["n"], "key": "k", "value": OBJECT})
    item = (await http.get("/store/items?namespace=n&key=k")).json()
    found = (
        await http.post("/store/items/search", json={"namespace_prefix": ["n"], "filter": {"amounts": LONG}})
    ).json()
    matching = (await http.post("/assistants/search", json={"metadata": {"amounts": [2**256 + 1]}})).json()
    others = (await http.post("/assistants/search", json={"metadata": {"amounts": [2**256]}})).json()

    assert asked["__interrupt__"][0]["value"] == OBJECT
    assert answered["answer"] == OBJECT
    assert updated["values"]["sent"] == LONG
    assert (assistant["context"], assistant["metadata"]["amounts"]) == ({"limit": 2**80}, LONG)
    assert kept["payload"]["input"] == {"sent": OBJECT}
    assert item["value"] == OBJECT
    assert [one["value"] for one in found["items"]] == [OBJECT]
    assert [one["assistant_id"] for one in matching] == [assistant["assistant_id"]]
    assert others == []


async def test_long_integers_are_the_same_in_protocol_v2(http: httpx.AsyncClient) -> None:
    """Issue: commands, values, and the arguments of tool calls, which come as text."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    await send(http, thread_id, "run.start", assistant_id="doubling", input={"sent": OBJECT})
    events = await watch(http, thread_id)
    values = [event["params"]["data"] for event in events if event["method"] == "values"]
    other_id = (await http.post("/threads", json={})).json()["thread_id"]
    await send(http, other_id, "run.start", assistant_id="calling", input={"messages": []})
    blocks = [
        event["params"]["data"]["content"]
        for event in await watch(http, other_id)
        if event["method"] == "messages" and event["params"]["data"].get("event") == "content-block-finish"
    ]

    assert values[-1]["doubled"] == [number * 2 for number in LONG]
    assert [block["args"] for block in blocks if block["type"] == "tool_call"] == [{"wei": 2**70}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/threads/search", {"limit": 2**70}),
        ("/threads/search", {"offset": -(2**70)}),
        ("/runs/wait", {"assistant_id": "doubling", "config": {"recursion_limit": 10**400}}),
        ("/runs", {"assistant_id": "doubling", "after_seconds": 10**400}),
        ("/store/items/search", {"namespace_prefix": [], "limit": 10**400}),
        ("/threads", {"ttl": 10**400}),
    ],
)
async def test_fields_with_a_range_refuse_long_integers(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Ours: 422, as for any number out of range."""
    answer = await http.post(path, json=body)

    assert answer.status_code == 422, answer.text
