"""Subgraphs: start and end of each, derived from the tasks of its parent graph.

A subgraph's namespace ends in `node:<task id>`. Its first event is its start, and the result of that task is its end.
If a run's `tasks` are not streamed, the subgraph ends with the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from threadkeep.api.protocol_v2.events import Namespace


@dataclass(frozen=True, slots=True)
class SubgraphEvent:
    """A subgraph has started or ended. `payload` is the event's data."""

    namespace: Namespace
    payload: Mapping[str, Any]


class SubgraphTracker:
    """Tracks the open subgraphs of one run."""

    def __init__(self) -> None:
        self._names: dict[Namespace, str] = {}
        """Names of all subgraphs that have started."""
        self._open: dict[Namespace, None] = {}  # a set in the order of the starts
        self._tool_calls: dict[str, str] = {}
        """Task id -> id of the tool call that the task executes."""

    def observe(self, namespace: Namespace, task: Mapping[str, Any] | None = None) -> list[SubgraphEvent]:
        """Return the start of each subgraph that an event in `namespace` is the first of. `task`: the event is this task."""
        return [
            self._started(namespace[:depth], task if depth == len(namespace) else None)
            for depth in range(1, len(namespace) + 1)
            if namespace[:depth] not in self._names
        ]

    def observe_task(self, namespace: Namespace, task: Mapping[str, Any]) -> list[SubgraphEvent]:
        """Record the start of a task, or return the ends of its subgraphs if it has a result."""
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
        """Return the ends of all open subgraphs, because the run has ended."""
        # Inner subgraphs end before outer ones.
        return [self._ended(namespace, status, error) for namespace in sorted(self._open, key=len, reverse=True)]

    def _inside(self, namespace: Namespace) -> list[Namespace]:
        """Return the open subgraphs inside this one, deepest first, and then itself."""
        inside = [inner for inner in self._open if inner[: len(namespace)] == namespace]
        return sorted(inside, key=len, reverse=True)

    def _started(self, namespace: Namespace, task: Mapping[str, Any] | None) -> SubgraphEvent:
        node, _, task_id = namespace[-1].partition(":")
        metadata = cast("Mapping[str, object]", (task or {}).get("metadata") or {})
        # LangChain names its agents here, and the node may have any name.
        agent = metadata.get("lc_agent_name")
        name = self._names[namespace] = str(agent or node)
        self._open[namespace] = None
        payload: dict[str, Any] = {"event": "started", "namespace": list(namespace), "graph_name": name}
        if task_id:
            payload["trigger_call_id"] = task_id
        if (call_id := self._tool_calls.get(task_id)) is not None:
            payload["cause"] = {"type": "toolCall", "tool_call_id": call_id}
        return SubgraphEvent(namespace, payload)

    def _ended(self, namespace: Namespace, status: str, error: str | None) -> SubgraphEvent:
        self._open.pop(namespace, None)
        payload = {"event": status, "graph_name": self._names[namespace]}
        return SubgraphEvent(namespace, payload if error is None else payload | {"error": error})


def _tool_call(task_input: object) -> str | None:
    """Return the id of the tool call in a task's input. LangGraph's tool nodes get one call per task."""
    call: object = None
    if isinstance(task_input, dict):
        call = cast("Mapping[str, object]", task_input).get("tool_call")
    elif isinstance(task_input, list) and task_input:
        call = cast("list[object]", task_input)[0]
    call_id = cast("Mapping[str, object]", call).get("id") if isinstance(call, dict) else None
    return call_id if isinstance(call_id, str) else None


def _result(task: Mapping[str, Any]) -> tuple[str, str | None]:
    if task.get("interrupts"):
        return "interrupted", None
    if error := task.get("error"):
        fields = cast("dict[str, object]", error) if isinstance(error, dict) else {"message": error}
        return "failed", str(fields.get("message", ""))
    return "completed", None
