"""State: what a thread holds at a checkpoint, in the protocol's form."""

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
"""What code of a graph's author raises at values that it did not expect."""


def thread_state(snapshot: StateSnapshot) -> dict[str, object]:
    """A ThreadState of langgraph_sdk.schema; an empty thread has empty values and no checkpoint.

    As on the reference, a checkpoint that there is not is named nevertheless, with empty values.
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
        "interrupts": [_interrupt(found) for found in snapshot.interrupts],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent.get("checkpoint_id"),
    }


async def snapshot_of(graph: Graph, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
    """The graph's state at a checkpoint. StateInvalid if it no longer fits the graph's schema."""
    with reading():
        return await graph.aget_state(config, subgraphs=subgraphs)


@contextmanager
def reading() -> Generator[None]:
    """StateInvalid in place of what a graph's schema, a reducer or an edge raises at a state that it does not take."""
    try:
        yield
    except REFUSALS as refusal:
        log.info("a state does not fit its graph", extra={"error_type": type(refusal).__name__})
        told = error_report(refusal)
        raise StateInvalid(
            f"the thread's state does not fit its graph: {told['error']}: {told['message']}"
        ) from refusal


def interrupts(snapshot: StateSnapshot) -> dict[str, list[dict[str, object]]]:
    """What waits for an answer, by task id, as a thread's row holds it."""
    return {task.id: [_interrupt(found) for found in task.interrupts] for task in snapshot.tasks if task.interrupts}


def thread_summary(snapshot: StateSnapshot) -> ThreadSummary:
    """What the thread's row is to say of its newest checkpoint while no run goes on."""
    return ThreadSummary(
        status="interrupted" if snapshot.next else "idle",
        values=json.dumps({} if snapshot.values is None else snapshot.values),
        interrupts=interrupts(snapshot),
    )


def _task(task: PregelTask) -> dict[str, object]:
    state = task.state
    whole: Any = task  # the type of `path` is not whole
    return {
        "id": task.id,
        "name": task.name,
        "path": list(whole.path),
        "error": repr(task.error) if isinstance(task.error, BaseException) else task.error,
        "interrupts": [_interrupt(found) for found in task.interrupts],
        "checkpoint": checkpoint_ids(state) if isinstance(state, Mapping) else None,
        "state": thread_state(state) if isinstance(state, StateSnapshot) else None,
        "result": task.result,
    }


def _interrupt(found: Any) -> dict[str, object]:
    return {"id": found.id, "value": found.value}


def checkpoint_ids(config: RunnableConfig | None) -> dict[str, object] | None:
    """The ids of a checkpoint; of a subgraph that is waiting, the namespace to ask for."""
    if not config:
        return None
    configurable = cast("Mapping[str, Any]", config.get("configurable", {}))
    found: dict[str, object] = {
        "thread_id": configurable["thread_id"],
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
    }
    return found | {key: configurable[key] for key in ("checkpoint_id", "checkpoint_map") if configurable.get(key)}


def _utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
