"""Graphs that are large in one way: state, nodes, time."""

import operator
import time
from typing import Annotated, Any, TypedDict

import anyio
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

FAN = 200
OPEN_S = 60.0


class State(TypedDict, total=False):
    """`kept` stays as it was put in, `items` grows, `bytes` is asked for."""

    kept: str
    bytes: int
    items: Annotated[list[int], operator.add]


async def _fill(state: State) -> State:
    # Only the first turn sets it, so that the large channel is not written again by the others.
    return {"kept": "x" * state.get("bytes", 0), "items": [1]} if "bytes" in state else {"items": [1]}


async def _one(number: int) -> State:
    return {"items": [number]}


async def _hold(_: State) -> State:
    """Say one thing at once, and the time each second until `OPEN_S` are over."""
    write = get_stream_writer()
    end = time.monotonic() + OPEN_S
    while time.monotonic() < end:
        write(f"<{time.monotonic_ns()}>")
        await anyio.sleep(1)
    return {"items": [1]}


def _of(node: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


def _fan() -> Any:
    graph = StateGraph(State)
    graph.add_node("one", _one)
    graph.add_conditional_edges(START, lambda _: [Send("one", number) for number in range(FAN)], ["one"])
    graph.add_edge("one", END)
    return graph.compile()


large = _of(_fill)
open = _of(_hold)  # noqa: A001 - the graph's name
fan = _fan()
