"""Snapshots: the state of a thread at a checkpoint, in the protocol's form."""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import PregelTask, StateSnapshot

from threadkeep.base import json
from threadkeep.base.problems import StateInvalid
from threadkeep.graphs import Graph
from threadkeep.runs.failures import error_report
from threadkeep.tables.threads import ThreadSummary

log = logging.getLogger(__name__)

REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""Exceptions that a graph author's code raises for unexpected values."""


def thread_state(snapshot: StateSnapshot) -> dict[str, object]:
    """Return a ThreadState of langgraph_sdk.schema. An empty thread has empty values and no checkpoint.

    As on the reference server, the state of a missing checkpoint has its id and empty values.
    """
    configurable = cast("Mapping[str, Any]", snapshot.config.get("configurable", {}))
    checkpoint = checkpoint_ids(snapshot.config) if configurable.get("checkpoint_id") else None
    parent = checkpoint_ids(snapshot.parent_config)
    return {
        "values": {} if snapshot.values is None else snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task(task) for task in snapshot.tasks],
        "metadata": snapshot.metadata,
        "created_at": _utc(snapshot.created_at),
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt(interrupt) for interrupt in snapshot.interrupts],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent.get("checkpoint_id"),
    }


async def snapshot_of(graph: Graph, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
    """The graph's state at a checkpoint. StateInvalid if it no longer fits the graph's schema."""
    with reading():
        return await graph.aget_state(config, subgraphs=subgraphs)


@contextmanager
def reading() -> Generator[None]:
    """Turn exceptions of a graph's schema, reducer or edge into StateInvalid. They do not accept the state."""
    try:
        yield
    except REFUSALS as refusal:
        log.info("a state does not match the schema of its graph", extra={"error_type": type(refusal).__name__})
        report = error_report(refusal)
        raise StateInvalid(
            f"the thread's state does not match the schema of its graph: {report['error']}: {report['message']}"
        ) from refusal


def interrupts(snapshot: StateSnapshot) -> dict[str, list[dict[str, object]]]:
    """The open interrupts by task id, as a thread's row stores them."""
    return {
        task.id: [_interrupt(interrupt) for interrupt in task.interrupts] for task in snapshot.tasks if task.interrupts
    }


def thread_summary(snapshot: StateSnapshot) -> ThreadSummary:
    """The columns of a thread's row for its newest checkpoint, if no run is active."""
    return ThreadSummary(
        status="interrupted" if snapshot.next else "idle",
        values=json.dumps({} if snapshot.values is None else snapshot.values),
        interrupts=interrupts(snapshot),
    )


def _task(task: PregelTask) -> dict[str, object]:
    state = task.state
    untyped: Any = task  # the type of `path` is incomplete
    return {
        "id": task.id,
        "name": task.name,
        "path": list(untyped.path),
        "error": repr(task.error) if isinstance(task.error, BaseException) else task.error,
        "interrupts": [_interrupt(interrupt) for interrupt in task.interrupts],
        "checkpoint": checkpoint_ids(state) if isinstance(state, Mapping) else None,
        "state": thread_state(state) if isinstance(state, StateSnapshot) else None,
        "result": task.result,
    }


def _interrupt(interrupt: Any) -> dict[str, object]:
    return {"id": interrupt.id, "value": interrupt.value}


def checkpoint_ids(config: RunnableConfig | None) -> dict[str, object] | None:
    """The ids of a checkpoint, or the namespace of a waiting subgraph, which a client can read by it."""
    if not config:
        return None
    configurable = cast("Mapping[str, Any]", config.get("configurable", {}))
    checkpoint: dict[str, object] = {
        "thread_id": configurable["thread_id"],
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
    }
    # A waiting subgraph has only a namespace, because its config has no checkpoint yet.
    return checkpoint | {key: configurable[key] for key in ("checkpoint_id", "checkpoint_map") if configurable.get(key)}


def _utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
