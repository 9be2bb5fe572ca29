"""Snapshots: writes the states that a server's API returns as checkpoints of this server's saver.

A state has values, the next nodes and tasks, but no versions of channels. So each value goes through the channel of the
graph, as an update of the state does, and each next node gets the channel that starts it. Ids and parents stay.
Snapshots come newest first, so a channel keeps its version from the newest state with its value back to the oldest one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.types import (
    ERROR,
    INTERRUPT,
    _DeltaSnapshot,  # pyright: ignore[reportPrivateUsage] - the stock saver's
)
from langgraph.types import Interrupt
from pydantic import TypeAdapter, ValidationError

from threadkeep.base import json
from threadkeep.graphs import Graph
from threadkeep.persistence.checkpointer import Checkpointer

CHECKPOINT_VERSION: Final = 4
"""The format of LangGraph's checkpoints."""
FIRST_STEP: Final = -1
"""The step of a thread's first checkpoint, which is its input."""
INLINE: Final = (str, int, float, bool, type(None))
"""Types of values that each checkpoint has inside."""
MESSAGES: Final = TypeAdapter[Any](AnyMessage)
MESSAGE_KEYS: Final = frozenset({"type", "content", "additional_kwargs", "response_metadata", "id"})
"""Keys of the JSON of every message. A dictionary without one of them is not a message."""
PREVIOUS: Final = "__previous__"
"""The channel of an entrypoint with its last result."""
START: Final = "__start__"

Snapshot: TypeAlias = Mapping[str, Any]
"""A ThreadState of langgraph_sdk.schema."""
Versions: TypeAlias = dict[str, tuple[bytes, str]]
"""By channel: the digest of its value, and its version."""


@dataclass(slots=True, kw_only=True)
class SnapshotWriter:
    """Writes the snapshots of one thread, the newest first."""

    graph: Graph
    """It has a checkpointer that writes in the transaction of the thread."""
    thread_id: str
    _children: dict[str, Versions] = field(default_factory=dict[str, Versions])
    """By id of a checkpoint that is still to come: the versions of its newest child."""

    async def write(self, snapshot: Snapshot) -> None:
        """Write the checkpoint of a snapshot, and its open interrupts and errors."""
        checkpoint_id, parent_id = snapshot["checkpoint"]["checkpoint_id"], _parent_id(snapshot)
        known = self._children.pop(checkpoint_id, {})
        place = _Place(self.graph, self.thread_id, "", parent_id)
        versions = await _put(place, snapshot, known)
        if parent_id is not None:
            # Of several children of a fork the newest counts, which comes first.
            self._children.setdefault(parent_id, versions)
        await self._put_tasks(place, snapshot)

    async def _put_tasks(self, place: "_Place", snapshot: Snapshot) -> None:
        """Write the interrupts and errors of tasks, and the states of subgraphs that wait, at any depth."""
        tasks: Sequence[Snapshot] = snapshot.get("tasks") or ()
        # Most states have neither, and then the graph need not be asked for the ids of tasks.
        if not any(task.get("interrupts") or task.get("error") for task in tasks):
            return
        config = place.config(snapshot["checkpoint"]["checkpoint_id"])
        ids = _task_ids((await self.graph.aget_state(config)).tasks)
        for task in tasks:
            waiting = ids.get(task["name"])
            if not waiting:
                continue
            # Tasks of one node, as Send makes them, have the same order at the source.
            task_id = waiting.pop(0)
            if writes := _writes(task):
                await place.saver.aput_writes(config, writes, task_id)
            await self._put_subgraph(place, task, task_id)

    async def _put_subgraph(self, place: "_Place", task: Snapshot, task_id: str) -> None:
        """Write the state of a subgraph in its own namespace, whose last part is the id of the task."""
        state: Snapshot | None = task.get("state")
        untyped: Any = place.graph  # the types of its subgraphs are incomplete
        subgraph = dict(untyped.get_subgraphs()).get(task["name"])
        if not state or not state.get("checkpoint") or subgraph is None:
            return
        namespace = f"{place.namespace}|{task['name']}:{task_id}".lstrip("|")
        inner = _Place(subgraph, self.thread_id, namespace, None, place.saver)
        await _put(inner, state, {})
        await self._put_tasks(inner, state)


