"""An application that is about to move: LangGraph with its own saver and no server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from adopt_graphs import BUILDERS
from threadkeep.commands.adopt.report import Report
from threadkeep.graphs import LoadedGraph, as_loaded_graph

Adopt = Callable[..., Awaitable[Report]]
"""Runs `threadkeep adopt` with these graphs: the source, and options by name."""


AEGRA_TABLES = """
    CREATE TABLE assistant (
        assistant_id text PRIMARY KEY, name text NOT NULL, description text, graph_id text NOT NULL,
        config jsonb DEFAULT '{}', context jsonb DEFAULT '{}', user_id text NOT NULL, metadata jsonb DEFAULT '{}');
    CREATE TABLE thread (
        thread_id text PRIMARY KEY, status text DEFAULT 'idle', metadata_json jsonb DEFAULT '{}', user_id text NOT NULL,
        created_at timestamptz DEFAULT '2025-01-02 03:04:05+00', updated_at timestamptz DEFAULT '2025-02-03 04:05:06+00');
    CREATE TABLE crons (
        cron_id text PRIMARY KEY, assistant_id text NOT NULL, thread_id text, user_id text NOT NULL,
        schedule text NOT NULL, payload jsonb DEFAULT '{}', metadata jsonb DEFAULT '{}', on_run_completed text,
        enabled boolean DEFAULT true, end_time timestamptz, claimed_until timestamptz);
"""
"""The tables of an Aegra server that are read, beside those of LangGraph's saver."""
PROJECT = """
{"dependencies": ["."], "graphs": {"memory": "./agent.py:memory", "order": "./agent.py:order"}}
"""
AGENT = "from adopt_graphs import BUILDERS\nmemory, order = [build() for build in BUILDERS.values()]\n"


def write_project(folder: Path, langgraph_json: str = PROJECT) -> None:
    """Write the project with these graphs. Its PYTHONPATH needs the folder of this file."""
    (folder / "langgraph.json").write_text(langgraph_json)
    (folder / "agent.py").write_text(AGENT)


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
