"""Updates: changes of a thread's state by a client instead of a run.

A change locks the thread and is one transaction (`gate`). It has a time limit, because the edges of a graph are its
author's code.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import anyio
from langchain_core.runnables import RunnableConfig
from langgraph.errors import EmptyInputError, InvalidUpdateError
from langgraph.types import StateUpdate
from pydantic import BaseModel, ConfigDict

from threadkeep.base import ids
from threadkeep.base.problems import InvalidRequest, NotFound, Problem
from threadkeep.graphs import Graph, LoadedGraph, Tenant
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs import snapshots
from threadkeep.runs.failures import error_report
from threadkeep.runs.graph_runner import graph_command
from threadkeep.runs.isolation import isolate
from threadkeep.runs.request import Command
from threadkeep.tables import idempotency_keys, thread_checkpoints, threads
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.threads import NewThread, Thread
from threadkeep.threads import gate, history
from threadkeep.threads.history import CheckpointRef, ThreadParts

log = logging.getLogger(__name__)

UPDATE_TIMEOUT_S = 20.0
"""Seconds that a change may take. A new run on the thread may have to wait as long."""
HOLD_S = UPDATE_TIMEOUT_S + 5
"""Seconds without a statement after which Postgres releases the thread of a blocked process."""

CLIENT_ERRORS = (InvalidUpdateError, EmptyInputError, ValueError, TypeError)
"""Exceptions of LangGraph, a schema or a reducer for values that it does not accept."""


class UpdateTimeout(Problem):
    """The graph took too long to change its state."""

    status, code = 504, "timeout"


class ThreadStateUpdate(BaseModel):
    """Values or a Command, applied as if a node had returned them."""

    model_config = ConfigDict(extra="ignore")

    values: dict[str, Any] | list[Any] | None = None
    command: Command | None = None
    as_node: str | None = None

    @property
    def state_update(self) -> StateUpdate:
        update: Any = self.values if self.command is None else graph_command(self.command)
        return StateUpdate(update, self.as_node)


class Superstep(BaseModel):
    """Updates that are applied as one step."""

    model_config = ConfigDict(extra="ignore")

    updates: list[ThreadStateUpdate]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadUpdate:
    """A change of one thread's state, based on a checkpoint."""

    checkpoint: CheckpointRef
    update: ThreadStateUpdate
    then: Sequence[ThreadStateUpdate] = ()
    """Further steps, one after the other."""

    @property
    def supersteps(self) -> list[Superstep]:
        return [Superstep(updates=[update]) for update in (self.update, *self.then)]


async def update_state(parts: ThreadParts, tenant: Tenant, thread_id: UUID, change: ThreadUpdate) -> RunnableConfig:
    """Add a checkpoint to the thread, and return the config that selects it.

    NotFound if there is no such thread or checkpoint, ThreadBusy if a run is active, InvalidRequest if no graph has run
    on the thread or the graph does not accept the values.
    """
    filters = tenant.filters
    thread = await _thread(parts, filters, thread_id)
    loaded = _graph_of(parts, thread)
    config = _update_config(thread_id, thread.metadata.load(), change.checkpoint)
    async with (
        history.open_graph(loaded, tenant, thread_id, "threads.update") as opened,
        gate.held(parts.pool, filters, thread_id, within_s=HOLD_S) as conn,
    ):
        if await _has_graph(parts, conn, thread_id, loaded):
            graph = gate.in_transaction(opened, conn)
            # LangGraph returns an empty state for a checkpoint that does not exist.
            if change.checkpoint.checkpoint_id and (await snapshots.snapshot_of(graph, config)).created_at is None:
                raise NotFound(f"Checkpoint {change.checkpoint.checkpoint_id} not found")
            added = await _apply(graph, config, change.supersteps)
            await _settle(conn, graph, thread_id)
            return added
    # Another graph has run on the thread since it was read. The lock is released, and that graph is opened.
    return await update_state(parts, tenant, thread_id, change)


async def create_thread(
    parts: ThreadParts,
    tenant: Tenant,
    new: NewThread,
    supersteps: Sequence[Superstep],
    key: IdempotencyKey | None = None,
) -> Thread | None:
    """Create a thread with the state after `supersteps`, or without a state. None if the id is taken.

    The transaction also completes `key`. InvalidRequest if the metadata has no graph id or the graph does not accept the
    values, NotFound if there is no such graph.
    """
    if not supersteps:
        return await _create_empty(parts, tenant.filters, new, key)
    graph_id: object = new.metadata.get("graph_id")
    if not graph_id:
        raise InvalidRequest("supersteps need a graph: set 'graph_id' in the metadata")
    loaded = history.require_graph(parts.graphs, graph_id)
    async with (
        history.open_graph(loaded, tenant, new.thread_id, "threads.update") as opened,
        parts.pool.connection(tenant.filters) as conn,
        conn.transaction(),
    ):
        if await threads.create(conn, new) is None:
            return None
        # No other transaction sees the new row. The lock only sets the limit for a blocked process.
        await threads.lock(conn, UNRESTRICTED, new.thread_id, within_s=HOLD_S)
        graph = gate.in_transaction(opened, conn)
        await _apply(graph, _update_config(new.thread_id, new.metadata), supersteps)
        if key is not None:
            await idempotency_keys.complete(conn, key)
        return await _settle(conn, graph, new.thread_id)


