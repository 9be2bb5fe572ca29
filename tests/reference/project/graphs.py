"""Graphs that both servers serve: one for each thing that a client can see."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import anyio
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


class Items(TypedDict):
    """A state that grows."""

    items: Annotated[list[Any], operator.add]


class Timed(Items):
    """As `Items`; `seconds` says how long the slow node takes."""

    seconds: float


@dataclass
class Tone:
    """What a caller may choose."""

    greeting: str = "hello"


@dataclass
class Name:
    """What a caller must say."""

    name: str


class Private(Exception):
    """Of no class whose message clients see."""


async def _first(state: Items) -> dict[str, Any]:
    return {"items": ["first"]}


async def _second(state: Items) -> dict[str, Any]:
    return {"items": ["second"]}


async def _third(state: Items) -> dict[str, Any]:
    return {"items": ["third"]}


async def _wait(state: Timed) -> dict[str, Any]:
    await anyio.sleep(state.get("seconds", 0))
    return {"items": ["waited"]}


async def _ask(state: Items) -> dict[str, Any]:
    return {"items": [interrupt({"question": "which?"})]}


async def _ask_again(state: Items) -> dict[str, Any]:
    return {"items": [interrupt("and which?")]}


async def _fail(state: Items) -> dict[str, Any]:
    raise ValueError("the node failed")


async def _fail_privately(state: Items) -> dict[str, Any]:
    raise Private("secret")


async def _write(state: Items) -> dict[str, Any]:
    write = get_stream_writer()
    write({"progress": 1})
    write("half")
    return {"items": ["written"]}


async def _speak(state: MessagesState) -> dict[str, Any]:
    model = GenericFakeChatModel(messages=iter([AIMessage("one two three", id=f"answer-{len(state['messages'])}")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


async def _greet(state: Items, runtime: Runtime[Tone]) -> dict[str, Any]:
    return {"items": [runtime.context.greeting if runtime.context else "no context"]}


async def _show(state: Items, runtime: Runtime[Any]) -> dict[str, Any]:
    return {"items": [repr(runtime.context)]}


def _chain(state: type[Any] = Items, context: type[Any] | None = None, **nodes: Callable[..., Any]) -> StateGraph:
    graph = StateGraph(state, context_schema=context)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _side_by_side() -> StateGraph:
    graph = StateGraph(Items)
    graph.add_node("left", _ask)
    graph.add_node("right", _ask_again)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    return graph


def _endless() -> StateGraph:
    graph = StateGraph(Items)
    graph.add_node("first", _first)
    graph.add_edge(START, "first")
    graph.add_edge("first", "first")
    return graph


@task
async def _double(number: int) -> int:
    return number * 2


@entrypoint()
async def counter(step: int, *, previous: int | None = None) -> int:
    """The sum of all steps so far, each doubled."""
    return (previous or 0) + await _double(step)


chain = _chain(first=_first, second=_second, third=_third).compile()
slow = _chain(Timed, first=_first, wait=_wait, third=_third).compile()
asking = _chain(first=_first, ask=_ask, third=_third).compile()
two_questions = _side_by_side().compile()
failing = _chain(first=_first, fail=_fail).compile()
failing_privately = _chain(fail=_fail_privately).compile()
looping = _endless().compile()
writing = _chain(write=_write).compile()
speaking = _chain(MessagesState, speak=_speak).compile()
parent = _chain(child=_chain(inner=_first).compile(), last=_third).compile()
asking_parent = _chain(child=_chain(inner=_ask).compile(), last=_third).compile()
configured = _chain(Items, Tone, greet=_greet).compile()
configured_strictly = _chain(Items, Name, show=_show).compile()
unconfigured = _chain(show=_show).compile()
