"""Events: from the events of a run to those of AG-UI, as SSE frames.

The events are those of `SurfaceRunOptions.direct_events`, or of the stream modes `MODES` if the graph runs elsewhere. The reader is a pure function of them: every reader of the
same log gets the same frames, while the run goes on, after it, and in another process. `@ag-ui/client` fails the whole run
if something is left open, opened twice, or told after the end, so this module keeps the order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from threadkeep.api.agents.content import fields_of, messages_of
from threadkeep.api.agents.message_graphs import MESSAGES
from threadkeep.api.agents.pieces import calls_of, text_pieces
from threadkeep.api.agents.questions import Question, question_schema, question_text, questions_of
from threadkeep.api.agents.run_end import RunEnd
from threadkeep.api.agui.messages import client_messages, message_ids, tool_content
from threadkeep.api.agui.state_delta import state_delta
from threadkeep.base import json
from threadkeep.runs.event_log import Gap, LogItem
from threadkeep.runs.graph_runner import INTERRUPT
from threadkeep.runs.request import StreamMode
from threadkeep.runs.stream_events import NODES

MODES: Final[tuple[StreamMode, ...]] = ("messages-tuple", "values", "tasks", "custom")
"""The stream modes of a run of AG-UI, if its graph runs elsewhere."""
PROTOCOL_VERSION: Final = "1.0"
AI_TYPES: Final = frozenset({"ai", "AIMessageChunk"})
TOKEN_HEAD: Final = b'[{"content":'
"""How the event of a token begins."""
UNKNOWN: Final[Any] = object()
"""A state that is not known yet."""


def frame(event: Mapping[str, Any]) -> bytes:
    """Return an event as an SSE frame. Its lines end in LF, because AG-UI clients split a stream at two LF."""
    # `json.dumps` and not orjson: states may have integers above 64 bits.
    return b"data: %b\n\n" % json.dumps(event)


def error_frame(message: str, code: str) -> bytes:
    """The end of a run that failed."""
    return frame({"type": "RUN_ERROR", "message": message, "code": code})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """The ids of a run, as the client gave them."""

    thread_id: str
    run_id: str
    parent_run_id: str | None = None

    @property
    def ids(self) -> dict[str, str]:
        return {"threadId": self.thread_id, "runId": self.run_id}

    def frame(self) -> bytes:
        """The beginning of a run."""
        event = {"type": "RUN_STARTED", **self.ids, "protocolVersion": PROTOCOL_VERSION}
        return frame(event | ({"parentRunId": self.parent_run_id} if self.parent_run_id else {}))


@dataclass(slots=True)
class _Speaker:
    """A message of a model that is coming in."""

    message_id: str
    task_id: str
    """The task that streams it. Its end is also the message's end."""
    content_head: bytes
    """A frame with a piece of its text, up to the text."""
    has_open_text: bool = False
    token_tail: bytes | None = None
    """The bytes after the text in a token's event. They are the same for all tokens of a message."""
    reasoning_id: str | None = None
    """The reasoning that is open."""
    reasonings: int = 0
    calls: dict[object, str] = field(default_factory=dict[object, str])
    """The open calls: index -> id."""


