"""An application that is about to move: LangGraph with its own saver and no server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from adopt_graphs import BUILDERS
from threadkeep.commands.adopt.report import Report
from threadkeep.graphs import LoadedGraph, as_loaded_graph

Adopt = Callable[..., Awaitable[Report]]
"""Runs `threadkeep adopt` with these graphs: the source, and options by name."""


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
