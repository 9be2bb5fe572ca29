"""Chat output: an answer as the chunks of a chat completion, and as the completion that these chunks make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson

from threadkeep.api.openai.answer import AnswerReader, Item, Piece, Usage
from threadkeep.base import json

BETWEEN_MESSAGES: Final = "\n\n"
DONE: Final = b"data: [DONE]\n\n"
# `reasoning_content` is not of OpenAI. DeepSeek has introduced it, and clients read it.
FIELDS: Final = {"text": "content", "refusal": "refusal", "reasoning": "reasoning_content"}
"""The field of a delta for each kind of text."""


def created_at(run_id: UUID) -> int:
    """Return the time at which a run was created, from its id, in seconds."""
    # The first 48 bits of a UUIDv7 are milliseconds since 1970.
    return (run_id.int >> 80) // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionHead:
    """The fields that the completion and all its chunks share."""

    run_id: UUID
    thread_id: UUID | None
    model: str

    def fields(self, kind: str) -> dict[str, Any]:
        """Return the first fields of an object of a kind."""
        return {
            "id": f"chatcmpl-{self.run_id.hex}",
            "object": kind,
            "created": created_at(self.run_id),
            "model": self.model,
        }

    def extension(self, reader: AnswerReader) -> dict[str, Any]:
        """Return the field `langgraph`: the thread, the run and the open questions."""
        return {
            "thread_id": str(self.thread_id) if self.thread_id else None,
            "run_id": str(self.run_id),
            "interrupts": [{"id": question.interrupt_id, "value": question.value} for question in reader.questions],
        }


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return the tokens in the fields of Chat Completions."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


@dataclass(slots=True)
class ChatDeltas:
    """Turns pieces of an answer into deltas. Calls of the graph itself are left out: a client would execute them."""

    # By the items themselves: an `id()` is used again after its item was freed, so calls would share an index.
    _calls: dict[Item, int] = field(default_factory=dict[Item, int])
    """The index of each call, by its item."""
    _last_message: dict[str, str] = field(default_factory=dict[str, str])
    """Field -> the id of the message of its latest text."""

    @property
    def has_calls(self) -> bool:
        """Whether the client has to execute a tool."""
        return bool(self._calls)

    def deltas(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
        """Yield the deltas of some pieces."""
        for piece in pieces:
            item = piece.item
            if item.kind == "call" and piece.step != "ended":
                yield {"tool_calls": [self._call(piece)]}
            elif piece.step == "grew" and item.kind in FIELDS:
                yield {FIELDS[item.kind]: self._separated(item, piece.text)}

    def _call(self, piece: Piece) -> dict[str, Any]:
        item = piece.item
        if piece.step == "grew":
            return {"index": self._calls[item], "function": {"arguments": piece.text}}
        index = self._calls[item] = len(self._calls)
        return {
            "index": index,
            "id": item.call_id,
            "type": "function",
            "function": {"name": item.name, "arguments": ""},
        }

    def _separated(self, item: Item, text: str) -> str:
        """Return the text, after a blank line if the text before it is of another message."""
        name = FIELDS[item.kind]
        last, self._last_message[name] = self._last_message.get(name), item.message_id
        return text if last in {None, item.message_id} else BETWEEN_MESSAGES + text


def finish_reason(deltas: ChatDeltas, reader: AnswerReader) -> str:
    """Return the reason for the end of the answer."""
    return "tool_calls" if deltas.has_calls else reader.limit_reason or "stop"


class ChatChunks:
    """The frames of a streamed completion."""

    def __init__(self, head: CompletionHead, reader: AnswerReader, *, include_usage: bool) -> None:
        self.head = head
        self._reader = reader
        self._include_usage = include_usage
        self._deltas = ChatDeltas()
        self._fields = head.fields("chat.completion.chunk")
        self._begun = False
        # Nearly all frames are pieces of text, so the JSON around the piece is encoded once.
        self._text_start = b"data: %b" % orjson.dumps(self._fields)[:-1] + (
            b',"choices":[{"index":0,"delta":{"content":'
        )
        usage = b',"usage":null' if include_usage else b""
        self._text_end = b'},"logprobs":null,"finish_reason":null}]%b}\n\n' % usage

    def frames(self, pieces: Sequence[Piece]) -> bytes:
        """Return the frames of some pieces."""
        frames = b"" if self._begun else self._first()
        for delta in self._deltas.deltas(pieces):
            # The template fits only a delta with text alone.
            if len(delta) == 1 and "content" in delta:
                frames += self._text_start + json.dumps(delta["content"]) + self._text_end
            else:
                frames += self._frame(delta)
        return frames

    def last_frames(self, pieces: Sequence[Piece]) -> bytes:
        """Return the frames of the last pieces, the finish reason, and the usage if the client requested it."""
        frames = self.frames(pieces)
        extension = {"langgraph": self.head.extension(self._reader)}
        frames += self._frame({}, finish_reason(self._deltas, self._reader), extension)
        if self._include_usage:
            # The chunk with the usage has no choice.
            usage: dict[str, Any] = {"choices": [], "usage": usage_fields(self._reader.usage)}
            frames += b"data: %b\n\n" % json.dumps(self._fields | usage)
        return frames + DONE

    def _first(self) -> bytes:
        self._begun = True
        extension = {"langgraph": self.head.extension(self._reader)}
        # As the first chunk of OpenAI.
        return self._frame({"role": "assistant", "content": ""}, None, extension)

    def _frame(self, delta: dict[str, Any], reason: str | None = None, more: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        # OpenAI sends null in all chunks but the last, if the client wants the usage.
        usage = {"usage": None} if self._include_usage else {}
        return b"data: %b\n\n" % json.dumps({**self._fields, "choices": [choice], **usage, **(more or {})})


class ChatCompletion:
    """A completion that is answered as a whole."""

    def __init__(self, head: CompletionHead, reader: AnswerReader) -> None:
        self._head = head
        self._reader = reader
        self._deltas = ChatDeltas()
        self._texts: dict[str, list[str]] = {}
        self._calls: list[dict[str, Any]] = []

    def add(self, pieces: Sequence[Piece]) -> None:
        """Add some pieces of the answer."""
        for delta in self._deltas.deltas(pieces):
            for name, value in delta.items():
                if name == "tool_calls":
                    self._add_call(value[0])
                else:
                    self._texts.setdefault(name, []).append(value)

    def _add_call(self, call: dict[str, Any]) -> None:
        if call["index"] == len(self._calls):
            self._calls.append({name: call[name] for name in ("id", "type")} | {"function": dict(call["function"])})
        else:
            self._calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]

    def body(self) -> bytes:
        """Return the completion as JSON, after the end of the run."""
        text = "".join(self._texts.get("content", ()))
        refusal = "".join(self._texts.get("refusal", ())) or None
        message: dict[str, Any] = {
            "role": "assistant",
            # Clients expect text, except beside calls.
            "content": None if not text and self._calls else text,
            "refusal": refusal,
            "annotations": [],
        }
        if reasoning := "".join(self._texts.get("reasoning_content", ())):
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = self._calls
        reason = finish_reason(self._deltas, self._reader)
        return json.dumps(
            self._head.fields("chat.completion")
            | {
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
                "usage": usage_fields(self._reader.usage),
                "service_tier": "default",
                "system_fingerprint": None,
                "langgraph": self._head.extension(self._reader),
            }
        )