class _Place:
    """Where a checkpoint is written: the graph with its channels, the namespace and the parent."""

    def __init__(
        self, graph: Graph, thread_id: str, namespace: str, parent_id: str | None, saver: Checkpointer | None = None
    ) -> None:
        self.graph = graph
        self.namespace = namespace
        self.parent_id = parent_id
        self.saver = saver or cast("Checkpointer", graph.checkpointer)
        self._thread_id = thread_id

    def config(self, checkpoint_id: str | None) -> RunnableConfig:
        """The config that selects a checkpoint. A parent for a new one."""
        configurable = {"thread_id": self._thread_id, "checkpoint_ns": self.namespace}
        return {"configurable": configurable | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def _put(place: _Place, snapshot: Snapshot, known: Versions) -> Versions:
    """Write one checkpoint. A channel whose value a child has too, keeps the child's version and is not stored again."""
    metadata: dict[str, Any] = dict(snapshot.get("metadata") or {})
    step = metadata.get("step")
    values = channel_values(place.graph, snapshot)
    versions = _versions(values, step if isinstance(step, int) else FIRST_STEP, known)
    new = {channel: version for channel, (_, version) in versions.items() if known.get(channel, ("", ""))[1] != version}
    written = {channel: value for channel, value in values.items() if channel in new or isinstance(value, INLINE)}
    checkpoint: Any = {
        "v": CHECKPOINT_VERSION,
        "id": snapshot["checkpoint"]["checkpoint_id"],
        "ts": snapshot["created_at"],
        "channel_values": {channel: stored(place.graph, channel, value) for channel, value in written.items()},
        "channel_versions": {channel: version for channel, (_, version) in versions.items()},
        # The API does not return it. Only the channels of the next nodes have a value to start with, so only these run.
        "versions_seen": {},
    }
    await place.saver.aput(place.config(place.parent_id), checkpoint, cast("Any", metadata), cast("Any", new))
    return versions


def channel_values(graph: Graph, snapshot: Snapshot) -> dict[str, Any]:
    """The values by channel, with those that start the next nodes."""
    channels = _channels(graph)
    output = graph.stream_channels_asis
    state: Any = snapshot.get("values")
    values: dict[str, Any] = {output: state} if isinstance(output, str) else dict(state or {})
    if isinstance(output, str) and PREVIOUS in channels:
        values[PREVIOUS] = state
    values = {channel: value for channel, value in values.items() if isinstance(channels.get(channel), BaseChannel)}
    for node in snapshot.get("next") or ():
        branch = f"branch:to:{node}"
        if branch in channels:
            values[branch] = None
        elif node in graph.nodes and START in graph.nodes[node].triggers:
            values[START] = _input(snapshot)
    return values


def _channels(graph: Graph) -> Mapping[str, Any]:
    untyped: Any = graph  # the types of its channels are incomplete
    return untyped.channels


def _input(snapshot: Snapshot) -> Any:
    """The input of a run, which the first task has returned. It is not among the values yet."""
    results = [task.get("result") for task in snapshot.get("tasks") or () if task["name"] == START]
    return next(iter(results), None) or {}


def stored(graph: Graph, channel: str, value: Any) -> Any:
    """The value as the channel stores it, for example messages instead of their JSON."""
    spec = _channels(graph)[channel]
    empty = spec.copy()
    value = _with_messages(value)
    try:
        empty.update([value])
        empty.finish()
        return _DeltaSnapshot(empty.get()) if isinstance(spec, DeltaChannel) else empty.checkpoint()
    except Exception:  # noqa: BLE001 - a reducer is its author's code, and may refuse a whole state
        return value


def _with_messages(value: Any) -> Any:
    """The value with messages instead of their JSON, alone or in a list.

    A reducer for messages also takes their JSON, but puts half of it elsewhere.
    """
    if isinstance(value, list):
        return [_with_message(entry) for entry in cast("list[Any]", value)]
    return _with_message(value)


def _with_message(value: Any) -> Any:
    if not _is_message(value):
        return value
    try:
        return MESSAGES.validate_python(value)
    except ValidationError:
        return value


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and cast("dict[str, Any]", value).keys() >= MESSAGE_KEYS


def _versions(values: Mapping[str, Any], step: int, known: Versions) -> Versions:
    """The version of each channel: that of the child if the value is the same, else a new one by the step."""
    versions: Versions = {}
    for channel, value in values.items():
        digest = sha256(json.dumps(value)).digest()
        # LangGraph takes a random fraction. This one is the same for the same value in each call.
        fraction = int.from_bytes(digest[:6], "big")
        new = (digest, f"{step - FIRST_STEP + 1:032}.{fraction:016}")
        versions[channel] = known[channel] if known.get(channel, (b"",))[0] == digest else new
    return versions


def _writes(task: Snapshot) -> list[tuple[str, Any]]:
    interrupts = [
        Interrupt(value=entry.get("value"), id=_interrupt_id(entry)) for entry in task.get("interrupts") or ()
    ]
    writes: list[tuple[str, Any]] = [(INTERRUPT, interrupts)] if interrupts else []
    return [*writes, (ERROR, task["error"])] if task.get("error") else writes


def _interrupt_id(entry: Mapping[str, Any]) -> str:
    """Newer servers name it `id`, older ones `interrupt_id`."""
    return str(entry.get("id") or entry.get("interrupt_id") or "")


def _task_ids(tasks: Sequence[Any]) -> dict[str, list[str]]:
    """By name of a node: the ids of its tasks, in their order."""
    ids: dict[str, list[str]] = {}
    for task in tasks:
        ids.setdefault(task.name, []).append(task.id)
    return ids


def _parent_id(snapshot: Snapshot) -> str | None:
    parent: Snapshot | None = snapshot.get("parent_checkpoint")
    return parent.get("checkpoint_id") if parent else None


def same_next(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Whether the next nodes are the same, in any order."""
    return Counter(expected) == Counter(actual)
