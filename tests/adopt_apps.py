"""Graphs of an application that is about to move, and the application itself: LangGraph with its own saver and no server."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from threadkeep.adopt.report import Report
from threadkeep.graphs import LoadedGraph, as_loaded_graph

Adopt = Callable[..., Awaitable[Report]]
"""Runs `threadkeep adopt` with these graphs: the source, and options by name."""


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


def served_graphs() -> dict[str, LoadedGraph]:
    """The same graphs, as a server loads them."""
    return {name: as_loaded_graph(name, build(), where="tests") for name, build in BUILDERS.items()}


class App:
    """The application: it invokes its graphs with thread ids of its own."""

    def __init__(self, saver: AsyncPostgresSaver) -> None:
        self._graphs = {name: build().compile(checkpointer=saver) for name, build in BUILDERS.items()}

    async def say(self, thread_id: str, text: str, **configurable: str) -> str:
        """Ask the graph `memory`."""
        config: Any = {"configurable": {"thread_id": thread_id, **configurable}}
        state = await self._graphs["memory"].ainvoke({"messages": [("user", text)]}, config)
        return state["messages"][-1].content

    async def order(self, thread_id: str) -> Any:
        """Run the graph `order` until it asks."""
        config: Any = {"configurable": {"thread_id": thread_id}}
        return await self._graphs["order"].ainvoke({"steps": ["ordered"]}, config)

    async def checkpoint_ids(self, graph: str, thread_id: str) -> list[str]:
        """The ids of a thread's checkpoints, the newest first."""
        config: Any = {"configurable": {"thread_id": thread_id}}
        history = self._graphs[graph].aget_state_history(config)
        return [snapshot.config["configurable"]["checkpoint_id"] async for snapshot in history]


@asynccontextmanager
async def open_app(uri: str) -> AsyncIterator[App]:
    """The application on its own database."""
    async with AsyncPostgresSaver.from_conn_string(uri) as saver:
        await saver.setup()
        yield App(saver)
