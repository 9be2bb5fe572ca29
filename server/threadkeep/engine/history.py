"""History: a thread's states, read through its graph, which alone knows what its channels mean."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from threadkeep.db.threads import Thread
from threadkeep.engine.engine import Engine
from threadkeep.engine.state import thread_state
from threadkeep.graphs import Graph

EMPTY = StateSnapshot(
    values={}, next=(), config={}, metadata=None, created_at=None, parent_config=None, tasks=(), interrupts=()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which states: at most `limit`, behind the checkpoint `before`, whose metadata contains `metadata`."""

    limit: int
    before: str | None = None
    metadata: Mapping[str, Any] | None = None
    checkpoint_ns: str = ""
    checkpoint_id: str | None = None


def checkpoint_id(named: Any) -> str | None:
    """The id in whatever form a client names a checkpoint: an id, a checkpoint object, or a config around one."""
    if not named or isinstance(named, str):
        return named or None
    if isinstance(named, Mapping):
        found = cast("Mapping[str, Any]", named)
        inner = found.get("configurable")
        return checkpoint_id((inner if isinstance(inner, Mapping) else found).get("checkpoint_id"))
    return None


def graph_id(thread: Thread) -> str | None:
    """The graph that last ran on the thread; None before the first run."""
    return thread.metadata.load().get("graph_id")


async def state(engine: Engine, thread: Thread, *, subgraphs: bool = False, at: Any = None) -> dict[str, object]:
    """The ThreadState at checkpoint `at` (an id, with or without a namespace), by default the newest."""
    async with _graph(engine, thread) as graph:
        if graph is None:
            return thread_state(EMPTY)
        return thread_state(await graph.aget_state(config(thread, at), subgraphs=subgraphs))


async def states(engine: Engine, thread: Thread, wanted: Wanted) -> list[dict[str, object]]:
    """ThreadStates, the newest first, of all branches."""
    async with _graph(engine, thread) as graph:
        if graph is None:
            return []
        at = {"checkpoint_ns": wanted.checkpoint_ns, "checkpoint_id": wanted.checkpoint_id}
        before = config(thread, {"checkpoint_id": wanted.before}) if wanted.before else None
        found = graph.aget_state_history(
            config(thread, at), filter=dict(wanted.metadata or {}), before=before, limit=wanted.limit
        )
        return [thread_state(snapshot) async for snapshot in found]


def config(thread: Thread, at: Any = None) -> RunnableConfig:
    """The config that names a checkpoint of the thread, and of no other, whatever a client says."""
    named = cast("Mapping[str, Any]", at) if isinstance(at, Mapping) else {"checkpoint_id": at}
    configurable: dict[str, Any] = {
        "thread_id": str(thread.thread_id),
        "checkpoint_ns": str(named.get("checkpoint_ns") or ""),
    }
    if named.get("checkpoint_id"):
        configurable["checkpoint_id"] = str(named["checkpoint_id"])
    return {"configurable": configurable}


@asynccontextmanager
async def _graph(engine: Engine, thread: Thread) -> AsyncIterator[Graph | None]:
    """The thread's graph, for reading; None where none has run yet, or it is no longer served."""
    loaded = engine.graphs.get(graph_id(thread) or "")
    if loaded is None:
        yield None
        return
    async with loaded.open(config(thread), durable=True, access="threads.read") as graph:
        yield graph
