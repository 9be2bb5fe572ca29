"""Updates: a thread's state changed by a client instead of by a run.

A change holds the thread's row from its look at the runs to the end, so that no run starts in between and both the
checkpoint and the row are there when it ends. Its time is bounded, for the edges of a graph are its author's code.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import anyio
from langchain_core.runnables import RunnableConfig
from langgraph.errors import EmptyInputError, InvalidUpdateError
from langgraph.types import StateUpdate
from pydantic import BaseModel, ConfigDict

from threadkeep import ids
from threadkeep.db import queue, thread_checkpoints, threads
from threadkeep.db.filters import Filters
from threadkeep.db.pool import Conn
from threadkeep.db.threads import NewThread, Thread
from threadkeep.engine import history, state
from threadkeep.engine.engine import Engine
from threadkeep.engine.failures import describe
from threadkeep.engine.history import At
from threadkeep.engine.job import graph_command
from threadkeep.engine.spec import Command
from threadkeep.graphs import Graph
from threadkeep.problems import InvalidRequest, NotFound, Problem, ThreadBusy

log = logging.getLogger(__name__)

UPDATE_S = 20.0
"""How long a change may take, and so how long a run may have to wait for it."""
CLEAN_S = 5.0

REFUSALS = (InvalidUpdateError, EmptyInputError, ValueError, TypeError)
"""What LangGraph, a schema or a reducer raises on values that it does not take."""


class UpdateTimeout(Problem):
    """The graph took too long over a change of its state."""

    status, code = 504, "timeout"


class Update(BaseModel):
    """Values that a node is said to have returned, or the Command."""

    model_config = ConfigDict(extra="ignore")

    values: dict[str, Any] | list[Any] | None = None
    command: Command | None = None
    as_node: str | None = None

    @property
    def state_update(self) -> StateUpdate:
        given: Any = self.values if self.command is None else graph_command(self.command)
        return StateUpdate(given, self.as_node)


class Superstep(BaseModel):
    """Updates that are applied as one step."""

    model_config = ConfigDict(extra="ignore")

    updates: list[Update]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of one thread's state: at which checkpoint, and what."""

    at: At
    update: Update


async def update_state(engine: Engine, filters: Filters, thread_id: UUID, change: Change) -> RunnableConfig:
    """Add a checkpoint to the thread; the config that names it.

    NotFound without the thread, ThreadBusy while a run is on it, InvalidRequest where no graph has run on it yet or
    its graph does not take the values.
    """
    async with engine.pool.connection() as conn, conn.transaction():
        thread = await _free_thread(conn, filters, thread_id)
        async with _graph(engine, thread) as graph:
            added = await _apply(graph, history.config(thread, change.at), [Superstep(updates=[change.update])])
            await _settle(conn, graph, thread)
    return added


async def create_thread(
    engine: Engine, filters: Filters, new: NewThread, supersteps: Sequence[Superstep]
) -> Thread | None:
    """Make a thread whose state is what `supersteps` leave, or none at all; None where the id is taken.

    InvalidRequest and NotFound as above, by `graph_id` of its metadata.
    """
    async with engine.pool.connection() as conn, conn.transaction():
        thread = await threads.create(conn, new)
        if thread is None or not supersteps:
            return thread
        async with _graph(engine, thread) as graph, _all_or_nothing(engine, thread):
            await _apply(graph, history.config(thread), supersteps)
            return await _settle(conn, graph, thread)


async def copy_thread(engine: Engine, filters: Filters, thread_id: UUID) -> Thread:
    """A new thread with the checkpoints of another one; NotFound without that.

    From a busy one it gets what the run has written so far, and its row tells of that.
    """
    async with engine.pool.connection() as conn:
        copied = await thread_checkpoints.copy(conn, filters, thread_id, ids.uuid7())
        if copied is None:
            raise NotFound(f"Thread with ID {thread_id} not found")
        if not copied.source_busy or copied.metadata.load().get("graph_id") not in engine.graphs:
            return copied.thread
        async with _graph(engine, copied) as graph:
            return await _settle(conn, graph, copied)


async def _free_thread(conn: Conn, filters: Filters, thread_id: UUID) -> Thread:
    """The thread, locked."""
    await queue.lock_thread(conn, thread_id)
    thread = await threads.get(conn, filters, thread_id)
    if thread is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    if run_id := await threads.busy_with(conn, thread_id):
        raise ThreadBusy("Thread is running a task: its state can be updated when that has ended.", run_id=str(run_id))
    return thread


@asynccontextmanager
async def _graph(engine: Engine, thread: Thread) -> AsyncGenerator[Graph]:
    loaded = history.graph_of(engine, thread)
    if loaded is None:
        raise InvalidRequest(
            f"Thread '{thread.thread_id}' has no assigned graph ID. Make a run on it first, or set 'graph_id' in its "
            "metadata."
        )
    async with history.opened(loaded, thread, "threads.update") as graph:
        yield graph


async def _apply(graph: Graph, config: RunnableConfig, supersteps: Sequence[Superstep]) -> RunnableConfig:
    updates = [[update.state_update for update in step.updates] for step in supersteps]
    try:
        with anyio.fail_after(UPDATE_S):
            return await graph.abulk_update_state(config, updates)
    except REFUSALS as refusal:
        log.info("an update of a state was refused", extra={"error": type(refusal).__name__})
        raise InvalidRequest(describe(refusal)["message"]) from None
    except TimeoutError:
        raise UpdateTimeout(f"the graph took over {UPDATE_S:g} s to update its state") from None


async def _settle(conn: Conn, graph: Graph, thread: Thread) -> Thread:
    """Make the thread's row tell what its newest checkpoint holds."""
    snapshot = await graph.aget_state(history.config(thread))
    row = await threads.settle(conn, thread.thread_id, state.settled(snapshot))
    if row is None:
        raise NotFound(f"Thread with ID {thread.thread_id} not found")
    return row


@asynccontextmanager
async def _all_or_nothing(engine: Engine, thread: Thread) -> AsyncGenerator[None]:
    """Take back the checkpoints of a thread that is not to be: they were written on connections of the saver's own."""
    try:
        yield
    except BaseException:
        with anyio.move_on_after(CLEAN_S, shield=True):
            await engine.saver.adelete_thread(str(thread.thread_id))
        raise
