"""Graphs of which the tests of A2A get each kind of answer: real and small."""

from typing import Any, TypedDict

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from openai_graphs import OPENAI_GRAPHS, Script, single, words


class Sum(TypedDict, total=False):
    """The state of a graph that takes no messages."""

    numbers: list[int]
    total: int


class SumOutput(TypedDict):
    """Its output."""

    total: int


async def _add(state: Sum) -> Any:
    return {"total": sum(state["numbers"])}


async def _confirm(state: Sum) -> Any:
    more = interrupt({"message": "How much more?", "total": state["total"]})
    return {"total": state["total"] + more["more"]}


def _sum_graph(*, asks: bool) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(Sum, output_schema=SumOutput).add_node("add", _add).add_edge(START, "add")
    if not asks:
        return graph.add_edge("add", END)
    return graph.add_node("confirm", _confirm).add_edge("add", "confirm").add_edge("confirm", END)


async def _show(state: MessagesState, config: RunnableConfig) -> Any:
    """Give back the content that came, and what A2A put into the configuration."""
    last = state["messages"][-1]
    blocks: list[Any] = [*last.content_blocks, {"type": "non_standard", "value": config["configurable"]["a2a"]}]
    return {"messages": [AIMessage(blocks)]}


async def _chat(state: MessagesState) -> Any:
    """Ask until the answer is `done`."""
    answers: list[str] = []
    while (answer := interrupt("What else?")) != "done":
        answers.append(str(answer))
    return {"messages": [AIMessage(", ".join(answers) or "nothing")]}


async def _twice(state: MessagesState) -> Any:
    """Say something, and then say something else."""
    first = await words("the first").ainvoke("")
    second = await words("the second").ainvoke("")
    return {"messages": [first, second]}


async def _gated(state: MessagesState) -> Any:
    chunks = [AIMessageChunk("before "), AIMessageChunk("after", additional_kwargs={"gate": True}), AIMessageChunk("!")]
    return {"messages": [await Script(pieces=chunks).ainvoke("")]}


NAMES = (
    "approval",
    "ask",
    "ask/two",
    "echo",
    "fail",
    "fail-late",
    "hidden",
    "long",
    "odd",
    "parent",
    "plain",
    "think",
    "twice",
)
A2A_GRAPHS: dict[str, Any] = {name: OPENAI_GRAPHS[name] for name in NAMES} | {
    "chat": single(_chat),
    "gated": single(_gated),
    "show": single(_show),
    "speeches": single(_twice),
    "sum": _sum_graph(asks=False),
    "sum-asks": _sum_graph(asks=True),
}