class RunEvents:
    """Reads the events of one run, in order, and then its end."""

    def __init__(self, head: RunHead) -> None:
        self.head = head
        self.is_incomplete = True
        """The last state is not known from the events, so it must be read from the thread."""
        self.questions: list[Question] = []
        self._speakers: dict[str, _Speaker] = {}
        self._last_speaker: _Speaker | None = None
        """The speaker of the last event of a message, while its text is open."""
        self._seen: set[str] = set()
        """The ids of the messages that were sent, or that the thread had before."""
        self._knows_history = False
        self._state: Any = UNKNOWN
        """The values without messages, as the client has them."""
        self._messages: list[dict[str, Any]] | None = None
        """None: the values have no messages."""
        self._tasks: dict[str, str] = {}
        """The running tasks of the graph itself: id -> node."""
        self._unanswered: dict[str, None] = {}
        """The ids of calls without a result, in order."""

    def read(self, item: LogItem) -> bytes:
        """The frames of one event of the run. Empty if there are none."""
        if isinstance(item, Gap):
            # The lost events may have had messages. So those of the next state are taken for known, not sent late and
            # out of order.
            self._knows_history, self.is_incomplete = False, True
            return b"".join(self._restart())
        mode, _, namespace = item.name.partition("|")
        if mode == "messages":
            # Nearly all events are plain tokens, so the cheap reading comes first.
            return self._read_token(item.data) or self._read_message(item.data)
        if mode == "custom":
            return frame(_custom(json.loads(item.data)))
        if mode in {NODES, "tasks"}:
            return b"".join(self._read_task(orjson.loads(item.data), is_root=not namespace))
        if mode == "values" and not namespace:
            return b"".join(self._read_values(json.loads(item.data)))
        if mode == "updates" and not namespace:  # of a run that another surface started
            self._add_questions(json.loads(item.data))
        elif mode == "metadata" and orjson.loads(item.data).get("attempt", 1) > 1:
            return b"".join(self._restart())
        return b""

    def finish(self, end: RunEnd) -> bytes:
        """Return the last frames: the ends of open messages, both snapshots, the questions, and the end of the run."""
        return b"".join(self._finish(end))

    def set_state(self, values: Any, questions: Sequence[Question]) -> None:
        """Take over the state of the thread, because the events do not have it."""
        self._set_values(values)
        self.questions = list(questions)

    def _finish(self, end: RunEnd) -> Iterator[bytes]:
        yield from self._close_all()
        if not end.is_success:
            yield error_frame(_failure_text(end), _failure_code(end))
            return
        if self._state is not UNKNOWN:
            yield frame({"type": "STATE_SNAPSHOT", "snapshot": self._state})
        if self._messages is not None:
            # It also corrects the page if pieces were missing, for example after a gap.
            yield frame({"type": "MESSAGES_SNAPSHOT", "messages": client_messages(self._messages)})
        for question in self.questions:
            # For clients before 1.0. Newer ones read the interrupts in `outcome`.
            yield frame({"type": "CUSTOM", "name": "on_interrupt", "value": _older_value(question)})
        yield frame({"type": "RUN_FINISHED", **self.head.ids, "outcome": self._outcome()})

    def _outcome(self) -> dict[str, Any]:
        if self.questions:
            return {"type": "interrupt", "interrupts": [interrupt(question) for question in self.questions]}
        pending = list(self._unanswered)
        return {"type": "success", **({"pendingToolCallIds": pending} if pending else {})}

    def _read_token(self, data: bytes) -> bytes:
        """The frame of one more token of the message that spoke last. Empty if the event is something else.

        Most events are tokens, and only their text differs. So they are not parsed.
        """
        speaker = self._last_speaker
        if speaker is None or speaker.token_tail is None or not data.endswith(speaker.token_tail):
            return b""
        text = data[len(TOKEN_HEAD) : -len(speaker.token_tail)]
        # Without a backslash the JSON string has no escapes, so its bytes can be copied. An empty text sends no event.
        is_plain = len(text) > 2 and text[:1] == b'"' and b"\\" not in text and text.find(b'"', 1) == len(text) - 1
        if not is_plain or not data.startswith(TOKEN_HEAD):
            return b""
        return b"%b%b}\n\n" % (speaker.content_head, text)

    def _read_message(self, data: bytes) -> bytes:
        """Read a message of a node, or a chunk of a model's message."""
        message, metadata = cast("tuple[dict[str, Any], dict[str, Any]]", orjson.loads(data))
        if message["type"] not in AI_TYPES:
            return b"".join(self._result(message)) if message["type"] == "tool" else b""
        message_id = str(message.get("id"))
        speaker = self._speakers.get(message_id)
        if speaker is None:
            if message_id in self._seen:
                return b""
            speaker = self._new_speaker(message_id, str(metadata.get("langgraph_checkpoint_ns", "")))
        frames = b"".join(self._read_chunk(speaker, message))
        # Only an open text can take a bare token. Any other chunk may have to open or close something first.
        self._last_speaker = speaker if speaker.has_open_text else None
        speaker.token_tail = _token_tail(message, data) if speaker.has_open_text else None
        return frames

    def _new_speaker(self, message_id: str, namespace: str) -> _Speaker:
        self._seen.add(message_id)
        head = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id}
        content_head = b'data: %b,"delta":' % orjson.dumps(head)[:-1]
        # A checkpoint namespace is `node:task`, after a bar for each subgraph. The last task streams the message.
        task_id = namespace.rpartition(":")[2]
        speaker = self._speakers[message_id] = _Speaker(message_id, task_id, content_head)
        return speaker

    def _read_chunk(self, speaker: _Speaker, message: dict[str, Any]) -> Iterator[bytes]:
        for kind, text in text_pieces(message):
            yield from self._add_reasoning(speaker, text) if kind == "reasoning" else self._add_text(speaker, text)
        if message["type"] == "ai":
            for call_id, name, arguments in calls_of(message):
                # Calls of a whole message have no index. Their ids tell them apart.
                whole = {"id": call_id, "name": name, "args": arguments, "index": call_id}
                yield from self._add_call(speaker, whole)
        else:
            for chunk in message.get("tool_call_chunks") or ():
                yield from self._add_call(speaker, chunk)
        if message["type"] == "ai" or message.get("chunk_position") == "last":
            yield from self._end_message(speaker)

    def _add_text(self, speaker: _Speaker, text: str) -> Iterator[bytes]:
        yield from self._end_reasoning(speaker)
        if not speaker.has_open_text:
            speaker.has_open_text = True
            yield frame({"type": "TEXT_MESSAGE_START", "messageId": speaker.message_id, "role": "assistant"})
        yield b"%b%b}\n\n" % (speaker.content_head, orjson.dumps(text))

    def _add_reasoning(self, speaker: _Speaker, text: str) -> Iterator[bytes]:
        yield from self._end_text(speaker)
        if speaker.reasoning_id is None:
            speaker.reasonings += 1
            number = f"-{speaker.reasonings}" if speaker.reasonings > 1 else ""
            speaker.reasoning_id = f"reasoning-{speaker.message_id}{number}"
            yield frame({"type": "REASONING_START", "messageId": speaker.reasoning_id})
            start = {"type": "REASONING_MESSAGE_START", "messageId": speaker.reasoning_id, "role": "reasoning"}
            yield frame(start)
        yield frame({"type": "REASONING_MESSAGE_CONTENT", "messageId": speaker.reasoning_id, "delta": text})

    def _add_call(self, speaker: _Speaker, chunk: dict[str, Any]) -> Iterator[bytes]:
        """A call, or a piece of one. The first piece has its name."""
        index: object = chunk.get("index")
        call_id = speaker.calls.get(index)
        # Another id under the same index begins another call.
        if call_id is None or (chunk.get("id") and chunk["id"] != call_id):
            yield from self._end_reasoning(speaker)
            yield from self._end_text(speaker)  # clients before 1.0 take no call while a text is open
            if call_id is not None:
                yield frame({"type": "TOOL_CALL_END", "toolCallId": call_id})
            call_id = str(chunk.get("id") or f"call-{speaker.message_id}-{len(self._unanswered)}")
            speaker.calls[index] = call_id
            self._unanswered[call_id] = None
            start = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": chunk.get("name") or ""}
            yield frame({**start, "parentMessageId": speaker.message_id})
        if text := chunk.get("args"):
            yield frame({"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": text})

    def _result(self, message: dict[str, Any]) -> Iterator[bytes]:
        """The result of a tool."""
        message_id, call_id = str(message.get("id")), str(message.get("tool_call_id"))
        if message_id in self._seen:
            return
        self._seen.add(message_id)
        # Calls that stay in it are tools of the page, which answers them in its next request.
        self._unanswered.pop(call_id, None)
        result = {"type": "TOOL_CALL_RESULT", "messageId": message_id, "toolCallId": call_id, "role": "tool"}
        yield frame({**result, "content": tool_content(message)})

    def _read_task(self, task: dict[str, Any], *, is_root: bool) -> Iterator[bytes]:
        """The start or the end of a task. Tasks of one node that overlap are one step."""
        task_id, node = task["id"], task["name"]
        if not task.get("ended", "result" in task):
            if is_root and task_id not in self._tasks:
                is_first = node not in self._tasks.values()
                self._tasks[task_id] = node
                if is_first:
                    yield frame({"type": "STEP_STARTED", "stepName": node})
            return
        # A model without a mark on its last chunk leaves its message open. The end of its task closes it.
        for speaker in [each for each in self._speakers.values() if each.task_id == task_id]:
            yield from self._end_message(speaker)
        if self._tasks.pop(task_id, None) is not None and node not in self._tasks.values():
            yield frame({"type": "STEP_FINISHED", "stepName": node})

    def _read_values(self, values: Any) -> Iterator[bytes]:
        """Read the state after a step. Send its messages that were not streamed."""
        self._add_questions(values)
        before = self._state
        self._set_values(values)
        messages = self._messages or []
        # The first state of a run has the thread's old messages. They are not news to the page.
        if self._knows_history:
            yield from self._unstreamed(messages)
        self._seen.update(message_ids(messages))
        self._knows_history = True
        if before is UNKNOWN:
            yield frame({"type": "STATE_SNAPSHOT", "snapshot": self._state})
        elif delta := state_delta(before, self._state):
            yield frame({"type": "STATE_DELTA", "delta": delta})

    def _set_values(self, values: Any) -> None:
        self.is_incomplete = False
        if not isinstance(values, dict):
            self._state = values
            return
        fields = cast("dict[str, Any]", values)
        self._state = {key: value for key, value in fields.items() if key not in {MESSAGES, INTERRUPT}}
        self._messages = messages_of(fields) if MESSAGES in fields else None

    def _add_questions(self, values: Any) -> None:
        interrupts: object = fields_of(values).get(INTERRUPT)
        known = {question.interrupt_id for question in self.questions}
        self.questions += [each for each in questions_of(interrupts) if each.interrupt_id not in known]

    def _unstreamed(self, messages: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        for message, message_id in zip(messages, message_ids(messages), strict=True):
            if message_id in self._seen:
                continue
            kind = message.get("type") or message.get("role")
            # Not a set, because a graph may put any JSON there.
            if kind in ("ai", "assistant"):
                yield from self._read_chunk(self._new_speaker(message_id, ""), {**message, "type": "ai"})
            elif kind == "tool":
                yield from self._result({**message, "id": message_id})

    def _restart(self) -> Iterator[bytes]:
        """Another process executes the run again, from its last checkpoint, or events are missing."""
        yield from self._close_all()
        self._state = UNKNOWN
        self.questions = []

    def _close_all(self) -> Iterator[bytes]:
        for speaker in [*self._speakers.values()]:
            yield from self._end_message(speaker)
        # `dict.fromkeys` and not a set, because all readers must get the same order.
        for node in dict.fromkeys(self._tasks.values()):
            yield frame({"type": "STEP_FINISHED", "stepName": node})
        self._tasks = {}

    def _end_message(self, speaker: _Speaker) -> Iterator[bytes]:
        self._speakers.pop(speaker.message_id, None)
        yield from self._end_reasoning(speaker)
        yield from self._end_text(speaker)
        for call_id in speaker.calls.values():
            yield frame({"type": "TOOL_CALL_END", "toolCallId": call_id})

    def _end_text(self, speaker: _Speaker) -> Iterator[bytes]:
        if speaker.has_open_text:
            speaker.has_open_text, speaker.token_tail = False, None
            yield frame({"type": "TEXT_MESSAGE_END", "messageId": speaker.message_id})

    def _end_reasoning(self, speaker: _Speaker) -> Iterator[bytes]:
        if speaker.reasoning_id is not None:
            yield frame({"type": "REASONING_MESSAGE_END", "messageId": speaker.reasoning_id})
            yield frame({"type": "REASONING_END", "messageId": speaker.reasoning_id})
            speaker.reasoning_id = None


def interrupt(question: Question) -> dict[str, Any]:
    """A question in the form of AG-UI."""
    schema, reason = question_schema(question), fields_of(question.value).get("reason")
    if not isinstance(reason, str) or not reason:
        reason = "langgraph:interrupt" if schema is None else "input_required"
    return {
        "id": question.interrupt_id,
        "reason": reason,
        "message": question_text(question),
        **({} if schema is None else {"responseSchema": schema}),
        "metadata": {"langgraph": {"raw": question.value}},
    }


def _token_tail(message: Mapping[str, Any], data: bytes) -> bytes | None:
    """Return the bytes after the text in a token's event. None if the event has more than a text, or ends the message."""
    content: object = message.get("content")
    if not isinstance(content, str) or message.get("tool_call_chunks") or message.get("additional_kwargs"):
        return None
    head = TOKEN_HEAD + orjson.dumps(content)
    is_token = message.get("chunk_position") is None and data.startswith(head + b",")
    return data[len(head) :] if is_token else None


def _older_value(question: Question) -> str:
    """The value of a question for clients that know interrupts as an event."""
    value: object = question.value
    return value if isinstance(value, str) else json.dumps(value).decode()


def _custom(value: Any) -> dict[str, Any]:
    name: object = fields_of(value).get("name")
    return {"type": "CUSTOM", "name": name if isinstance(name, str) and name else "custom", "value": value}


def _failure_text(end: RunEnd) -> str:
    if end.status == "interrupted":
        return "the run was cancelled"
    request_id = (end.error or {}).get("request_id")
    return f"{end.message} (request id: {request_id})" if request_id else end.message


def _failure_code(end: RunEnd) -> str:
    if end.status == "interrupted":
        return "cancelled"
    return str((end.error or {}).get("error") or end.status)
