"""History: a thread's states, read through its graph, which alone knows what its channels mean.

A read is the saver's one statement for all checkpoints that are asked for, and one more for each subgraph whose state
is asked for too. It takes no slot.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot
from langgraph_sdk.runtime import AccessContext

from threadkeep.base.problems import NotFound
from threadkeep.graphs import Graph, LoadedGraph, Tenant
from threadkeep.runs.engine import Engine
from threadkeep.runs.snapshots import thread_state
from threadkeep.tables.threads import Thread

EMPTY = StateSnapshot(
    values={}, next=(), config={}, metadata=None, created_at=None, parent_config=None, tasks=(), interrupts=()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """A checkpoint of a thread: without an id the newest, in a subgraph's namespace or the graph's own."""

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""


NEWEST = At()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which states: at most `limit`, behind the checkpoint `before`, whose metadata contains `metadata`."""

    limit: int
    before: str | None = None
    metadata: Mapping[str, Any] | None = None
    at: At = NEWEST


async def state(
    engine: Engine, tenant: Tenant, thread: Thread, at: At = NEWEST, *, subgraphs: bool = False
) -> dict[str, object]:
    """The ThreadState at a checkpoint; of one that there is not, an empty one."""
    loaded = graph_of(engine, thread)
    if loaded is None:
        return thread_state(EMPTY)
    async with opened(loaded, tenant, thread.thread_id) as graph:
        return thread_state(await graph.aget_state(config(thread.thread_id, at), subgraphs=subgraphs))


async def states(engine: Engine, tenant: Tenant, thread: Thread, wanted: Wanted) -> list[dict[str, object]]:
    """ThreadStates, the newest first, of all branches."""
    loaded = graph_of(engine, thread)
    if loaded is None:
        return []
    before = config(thread.thread_id, At(checkpoint_id=wanted.before)) if wanted.before else None
    async with opened(loaded, tenant, thread.thread_id) as graph:
        found = graph.aget_state_history(
            config(thread.thread_id, wanted.at), filter=dict(wanted.metadata or {}), before=before, limit=wanted.limit
        )
        return [thread_state(snapshot) async for snapshot in found]


def config(thread_id: UUID, at: At = NEWEST) -> RunnableConfig:
    """The config that names a checkpoint of the thread, and of no other."""
    configurable = {"thread_id": str(thread_id), "checkpoint_ns": at.checkpoint_ns}
    if at.checkpoint_id:
        configurable["checkpoint_id"] = at.checkpoint_id
    return {"configurable": configurable}


def graph_of(engine: Engine, thread: Thread) -> LoadedGraph | None:
    """The graph that last ran on the thread; None before the first run, NotFound where it is no longer served."""
    graph_id = cast("object", thread.metadata.load().get("graph_id"))
    return served(engine, graph_id) if graph_id else None


def served(engine: Engine, graph_id: object) -> LoadedGraph:
    """The graph of that name, which came from a client; NotFound where there is none."""
    loaded = engine.graphs.get(graph_id) if isinstance(graph_id, str) else None
    if loaded is None:
        raise NotFound(f"Graph {str(graph_id)[:100]!r} not found. Expected one of: {sorted(engine.graphs)}")
    return loaded


@asynccontextmanager
async def opened(
    loaded: LoadedGraph, tenant: Tenant, thread_id: UUID, access: AccessContext = "threads.read"
) -> AsyncGenerator[Graph]:
    """The graph, for what a client does with a thread beside running it."""
    async with loaded.open(config(thread_id), durable=True, access=access, tenant=tenant) as graph:
        yield graph
