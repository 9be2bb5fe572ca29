"""Translate: one run's log, entry by entry, into the protocol's events.

Which events an entry makes, and under which numbers, depends on the log alone, so that every reader on every replica
gives the same event the same id. What a reader did not subscribe to is not even decoded.
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
UUID7, UUID6 = 7, 6
EPOCH_1582_MS: Final = 12_219_292_800_000
CHECKPOINT: Final = ("source", "step")
DELETED_RUN: Final = RunEnd(
    status="interrupted",
    error=None,
    finished_at=None,
    thread_status="idle",
    interrupts=json.RawJson(b"{}"),
    newest=False,
)
FIRST_STATE: Final = 0
"""The number of what an entry starts: subgraphs."""
OWN_METADATA_KEYS: Final = 1
"""The number of the entry's own first event."""


Translators: TypeAlias = Mapping[str, Callable[[LogEvent, Namespace], list[ProtocolEvent]]]


class RunTranslator:
    """The events of one run for readers of `channels`; entries are to be given in order, from the first."""

    def __init__(self, run: ThreadRun, channels: frozenset[str] = CHANNELS) -> None:
        self.run = run
        self._channels = channels
        self._messages = MessageAssembler()
        self._subgraphs = SubgraphTracker()
        self._asked: set[str] = set()
        """Interrupts that were told."""
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
        """By the v1 mode of an entry; other modes are not the protocol's."""
        self._attempts = 0
        self._has_tasks = False
        """Its tasks are streamed: they tell of subgraphs, and more exactly."""

    def translate(self, entry: LogEvent, *, live: bool) -> list[ProtocolEvent]:
        """The events of one entry; `live`: it is being made now."""
        mode, _, path = entry.name.partition("|")
        namespace: Namespace = tuple(path.split("|")) if path else ()
        if live:
            self._clock = max(self._clock, int(time.time() * 1000))
        made: list[ProtocolEvent] = []
        if mode == "metadata":
            return self._started(entry)
        if namespace and mode != "tasks" and not self._has_tasks:
            made.extend(self._changes(entry, FIRST_STATE, self._subgraphs.observe(namespace)))
        translate = self._translators.get(mode)
        if translate is not None:
            made.extend(translate(entry, namespace))
        return made

    def translate_end(self, ending: RunEnd | None) -> list[ProtocolEvent]:
        """The run's end: what was left open, the questions that are open, and how it ended. None: it is gone."""
        begun = [] if self._attempts or ending is None else [self._running()]
        ending = ending or DELETED_RUN
        status, error = self._outcome(ending)
        if ending.finished_at is not None:
            self._clock = max(self._clock, int(ending.finished_at.timestamp() * 1000))
        failure = (error or "the run was stopped") if status != "completed" else None
        made = [
            self._made("messages", namespace, data, (events.end_seq(self._position, 0), f"end.message.{index}"), node)
            for index, (namespace, node, data) in enumerate(self._messages.close(failure))
        ]
        made += [
            self._lifecycle(change, events.end_seq(self._position, 1))
            for change in self._subgraphs.close(status, error)
        ]
        if status == "interrupted" and ending.newest:
            waiting = cast("dict[str, list[dict[str, Any]]]", ending.interrupts.load())
            asked = [one for several in waiting.values() for one in several]
            made += self._questions((), asked, events.end_seq(self._position, 2))
        said = {"event": status, "graph_name": self.run.graph_id}
        change = SubgraphEvent((), said if error is None else said | {"error": error})
        return [*begun, *made, self._lifecycle(change, events.end_seq(self._position, events.LAST_INDEX - 1))]

    @property
    def _position(self) -> int:
        return self.run.queue_position

    def _outcome(self, ending: RunEnd) -> tuple[str, str | None]:
        """The protocol's word for how the run ended, and its error."""
        if ending.status in {"error", "timeout"}:
            error: Mapping[str, str] = ending.error.load() if ending.error else {}
            return "failed", str(error.get("message") or error.get("error") or ending.status)
        open_questions = bool(self._asked) or (ending.newest and ending.thread_status == "interrupted")
        return ("interrupted" if ending.status == "interrupted" or open_questions else "completed"), None

    def _started(self, entry: LogEvent) -> list[ProtocolEvent]:
        """Each attempt starts with this entry; only the first is the run's start."""
        self._attempts += 1
        if self._attempts > 1:
            return [
                self._numbered("messages", namespace, data, entry, OWN_METADATA_KEYS + index, node)
                for index, (namespace, node, data) in enumerate(
                    self._messages.close("another process took the run over")
                )
            ]
        return [self._running()]

    def _running(self) -> ProtocolEvent:
        said = {"event": "running", "graph_name": self.run.graph_id}
        return self._lifecycle(SubgraphEvent((), said), events.first_seq(self._position) + 1)

    def _values(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        data, asked = entry.data, list[dict[str, Any]]()
        if b'"__interrupt__"' in data:
            values = cast("dict[str, Any]", json.loads(data))
            asked = cast("list[dict[str, Any]]", values.pop(INTERRUPT, None) or [])
            data = json.dumps(values)
        made = [self._numbered("values", namespace, data, entry, OWN_METADATA_KEYS)]
        return made + self._questions(
            namespace, asked, events.event_seq(self._position, entry.position, OWN_METADATA_KEYS + 1)
        )

    def _questions(self, namespace: Namespace, asked: list[dict[str, Any]], seq: int) -> list[ProtocolEvent]:
        made: list[ProtocolEvent] = []
        for interrupt in asked:
            interrupt_id = str(interrupt.get("id"))
            if interrupt_id not in self._asked:
                self._asked.add(interrupt_id)
                value = interrupt.get("value")
                data = json.dumps({"interrupt_id": interrupt_id, "payload": value, "value": value})
                event_id = f"synth:{self.run.run_id}:input||{interrupt_id}"
                made.append(ProtocolEvent("input", "input.requested", namespace, data, seq, event_id, self._clock))
                seq += 1
        return made

    def _updates(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        if "updates" not in self._channels:
            return []
        found = cast("dict[str, Any]", json.loads(entry.data))
        said = [{"node": node, "values": values} for node, values in found.items() if node != INTERRUPT]
        return [
            self._numbered("updates", namespace, json.dumps(one), entry, OWN_METADATA_KEYS + index)
            for index, one in enumerate(said)
        ]

    def _message(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        if "messages" not in self._channels:
            return []
        node, said = self._messages.translate(namespace, entry.data)
        return [
            self._numbered("messages", namespace, data, entry, OWN_METADATA_KEYS + index, node)
            for index, data in enumerate(said)
        ]

    def _custom(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        """What a node wrote is the payload; an object with a `name` is on the channel of that name."""
        if "custom" not in self._channels:
            return []
        written = cast("object", json.loads(entry.data))
        name = cast("dict[str, object]", written).get("name") if isinstance(written, dict) else None
        if not (isinstance(name, str) and name):
            return [self._numbered("custom", namespace, b'{"payload":' + entry.data + b"}", entry, OWN_METADATA_KEYS)]
        fields = cast("dict[str, object]", written)
        payload = fields["payload"] if fields.keys() == {"name", "payload"} else fields
        data = json.dumps({"name": name, "payload": payload})
        return [self._numbered(f"custom:{name}", namespace, data, entry, OWN_METADATA_KEYS)]

    def _tool(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        return [self._numbered("tools", namespace, entry.data, entry, OWN_METADATA_KEYS)]

    def _task(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        self._has_tasks = True
        own = [self._numbered("tasks", namespace, entry.data, entry, OWN_METADATA_KEYS)]
        if "lifecycle" not in self._channels:
            return own
        task = cast("dict[str, Any]", json.loads(entry.data))
        started = self._subgraphs.observe(namespace, task)
        ended = self._subgraphs.observe_task(namespace, task)
        return [*self._changes(entry, FIRST_STATE, started), *own, *self._changes(entry, OWN_METADATA_KEYS + 1, ended)]

    def _checkpoint(self, entry: LogEvent, namespace: Namespace) -> list[ProtocolEvent]:
        """Where to go back to, and how it hangs together: what it holds is in `values`."""
        found = cast("dict[str, Any]", json.loads(entry.data))
        checkpoint_id = _checkpoint_id(found.get("config"))
        if checkpoint_id is None:
            return []
        self._clock = max(self._clock, uuid_timestamp_ms(checkpoint_id) or 0)
        metadata = cast("dict[str, Any]", found.get("metadata") or {})
        said: dict[str, Any] = {"id": checkpoint_id, **{key: metadata[key] for key in CHECKPOINT if key in metadata}}
        if parent_id := _checkpoint_id(found.get("parent_config")):
            said["parent_id"] = parent_id
        return [self._numbered("checkpoints", namespace, json.dumps(said), entry, OWN_METADATA_KEYS)]

    def _changes(self, entry: LogEvent, index: int, changes: list[SubgraphEvent]) -> list[ProtocolEvent]:
        return [self._lifecycle(one, events.event_seq(self._position, entry.position, index)) for one in changes]

    def _lifecycle(self, change: SubgraphEvent, seq: int) -> ProtocolEvent:
        """Its id is the same however it is found out, from a run's row or from its log."""
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
    """When a time-ordered id was made; None where it does not say."""
    try:
        found = identifier if isinstance(identifier, UUID) else UUID(identifier)
    except ValueError:
        return None
    if found.version == UUID7:
        return found.int >> 80
    if found.version == UUID6:
        return (((found.int >> 80) << 12) | ((found.int >> 64) & 0xFFF)) // 10_000 - EPOCH_1582_MS
    return None
