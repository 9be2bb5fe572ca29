"""State: what a thread holds at a checkpoint, in the protocol's form."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import PregelTask, StateSnapshot


def thread_state(snapshot: StateSnapshot) -> dict[str, object]:
    """A ThreadState of langgraph_sdk.schema; an empty thread has empty values and no checkpoint."""
    checkpoint = _checkpoint(snapshot.config) if snapshot.created_at or snapshot.metadata else None
    parent = _checkpoint(snapshot.parent_config)
    return {
        "values": snapshot.values or {},
        "next": list(snapshot.next),
        "tasks": [_task(task) for task in snapshot.tasks],
        "metadata": snapshot.metadata or {},
        "created_at": _utc(snapshot.created_at),
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt(found) for found in snapshot.interrupts],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def interrupts(snapshot: StateSnapshot) -> dict[str, list[dict[str, object]]]:
    """What waits for an answer, by task id, as a thread's row holds it."""
    return {task.id: [_interrupt(found) for found in task.interrupts] for task in snapshot.tasks if task.interrupts}


def _task(task: PregelTask) -> dict[str, object]:
    state = task.state
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": repr(task.error) if isinstance(task.error, BaseException) else task.error,
        "interrupts": [_interrupt(found) for found in task.interrupts],
        "checkpoint": _checkpoint(cast("RunnableConfig", state)) if isinstance(state, Mapping) else None,
        "state": thread_state(state) if isinstance(state, StateSnapshot) else None,
        "result": task.result,
    }


def _interrupt(found: Any) -> dict[str, object]:
    return {"id": found.id, "value": found.value}


def _checkpoint(config: Any) -> dict[str, object] | None:
    """The ids of a checkpoint; of a subgraph that is waiting, the namespace to ask for."""
    if not config:
        return None
    configurable = cast("dict[str, Any]", config)["configurable"]
    found = {
        "thread_id": configurable["thread_id"],
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
        "checkpoint_id": configurable.get("checkpoint_id"),
    }
    if "checkpoint_map" in configurable:
        found["checkpoint_map"] = configurable["checkpoint_map"]
    return found


def _utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
