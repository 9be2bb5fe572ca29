"""Response output: an answer as numbered events and as the output items of a response.

Both are pure functions of the run's events and its end, so that every reader in every process gets the same events under
the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from threadkeep.api.agents.run_end import RunEnd
from threadkeep.api.openai.answer import AnswerReader, Item, Kind, Piece
from threadkeep.api.openai.errors import error_body
from threadkeep.api.openai.object_ids import id_of_item
from threadkeep.api.openai.response_object import ResponseHead, final_status
from threadkeep.base import json
from threadkeep.base.problems import Problem

DONE: Final = b"data: [DONE]\n\n"
DELTAS: Final[dict[Kind, str]] = {
    "text": "response.output_text.delta",
    "refusal": "response.refusal.delta",
    "reasoning": "response.reasoning_summary_text.delta",
    "call": "response.function_call_arguments.delta",
    "own_call": "response.mcp_call_arguments.delta",
}

Fields = dict[str, Any]


class Event(NamedTuple):
    """An event of a response in the form in which it is sent."""

    number: int
    frame: bytes


class ResponseOutput:
    """Makes the events and the output of one response."""

    def __init__(self, head: ResponseHead, reader: AnswerReader) -> None:
        self.head = head
        self.items: list[Fields] = []
        """The items that have ended, in order."""
        self.reader = reader
        self._next_number = 0
        self._is_open = False
        """Whether the event `response.in_progress` has been made."""
        self._delta_start = b""

    def created(self) -> list[Event]:
        """Return the first event, which comes before the events of the run."""
        status = "queued" if self.head.is_background else "in_progress"
        return [self._event("response.created", {"response": self.head.fields(status)})]

    def opened(self) -> list[Event]:
        """Return the second event, or nothing if it was returned before."""
        if self._is_open:
            return []
        self._is_open = True
        return [self._event("response.in_progress", {"response": self.head.fields("in_progress")})]

    def events(self, pieces: Sequence[Piece]) -> list[Event]:
        """Return the events of some pieces."""
        events = self.opened()
        for piece in pieces:
            if piece.step == "grew":
                events.append(self._delta(piece))
            else:
                events += self._began(piece.item) if piece.step == "began" else self._ended(piece.item)
        return events

    def finished(self, end: RunEnd, ended_at: int) -> tuple[list[Event], Fields]:
        """Return the last events, and the response."""
        events = self.events(self.reader.finish(success=end.is_success))
        response = self.head.ended(end, self.reader, self.items, ended_at)
        status = final_status(end, self.reader)
        # OpenAI has no event for a response that was cancelled.
        kind = "incomplete" if status == "cancelled" else status
        events.append(self._event(f"response.{kind}", {"response": response}))
        return events, response

    def error_frame(self, problem: Problem) -> bytes:
        """Return the frame of a problem in the middle of the events. No other event follows."""
        error = error_body(problem)["error"]
        fields = {"code": error["code"], "message": error["message"], "param": error["param"]}
        return self._event("error", {**fields}).frame

    def _event(self, kind: str, fields: Fields) -> Event:
        number = self._next_number
        self._next_number += 1
        data = json.dumps({"type": kind, "sequence_number": number, **fields})
        return Event(number, b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def _delta(self, piece: Piece) -> Event:
        """Return the event of a piece of text. There are many, so only the number and the text are encoded."""
        number = self._next_number
        self._next_number += 1
        return Event(number, b'%b%d,"delta":%b}\n\n' % (self._delta_start, number, json.dumps(piece.text)))

    def _place(self, item: Item) -> Fields:
        return {"item_id": self._id(item), "output_index": len(self.items)}

    def _id(self, item: Item) -> str:
        return id_of_item(item, self.head.thread_id, self.head.run_id)

    def _began(self, item: Item) -> list[Event]:
        place = self._place(item)
        kind, extra = DELTAS[item.kind], PLACES[item.kind]
        # All deltas of an item share this beginning.
        fields = orjson.dumps({"type": kind, **place, **extra, **({"logprobs": []} if item.kind == "text" else {})})
        self._delta_start = b"event: %b\ndata: %b" % (kind.encode(), fields[:-1] + b',"sequence_number":')
        added = {"output_index": place["output_index"], "item": self._item(item, is_new=True)}
        first = self._event("response.output_item.added", added)
        return [first, *(self._event(name, place | fields) for name, fields in BEGINNINGS[item.kind](item))]

    def _ended(self, item: Item) -> list[Event]:
        place = self._place(item)
        events = [self._event(name, place | fields) for name, fields in ENDS[item.kind](item)]
        whole = self._item(item, is_new=False)
        done = {"output_index": place["output_index"], "item": whole}
        self.items.append(whole)
        return [*events, self._event("response.output_item.done", done)]

    def _item(self, item: Item, *, is_new: bool) -> Fields:
        """Return an output item, at its beginning or at its end."""
        status = "in_progress" if is_new else "incomplete" if item.cut_off else "completed"
        fields: Fields = {"id": self._id(item), "type": TYPES[item.kind], "status": status}
        if item.kind in {"text", "refusal"}:
            return fields | {"role": "assistant", "content": [] if is_new else [_part(item)]}
        if item.kind == "reasoning":
            # Reasoning is shown as a summary, the only readable form of it in this API.
            return fields | {"summary": [] if is_new else [_summary(item)], "encrypted_content": None}
        fields |= {"name": item.name, "arguments": "" if is_new else item.text}
        if item.kind == "call":
            return fields | {"call_id": item.call_id}
        fields |= {"server_label": self.head.graph_id, "approval_request_id": None, "output": None, "error": None}
        if is_new:
            return fields
        if item.failed:
            return fields | {"status": "failed", "error": item.output}
        return fields | {"output": item.output}


def output_of(pieces: Sequence[Piece], output: ResponseOutput) -> list[Fields]:
    """Return the output items after some more pieces."""
    output.events(pieces)
    return output.items


def _part(item: Item, text: str | None = None) -> Fields:
    """Return the content part of a message."""
    content = item.text if text is None else text
    if item.kind == "refusal":
        return {"type": "refusal", "refusal": content}
    return {"type": "output_text", "text": content, "annotations": [], "logprobs": []}


def _summary(item: Item, text: str | None = None) -> Fields:
    return {"type": "summary_text", "text": item.text if text is None else text}


NamedFields = tuple[str, Fields]
TYPES: Final[dict[Kind, str]] = {
    "text": "message",
    "refusal": "message",
    "reasoning": "reasoning",
    "call": "function_call",
    # The type for calls that a client shows, but must not execute.
    "own_call": "mcp_call",
}
PART: Final[Fields] = {"content_index": 0}
SUMMARY: Final[Fields] = {"summary_index": 0}
PLACES: Final[dict[Kind, Fields]] = {"text": PART, "refusal": PART, "reasoning": SUMMARY, "call": {}, "own_call": {}}
"""The fields that name the place of a piece within its item."""


def _message_begins(item: Item) -> Iterator[NamedFields]:
    yield "response.content_part.added", PART | {"part": _part(item, "")}


def _reasoning_begins(item: Item) -> Iterator[NamedFields]:
    yield "response.reasoning_summary_part.added", SUMMARY | {"part": _summary(item, "")}


def _call_begins(_: Item) -> Iterator[NamedFields]:
    yield from ()


def _own_call_begins(_: Item) -> Iterator[NamedFields]:
    yield "response.mcp_call.in_progress", {}


def _text_ends(item: Item) -> Iterator[NamedFields]:
    yield "response.output_text.done", PART | {"text": item.text, "logprobs": []}
    yield "response.content_part.done", PART | {"part": _part(item)}


def _refusal_ends(item: Item) -> Iterator[NamedFields]:
    yield "response.refusal.done", PART | {"refusal": item.text}
    yield "response.content_part.done", PART | {"part": _part(item)}


def _reasoning_ends(item: Item) -> Iterator[NamedFields]:
    yield "response.reasoning_summary_text.done", SUMMARY | {"text": item.text}
    yield "response.reasoning_summary_part.done", SUMMARY | {"part": _summary(item)}


def _call_ends(item: Item) -> Iterator[NamedFields]:
    yield "response.function_call_arguments.done", {"name": item.name, "arguments": item.text}


def _own_call_ends(item: Item) -> Iterator[NamedFields]:
    yield "response.mcp_call_arguments.done", {"arguments": item.text}
    yield f"response.mcp_call.{'failed' if item.failed else 'completed'}", {}


EventsOfItem = Callable[[Item], Iterator[NamedFields]]
BEGINNINGS: Final[dict[Kind, EventsOfItem]] = {
    "text": _message_begins,
    "refusal": _message_begins,
    "reasoning": _reasoning_begins,
    "call": _call_begins,
    "own_call": _own_call_begins,
}
"""The events after `output_item.added`."""
ENDS: Final[dict[Kind, EventsOfItem]] = {
    "text": _text_ends,
    "refusal": _refusal_ends,
    "reasoning": _reasoning_ends,
    "call": _call_ends,
    "own_call": _own_call_ends,
}
"""The events before `output_item.done`."""
