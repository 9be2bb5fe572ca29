"""Translation of one run's log, entry by entry, into events of the protocol v2.

The events of an entry and their numbers depend only on the log. Every reader in every process therefore gives the same
event the same id. Entries of channels without a subscriber are not decoded.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from threadkeep.api.protocol_v2 import events
from threadkeep.api.protocol_v2.events import Namespace, ProtocolEvent
from threadkeep.api.protocol_v2.messages import MessageAssembler
from threadkeep.api.protocol_v2.subgraphs import SubgraphEvent, SubgraphTracker
from threadkeep.api.protocol_v2.subscription import CHANNELS
from threadkeep.base import json
from threadkeep.runs.event_log import LogEvent
from threadkeep.tables.thread_runs import RunEnd, ThreadRun

INTERRUPT: Final = "__interrupt__"
UUID7, UUID6 = 7, 6  # versions of UUIDs (RFC 9562)
# From the epoch of UUIDv6, the first day of the Gregorian calendar, to 1970.
EPOCH_1582_MS: Final = 12_219_292_800_000
CHECKPOINT_METADATA: Final = ("source", "step")
DELETED_RUN: Final = RunEnd(
    status="interrupted",
    error=None,
    finished_at=None,
    thread_status="idle",
    interrupts=json.RawJson(b"{}"),
    newest=False,
)
SUBGRAPH_START_INDEX: Final = 0
"""The number of an entry's first event, if that is the start of a subgraph."""
FIRST_OWN_INDEX: Final = 1
"""The number of the first event of the entry itself."""


Translators: TypeAlias = Mapping[str, Callable[[LogEvent, Namespace], list[ProtocolEvent]]]