async def _create_empty(
    parts: ThreadParts, filters: Filters, new: NewThread, key: IdempotencyKey | None
) -> Thread | None:
    if key is None:
        async with parts.pool.connection(filters) as conn:
            return await threads.create(conn, new)
    async with parts.pool.connection(filters) as conn, conn.transaction():
        thread = await threads.create(conn, new)
        if thread is not None:
            await idempotency_keys.complete(conn, key)
    return thread


async def copy_thread(parts: ThreadParts, tenant: Tenant, thread_id: UUID, marks: Mapping[str, Any]) -> Thread:
    """Create a thread with the checkpoints of another one, and its metadata overwritten by `marks`. NotFound.

    From a busy thread it copies the checkpoints that the run has written so far, and its row is updated to match them.
    """
    filters = tenant.filters
    source = await _thread(parts, filters, thread_id)
    loaded = _served(parts, source)
    async with (
        nullcontext() if loaded is None else history.open_graph(loaded, tenant, thread_id) as graph,
        parts.pool.connection(filters) as conn,
        conn.transaction(),
    ):
        if not await threads.lock(conn, filters, thread_id, within_s=HOLD_S):
            raise NotFound(f"Thread with ID {thread_id} not found")
        if await _has_graph(parts, conn, thread_id, loaded):
            thread, source_busy = await thread_checkpoints.copy_thread(conn, thread_id, ids.uuid7(), marks)
            # The row of an idle thread already matches its checkpoints, and was copied with them.
            if graph is None or not source_busy:
                return thread
            return await _settle(conn, gate.in_transaction(graph, conn), thread.thread_id)
    # Another graph has run on the thread since it was read, so it is opened again with that graph.
    return await copy_thread(parts, tenant, thread_id, marks)


async def _thread(parts: ThreadParts, filters: Filters, thread_id: UUID) -> Thread:
    async with parts.pool.connection(filters) as conn:
        thread = await threads.get(conn, filters, thread_id)
    if thread is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return thread


def _update_config(
    thread_id: UUID, metadata: Mapping[str, Any], checkpoint: CheckpointRef = history.LATEST
) -> RunnableConfig:
    """The config of a change. The metadata of its checkpoint names the thread's graph, as a run's does."""
    config = history.checkpoint_config(thread_id, checkpoint)
    return {**config, "metadata": {"graph_id": metadata["graph_id"]}}


def _graph_of(parts: ThreadParts, thread: Thread) -> LoadedGraph:
    """The thread's graph. It is opened before the thread is locked, because a graph factory may be slow."""
    loaded = history.thread_graph(parts.graphs, thread)
    if loaded is None:
        raise InvalidRequest(
            f"Thread '{thread.thread_id}' has no assigned graph ID. Make a run on it first, or set 'graph_id' in its metadata."
        )
    return loaded


async def _has_graph(parts: ThreadParts, conn: Conn, thread_id: UUID, loaded: LoadedGraph | None) -> bool:
    """Whether the locked thread still has the opened graph. If not, the thread was created again, or another graph has
    run on it."""
    thread = await threads.get_without_values(conn, UNRESTRICTED, thread_id)
    return thread is not None and _served(parts, thread) is loaded


def _served(parts: ThreadParts, thread: Thread) -> LoadedGraph | None:
    """The thread's graph. None if no graph has run on it, or this process does not serve the graph."""
    graph_id: object = thread.metadata.load().get("graph_id")
    return parts.graphs.get(graph_id) if isinstance(graph_id, str) else None


async def _apply(graph: Graph, config: RunnableConfig, supersteps: Sequence[Superstep]) -> RunnableConfig:
    updates = [[update.state_update for update in step.updates] for step in supersteps]
    try:
        with anyio.fail_after(UPDATE_TIMEOUT_S):
            return await isolate(partial(graph.abulk_update_state, config, updates))
    except CLIENT_ERRORS as refusal:
        log.info("state update refused", extra={"error_type": type(refusal).__name__})
        raise InvalidRequest(error_report(refusal)["message"]) from None
    except TimeoutError:
        raise UpdateTimeout(f"the graph took more than {UPDATE_TIMEOUT_S:g} s to update its state") from None


async def _settle(conn: Conn, graph: Graph, thread_id: UUID) -> Thread:
    """Update the thread's row from its newest checkpoint."""
    snapshot = await snapshots.snapshot_of(graph, history.checkpoint_config(thread_id))
    row = await threads.update_summary(conn, thread_id, snapshots.thread_summary(snapshot))
    if row is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return row
