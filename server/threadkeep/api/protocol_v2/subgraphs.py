"""Subgraphs: when each starts and how it ends, read from the tasks of the graph above it.

A subgraph's namespace ends in `node:<task id>`: its first event is its start, the result of that task its end. Where
a run's `tasks` are not streamed, it ends with the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from threadkeep.api.protocol_v2.events import Namespace


@dataclass(frozen=True, slots=True)
class SubgraphEvent:
    """A subgraph has started or ended. `said` is the event's data."""

    namespace: Namespace
    payload: Mapping[str, Any]


class SubgraphTracker:
    """The subgraphs of one run, as they come and go."""

    def __init__(self) -> None:
        self._names: dict[Namespace, str] = {}
        """Of all that have started."""
        self._open: dict[Namespace, None] = {}
        self._tool_calls: dict[str, str] = {}
        """Task id -> the tool call that it carries out."""

    def observe(self, namespace: Namespace, task: Mapping[str, Any] | None = None) -> list[SubgraphEvent]:
        """Something happens in `namespace`; with the task that starts there, where it is one."""
        return [
            self._started(namespace[:depth], task if depth == len(namespace) else None)
            for depth in range(1, len(namespace) + 1)
            if namespace[:depth] not in self._names
        ]

    def observe_task(self, namespace: Namespace, task: Mapping[str, Any]) -> list[SubgraphEvent]:
        """A task has started, or has a result."""
        if "result" not in task:
            if (call_id := _tool_call(task.get("input"))) is not None:
                self._tool_calls[str(task.get("id"))] = call_id
            return []
        ended = [
            child for child in self._open if child[:-1] == namespace and child[-1].partition(":")[2] == task.get("id")
        ]
        status, error = _result(task)
        return [self._ended(inner, status, error) for child in ended for inner in self._inside(child)]

    def close(self, status: str, error: str | None) -> list[SubgraphEvent]:
        """The run has ended, and with it all that is open."""
        return [self._ended(namespace, status, error) for namespace in sorted(self._open, key=len, reverse=True)]

    def _inside(self, namespace: Namespace) -> list[Namespace]:
        """The subgraph itself, behind those in it that are still open."""
        inside = [inner for inner in self._open if inner[: len(namespace)] == namespace]
        return sorted(inside, key=len, reverse=True)

    def _started(self, namespace: Namespace, task: Mapping[str, Any] | None) -> SubgraphEvent:
        node, _, task_id = namespace[-1].partition(":")
        metadata = cast("Mapping[str, object]", (task or {}).get("metadata") or {})
        agent = metadata.get("lc_agent_name")
        name = self._names[namespace] = str(agent or node)
        self._open[namespace] = None
        said: dict[str, Any] = {"event": "started", "namespace": list(namespace), "graph_name": name}
        if task_id:
            said["trigger_call_id"] = task_id
        if (call_id := self._tool_calls.get(task_id)) is not None:
            said["cause"] = {"type": "toolCall", "tool_call_id": call_id}
        return SubgraphEvent(namespace, said)

    def _ended(self, namespace: Namespace, status: str, error: str | None) -> SubgraphEvent:
        self._open.pop(namespace, None)
        said = {"event": status, "graph_name": self._names[namespace]}
        return SubgraphEvent(namespace, said if error is None else said | {"error": error})


def _tool_call(given: object) -> str | None:
    """The tool call that is a task's input, as LangGraph's tool nodes get one each."""
    call: object = None
    if isinstance(given, dict):
        call = cast("Mapping[str, object]", given).get("tool_call")
    elif isinstance(given, list) and given:
        call = cast("list[object]", given)[0]
    call_id = cast("Mapping[str, object]", call).get("id") if isinstance(call, dict) else None
    return call_id if isinstance(call_id, str) else None


def _result(task: Mapping[str, Any]) -> tuple[str, str | None]:
    if task.get("interrupts"):
        return "interrupted", None
    if error := task.get("error"):
        return "failed", str(cast("dict[str, object]", error).get("message", "")) if isinstance(error, dict) else str(
            error
        )
    return "completed", None
