"""Stream events: turns the chunks of a graph into the events of a run's stream.

The event names are the protocol's: a mode, followed by the subgraph's namespace (`updates|child:<task id>`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import BaseMessage, BaseMessageChunk, message_chunk_to_message
from langgraph.types import StreamMode as GraphMode

from threadkeep.runs.failures import error_report
from threadkeep.runs.request import StreamMode
from threadkeep.runs.snapshots import checkpoint_ids

Namespace: TypeAlias = tuple[str, ...]
NamedEvent: TypeAlias = tuple[str, object]
"""An event's name and its data."""

NODES: Final = "nodes"
"""The name of the events that tell when a node of the graph itself, or of a subgraph, starts and ends. They are for surfaces
that read the log themselves (`SurfaceRunOptions`), because the LangGraph API has no such event."""
INTERNAL_PREFIXES = ("__pregel", "langgraph_auth")
"""Keys of `configurable` that never leave the server."""


def is_public(event: str) -> bool:
    """Whether readers of the LangGraph API get the event."""
    return not event.startswith(NODES)


def mode_of(event: str) -> str:
    """The stream mode of an event's name. Readers filter by it."""
    name = event.split("|", 1)[0]
    if name == "messages":
        return "messages-tuple"
    return name.split("/", 1)[0]


class StreamEvents:
    """Turns chunks into events. It collects message chunks, because `messages` mode always sends the whole message."""

    def __init__(self, modes: Sequence[StreamMode]) -> None:
        self._modes = frozenset(modes)
        self._messages: dict[str, BaseMessage] = {}

    def of_chunk(self, namespace: Namespace, mode: GraphMode, chunk: Any) -> Iterator[NamedEvent]:
        """Yield the events of one chunk, or none if the client did not request its mode."""
        if mode == "messages":
            yield from self._of_message(namespace, *chunk)
        elif mode in self._modes:
            yield event_name(mode, namespace), _cleaned(mode, chunk)

    def _of_message(self, namespace: Namespace, message: BaseMessage, metadata: dict[str, Any]) -> Iterator[NamedEvent]:
        if "messages-tuple" in self._modes:
            yield event_name("messages", namespace), [message, metadata]
        if "messages" in self._modes:
            yield from self._whole_message(namespace, message, metadata)

    def _whole_message(
        self, namespace: Namespace, message: BaseMessage, metadata: dict[str, Any]
    ) -> Iterator[NamedEvent]:
        message_id = str(message.id)
        previous = self._messages.get(message_id)
        if previous is None:
            yield event_name("messages/metadata", namespace), {message_id: {"metadata": metadata}}
        if not isinstance(message, BaseMessageChunk):
            self._messages[message_id] = message
            yield event_name("messages/complete", namespace), [message]
            return
        merged = previous + message if isinstance(previous, BaseMessageChunk) else message
        self._messages[message_id] = cast("BaseMessage", merged)
        yield event_name("messages/partial", namespace), [message_chunk_to_message(merged)]


def event_name(event: str, namespace: Namespace) -> str:
    """An event's name, with the subgraph that it comes from."""
    return "|".join((event, *namespace)) if namespace else event


def _cleaned(mode: GraphMode, chunk: Any) -> object:
    """The chunk without the server's own `configurable` keys, and with errors as error reports."""
    if mode == "checkpoints":
        return _clean_checkpoint(chunk)
    if mode == "tasks":
        return _described(chunk)
    if mode == "debug":
        payload = chunk["payload"]
        return chunk | {"payload": _debugged(payload) if chunk["type"] == "checkpoint" else _described(payload)}
    return chunk


def _described(task: dict[str, Any]) -> dict[str, Any]:
    error = task.get("error")
    return task | {"error": error_report(error)} if isinstance(error, BaseException) else task


def _debugged(payload: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with ids in the form of a thread's state, also for the subgraphs of its tasks."""
    cleaned = _clean_checkpoint(payload)
    # These tasks are copies. Those of the graph do not change.
    for task in cleaned["tasks"]:
        if isinstance(task.get("state"), dict):
            task["checkpoint"] = checkpoint_ids(task.pop("state"))
    ids = {
        "checkpoint": checkpoint_ids(cleaned["config"]),
        "parent_checkpoint": checkpoint_ids(cleaned["parent_config"]),
    }
    return cleaned | ids


def _clean_checkpoint(payload: dict[str, Any]) -> dict[str, Any]:
    cleaned = payload | {key: _clean_config(payload.get(key)) for key in ("config", "parent_config")}
    if tasks := payload.get("tasks"):
        cleaned["tasks"] = [task | {"state": _clean_config(task.get("state"))} for task in tasks]
    return cleaned


def _clean_config(config: Any) -> Any:
    if not isinstance(config, dict) or "configurable" not in config:
        return cast("object", config)
    typed = cast("dict[str, Any]", config)
    public = {key: value for key, value in typed["configurable"].items() if not key.startswith(INTERNAL_PREFIXES)}
    return typed | {"configurable": public}
