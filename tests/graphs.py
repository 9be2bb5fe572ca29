"""Graphs that the tests run: real and small."""

import operator
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar, TypedDict

import anyio
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


class Gate:
    """The gate of the graph `gated`. `Gate.latest` is the running test's."""

    current: ClassVar[ContextVar["Gate"]] = ContextVar("gate")
    latest: ClassVar["Gate | None"] = None

    def __init__(self) -> None:
        self._entered = anyio.Semaphore(0)
        self._opened = anyio.Event()
        self.inside = 0
        self.most_inside = 0

    async def entered(self, times: int = 1) -> None:
        """Wait until a node has come to the gate, `times` of them."""
        with anyio.fail_after(5):
            for _ in range(times):
                await self._entered.acquire()

    def open(self) -> None:
        """Let all nodes through, those to come too."""
        self._opened.set()

    async def pass_through(self) -> None:
        """What the node does."""
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self._entered.release()
        try:
            await self._opened.wait()
        finally:
            self.inside -= 1

    @classmethod
    def open_all(cls) -> None:
        """Nothing is to wait any more: the test is over."""
        if cls.latest is not None:
            cls.latest.open()


class Items(TypedDict):
    """A state that grows."""

    items: Annotated[list[Any], operator.add]


def _chain(**nodes: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Items)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        graph.add_edge(before, after)
    return graph


async def _first(state: Items) -> Items:
    return {"items": ["first"]}


async def _second(state: Items) -> Items:
    return {"items": ["second"]}


async def _wait(state: Items) -> Items:
    gate = Gate.latest
    if gate is not None:
        await gate.pass_through()
    return {"items": ["gated"]}


async def _ask(state: Items) -> Items:
    return {"items": [interrupt({"question": "which?"})]}


async def _ask_again(state: Items) -> Items:
    return {"items": [interrupt({"question": "and which?"})]}


async def _fail(state: Items) -> Items:
    raise ValueError("the node failed")


async def _write(state: Items) -> Items:
    get_stream_writer()({"progress": 1})
    return {"items": ["written"]}


async def _speak(state: MessagesState) -> AsyncIterator[Any]:
    words = " ".join(f"word{number}" for number in range(5))
    model = GenericFakeChatModel(messages=iter([AIMessage(words, id="answer-" + str(len(state["messages"])))]))
    return {"messages": [await model.ainvoke(state["messages"])]}


def _speaker() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("speak", _speak)
    graph.add_edge(START, "speak")
    graph.add_edge("speak", END)
    return graph


def _parent() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Items)
    graph.add_node("child", _chain(inner=_first).compile())
    graph.add_node("last", _second)
    graph.add_edge(START, "child")
    graph.add_edge("child", "last")
    graph.add_edge("last", END)
    return graph


def _two_questions() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Items)
    graph.add_node("left", _ask)
    graph.add_node("right", _ask_again)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    return graph


def delta_graph() -> StateGraph[Any, Any, Any, Any]:
    """One whose values are spread over its checkpoints."""

    def extended(held: list[Any], added: Sequence[list[Any]]) -> list[Any]:
        return [*held, *(item for items in added for item in items)]

    state: Any = TypedDict("state", {"items": Annotated[list[Any], DeltaChannel(extended)]})
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    graph.add_node("first", _first, input_schema=state)
    graph.add_edge(START, "first")
    graph.add_edge("first", END)
    return graph


@entrypoint()
async def _counter(step: int, *, previous: int | None = None) -> int:
    return (previous or 0) + step


GRAPHS: dict[str, Any] = {
    "chain": _chain(first=_first, second=_second),
    "gated": _chain(gate=_wait),
    "asking": _chain(first=_first, ask=_ask, second=_second),
    "two_questions": _two_questions(),
    "failing": _chain(first=_first, fail=_fail),
    "writing": _chain(write=_write),
    "speaking": _speaker(),
    "parent": _parent(),
    "counter": _counter,
}
