"""The messages of a run come without LangGraph's queue, and are still those of LangGraph's own stream, in its order."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

Graph = Any
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hello", "id": "asked"}]}
MODES = ["messages", "updates", "values"]


def _model(text: str, message_id: str, **options: Any) -> Any:
    model: Any = GenericFakeChatModel(messages=iter([AIMessage(text, id=message_id)] * 9))
    return model.with_config(**options) if options else model


async def _speaks(state: MessagesState) -> Any:
    return {"messages": [await _model("one two", "m1").ainvoke(state["messages"])]}


def _speaks_in_a_thread(state: MessagesState) -> Any:
    return {"messages": [_model("three four", "m2").invoke(state["messages"])]}


async def _is_silent(state: MessagesState) -> Any:
    return {"messages": [await _model("not heard", "m3", tags=["nostream"]).ainvoke(state["messages"])]}


async def _returns(_: MessagesState) -> Any:
    return {"messages": [AIMessage("whole", id="m4")]}


async def _commands(_: MessagesState) -> Any:
    return Command(update={"messages": [AIMessage("commanded", id="m5")]})


async def _asks_another(state: MessagesState, config: RunnableConfig) -> Any:
    """Another graph, on a thread of its own, and as a part of this node."""
    other = _chain(_speaks).compile(checkpointer=InMemorySaver())
    apart = await other.ainvoke(ASKED, {"configurable": {"thread_id": "its own"}})
    inside = await _chain(_speaks_in_a_thread).compile().ainvoke({"messages": state["messages"]}, config)
    return {"messages": [apart["messages"][-1], inside["messages"][-1]]}


def _chain(*nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    before = START
    for node in nodes:
        graph.add_node(node.__name__, node)
        graph.add_edge(before, node.__name__)
        before = node.__name__
    return graph


def _with_subgraph() -> Graph:
    graph = StateGraph(MessagesState)
    graph.add_node("inner", _chain(_speaks, _returns).compile())
    graph.add_node(_commands)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "_commands")
    return graph.compile()


def _parallel() -> Graph:
    graph = StateGraph(MessagesState)
    for node in (_speaks, _speaks_in_a_thread, _returns):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
    return graph.compile()


@task
async def _said() -> BaseMessage:
    return await _model("five six", "m6").ainvoke("?")


@entrypoint()
async def _functional(_: Any) -> Any:
    return {"messages": [await _said()]}


GRAPHS: dict[str, Callable[[], Graph]] = {
    "async": lambda: _chain(_speaks).compile(),
    "thread": lambda: _chain(_speaks_in_a_thread).compile(),
    "silent": lambda: _chain(_is_silent).compile(),
    "returned": lambda: _chain(_returns, _commands).compile(),
    "steps": lambda: _chain(_speaks, _returns, _speaks_in_a_thread, _commands).compile(),
    "subgraph": _with_subgraph,
    "another": lambda: _chain(_asks_another).compile(),
    "parallel": _parallel,
    "functional": lambda: _functional,
}


async def _in_process(graph: Graph) -> list[tuple[str, str]]:
    """Mode and text of LangGraph's own stream."""
    told: list[tuple[str, str]] = []
    async for mode, chunk in graph.astream(ASKED, stream_mode=MODES):
        told.append((mode, chunk[0].text if mode == "messages" else _keys(chunk)))
    return told


async def _served(http: httpx.AsyncClient) -> list[tuple[str, str]]:
    """The same of a run on the server."""
    told: list[tuple[str, str]] = []
    body = {"assistant_id": "graph", "input": ASKED, "stream_mode": ["messages-tuple", "updates", "values"]}
    async with http.stream("POST", "/runs/stream", json=body) as answer:
        lines = [line async for line in answer.aiter_lines()]
    for name, data in pairwise(lines):
        if name.startswith("event: ") and (mode := name.removeprefix("event: ")) in MODES:
            chunk = json.loads(data.removeprefix("data: "))
            told.append((mode, chunk[0]["content"] if mode == "messages" else _keys(chunk)))
    return told


def _keys(chunk: dict[str, Any]) -> str:
    """The content of a chunk of a whole step."""
    messages: Any = chunk.get("messages")
    return f"{len(messages)} messages" if messages is not None else " ".join(sorted(chunk))


@pytest.mark.parametrize("name", GRAPHS)
async def test_messages_are_those_of_langgraphs_own_stream(name: str, settings: Settings) -> None:
    expected = await _in_process(GRAPHS[name]())
    graphs = {"graph": as_loaded_graph("graph", GRAPHS[name](), where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        told = await _served(http)
    assert any(mode == "messages" for mode, _ in expected) or name == "silent"
    if name == "parallel":  # nodes that run at once speak in any order
        assert Counter(told) == Counter(expected)
    else:
        assert told == expected
