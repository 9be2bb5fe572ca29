"""Graphs of an application that is about to move. LangGraph's own server serves them too, so nothing else is imported."""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


async def _remember(state: MessagesState) -> MessagesState:
    told = [str(message.content) for message in state["messages"] if message.type == "human"]
    names = [text.removeprefix("My name is ") for text in told if text.startswith("My name is ")]
    return {"messages": [AIMessage(f"You are {names[-1]}." if names else "I do not know you.")]}


def _memory() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("remember", _remember)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", END)
    return graph


def _joined(old: list[str], new: list[str]) -> list[str]:
    return [*old, *new]


class Order(TypedDict, total=False):
    """A state with a list, a number and a text."""

    steps: Annotated[list[str], _joined]
    amount: int
    note: str


async def _price(state: Order) -> Order:
    return {"steps": ["priced"], "amount": 12, "note": "secret note"}


async def _ask(state: Order) -> Order:
    return {"steps": [f"approved by {interrupt('Who approves?')}"]}


async def _ship(state: Order) -> Order:
    return {"steps": ["shipped"]}


def _order() -> StateGraph[Any, Any, Any, Any]:
    """It asks in a subgraph."""
    approval = StateGraph(Order)
    approval.add_node("ask", _ask)
    approval.add_edge(START, "ask")
    graph = StateGraph(Order)
    graph.add_node("price", _price)
    graph.add_node("approval", approval.compile())
    graph.add_node("ship", _ship)
    graph.add_edge(START, "price")
    graph.add_edge("price", "approval")
    graph.add_edge("approval", "ship")
    return graph


BUILDERS: Mapping[str, Any] = {"memory": _memory, "order": _order}