class RunTranslator:
    """Translates one run for readers of `channels`. Pass all entries in order, starting with the first."""

    def __init__(self, run: ThreadRun, channels: frozenset[str] = CHANNELS) -> None:
        self.run = run
        self._channels = channels
        self._messages = MessageAssembler()
        self._subgraphs = SubgraphTracker()
        self._sent_interrupts: set[str] = set()
        """Ids of the interrupts that have been sent."""
        self._clock = uuid_timestamp_ms(run.run_id) or 0
        self._translators: Translators = {
            "values": self._values,
            "updates": self._updates,
            "messages": self._message,
            "custom": self._custom,
            "tools": self._tool,
            "tasks": self._task,
            "checkpoints": self._checkpoint,
        }
        """By the v1 mode of an entry. Other modes have no events in the protocol."""
        self._attempts = 0
        self._has_tasks = False
        """Whether the run streams its tasks, which tell the start and end of subgraphs more exactly than namespaces."""

    def translate(self, entry: LogEvent, *, live: bool) -> list[ProtocolEvent]:
        """Return the events of one entry. `live`: the entry is new, so the current time is its time."""
        mode, _, path = entry.name.partition("|")
        namespace: Namespace = tuple(path.split("|")) if path else ()
        if live:
            # The clocks of processes differ, and the times within a run must not go back.
            self._clock = max(self._clock, int(time.time() * 1000))
        translated: list[ProtocolEvent] = []
        if mode == "metadata":
            return self._started(entry)
        if namespace and mode != "tasks" and not self._has_tasks:
            translated.extend(self._changes(entry, SUBGRAPH_START_INDEX, self._subgraphs.observe(namespace)))
        translate = self._translators.get(mode)
        if translate is not None:
            translated.extend(translate(entry, namespace))
        return translated

    def translate_end(self, ending: RunEnd | None) -> list[ProtocolEvent]:
        """Return the events of the run's end: open messages, open subgraphs, open interrupts, status. None: it was deleted."""
        # A run that was cancelled in the queue has no log, but clients expect its start.
        started = [] if self._attempts or ending is None else [self._running()]
        ending = ending or DELETED_RUN
        status, error = self._outcome(ending)
        if ending.finished_at is not None:
            self._clock = max(self._clock, int(ending.finished_at.timestamp() * 1000))
        failure = (error or "the run was stopped") if status != "completed" else None
        closed = [
            self._made("messages", namespace, data, (events.end_seq(self._position, 0), f"end.message.{index}"), node)
            for index, (namespace, node, data) in enumerate(self._messages.close(failure))
        ]
        closed += [
            self._lifecycle(change, events.end_seq(self._position, 1))
            for change in self._subgraphs.close(status, error)
        ]
        if status == "interrupted" and ending.newest:
            interrupts_by_task = cast("dict[str, list[dict[str, Any]]]", ending.interrupts.load())
            interrupts = [interrupt for of_task in interrupts_by_task.values() for interrupt in of_task]
            closed += self._requests((), interrupts, events.end_seq(self._position, 2))
        payload = {"event": status, "graph_name": self.run.graph_id}
        change = SubgraphEvent((), payload if error is None else payload | {"error": error})
        return [*started, *closed, self._lifecycle(change, events.end_seq(self._position, events.LAST_INDEX - 1))]

    @property
    def _position(self) -> int:
        return self.run.queue_position

    def _outcome(self, ending: RunEnd) -> tuple[str, str | None]:
        """Return the protocol's status for the run's end, and its error."""
        if ending.status in {"error", "timeout"}:
            error: Mapping[str, str] = ending.error.load() if ending.error else {}
            return "failed", str(error.get("message") or error.get("error") or ending.status)
        has_interrupts = bool(self._sent_interrupts) or (ending.newest and ending.thread_status == "interrupted")
        return ("interrupted" if ending.status == "interrupted" or has_interrupts else "completed"), None

    def _started(self, entry: LogEvent) -> list[ProtocolEvent]:
        """Each attempt starts with this entry. Only the first one is the run's start, later ones close open messages."""
        self._attempts += 1
        if self._attempts > 1:
            return [
                self._numbered("messages", namespace, data, entry, FIRST_OWN_INDEX + index, node)
                for index, (namespace, node, data) in enumerate(
                    self._messages.close("another process took the run over")
                )
            ]
        return [self._running()]

    def _running(self) -> ProtocolEvent:
        payload = {"event": "running", "graph_name": self.run.graph_id}
        return self._lifecycle(SubgraphEvent((), payload), events.first_seq(self._position) + 1)

    def _values(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        data, interrupts = entry.data, list[dict[str, Any]]()
        # Values may be megabytes, so they are decoded only if they may contain an interrupt.
        if b'"__interrupt__"' in data:
            values = cast("object", json.loads(data))
            # The state of a graph may be any value, and the bytes may stand deeper in it.
            if isinstance(values, dict) and INTERRUPT in values:
                fields = cast("dict[str, Any]", values)
                interrupts = cast("list[dict[str, Any]]", fields.pop(INTERRUPT) or [])
                data = json.dumps(fields)
        values_event = self._numbered("values", namespace, data, entry, FIRST_OWN_INDEX)
        seq = events.event_seq(self._position, entry.position, FIRST_OWN_INDEX + 1)
        return [values_event, *self._requests(namespace, interrupts, seq)]

    def _requests(self, namespace: Namespace, interrupts: list[dict[str, Any]], seq: int) -> list[ProtocolEvent]:
        """Return an `input.requested` event for each interrupt that was not sent before."""
        requests: list[ProtocolEvent] = []
        for interrupt in interrupts:
            interrupt_id = str(interrupt.get("id"))
            if interrupt_id not in self._sent_interrupts:
                self._sent_interrupts.add(interrupt_id)
                value = interrupt.get("value")
                data = json.dumps({"interrupt_id": interrupt_id, "payload": value, "value": value})
                event_id = f"synth:{self.run.run_id}:input||{interrupt_id}"
                requests.append(ProtocolEvent("input", "input.requested", namespace, data, seq, event_id, self._clock))
                seq += 1
        return requests

    def _updates(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        if "updates" not in self._channels:
            return []
        by_node = cast("dict[str, Any]", json.loads(entry.data))
        updates = [{"node": node, "values": values} for node, values in by_node.items() if node != INTERRUPT]
        return [
            self._numbered("updates", namespace, json.dumps(update), entry, FIRST_OWN_INDEX + index)
            for index, update in enumerate(updates)
        ]

    def _message(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        if "messages" not in self._channels:
            return []
        node, payloads = self._messages.translate(namespace, entry.data)
        return [
            self._numbered("messages", namespace, data, entry, FIRST_OWN_INDEX + index, node)
            for index, data in enumerate(payloads)
        ]

    def _custom(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        """The payload is the value that the node wrote. An object with a `name` goes to the channel of that name."""
        if "custom" not in self._channels:
            return []
        written = cast("object", json.loads(entry.data))
        name = cast("dict[str, object]", written).get("name") if isinstance(written, dict) else None
        if not (isinstance(name, str) and name):
            return [self._numbered("custom", namespace, b'{"payload":' + entry.data + b"}", entry, FIRST_OWN_INDEX)]
        fields = cast("dict[str, object]", written)
        # An object with further keys is sent as a whole.
        payload = fields["payload"] if fields.keys() == {"name", "payload"} else fields
        data = json.dumps({"name": name, "payload": payload})
        return [self._numbered(f"custom:{name}", namespace, data, entry, FIRST_OWN_INDEX)]

    def _tool(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        return [self._numbered("tools", namespace, entry.data, entry, FIRST_OWN_INDEX)]

    def _task(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        self._has_tasks = True
        task_event = self._numbered("tasks", namespace, entry.data, entry, FIRST_OWN_INDEX)
        # Without a subscriber the task need not be decoded.
        if "lifecycle" not in self._channels:
            return [task_event]
        task = cast("dict[str, Any]", json.loads(entry.data))
        started = self._subgraphs.observe(namespace, task)
        ended = self._subgraphs.observe_task(namespace, task)
        return [
            *self._changes(entry, SUBGRAPH_START_INDEX, started),
            task_event,
            *self._changes(entry, FIRST_OWN_INDEX + 1, ended),
        ]

    def _checkpoint(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        """Return the checkpoint's id, parent and metadata. Its values are on the channel `values`."""
        checkpoint = cast("dict[str, Any]", json.loads(entry.data))
        checkpoint_id = _checkpoint_id(checkpoint.get("config"))
        if checkpoint_id is None:
            return []
        self._clock = max(self._clock, uuid_timestamp_ms(checkpoint_id) or 0)
        metadata = cast("dict[str, Any]", checkpoint.get("metadata") or {})
        payload: dict[str, Any] = {
            "id": checkpoint_id,
            **{key: metadata[key] for key in CHECKPOINT_METADATA if key in metadata},
        }
        if parent_id := _checkpoint_id(checkpoint.get("parent_config")):
            payload["parent_id"] = parent_id
        return [self._numbered("checkpoints", namespace, json.dumps(payload), entry, FIRST_OWN_INDEX)]

    def _changes(self, entry: LogEvent, index: int, changes: list[SubgraphEvent]) -> list[ProtocolEvent]:
        return [self._lifecycle(change, events.event_seq(self._position, entry.position, index)) for change in changes]

    def _lifecycle(self, change: SubgraphEvent, seq: int) -> ProtocolEvent:
        """Return a lifecycle event. Its id is the same whether it comes from the run's row or from its log."""
        path = "|".join(change.namespace)
        event_id = f"synth:{self.run.run_id}:lc|{path}|{change.payload['event']}"
        return ProtocolEvent(
            "lifecycle", "lifecycle", change.namespace, json.dumps(change.payload), seq, event_id, self._clock
        )

    def _numbered(
        self, channel: str, namespace: Namespace, data: bytes, entry: LogEvent, index: int, node: str | None = None
    ) -> ProtocolEvent:
        seq = events.event_seq(self._position, entry.position, index)
        return self._made(channel, namespace, data, (seq, f"{entry.position}.{index}"), node)

    def _made(
        self, channel: str, namespace: Namespace, data: bytes, place: tuple[int, str], node: str | None
    ) -> ProtocolEvent:
        method = "custom" if channel.startswith("custom") else channel
        event_id = f"{self._position}-{place[1]}"
        return ProtocolEvent(channel, method, namespace, data, place[0], event_id, self._clock, node)


def _checkpoint_id(config: dict[str, Any] | None) -> str | None:
    configurable = cast("dict[str, str]", (config or {}).get("configurable") or {})
    return configurable.get("checkpoint_id")


def uuid_timestamp_ms(identifier: UUID | str) -> int | None:
    """Return the creation time of a time-ordered id (UUIDv6 or v7) in milliseconds since the epoch, else None."""
    try:
        uuid = identifier if isinstance(identifier, UUID) else UUID(identifier)
    except ValueError:
        return None
    if uuid.version == UUID7:
        return uuid.int >> 80
    if uuid.version == UUID6:
        # 60 bits, in units of 100 ns. The version stands between the upper 48 and the lower 12.
        return (((uuid.int >> 80) << 12) | ((uuid.int >> 64) & 0xFFF)) // 10_000 - EPOCH_1582_MS
    return None
