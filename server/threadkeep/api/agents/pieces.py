"""Pieces: read the texts and calls of a message or of a streamed chunk, and the messages that a node returns.

A message may be a plain dict that a graph has made up. A field with a value of another type counts as absent.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from threadkeep.base import json

TextKind: TypeAlias = Literal["text", "refusal", "reasoning"]


class Call(NamedTuple):
    """A call of a tool."""

    call_id: str | None
    name: str
    arguments: str
    """JSON."""


def calls_of(message: Mapping[str, Any]) -> list[Call]:
    """The calls of a complete message, in the form of LangChain or in that of OpenAI's own client."""
    calls = message.get("tool_calls")
    listed = cast("list[object]", calls) if isinstance(calls, list) else []
    return [_call(cast("dict[str, Any]", call)) for call in listed if isinstance(call, dict)]


def _call(call: Mapping[str, Any]) -> Call:
    function = call.get("function")
    if isinstance(function, dict):
        fields = cast("dict[str, Any]", function)
        name, arguments = fields.get("name"), fields.get("arguments")
    else:
        name, arguments = call.get("name"), call.get("args")
    call_id = call.get("id")
    return Call(
        call_id=call_id if isinstance(call_id, str) else None,
        name=name if isinstance(name, str) else "",
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments or {}).decode(),
    )


def text_pieces(message: Mapping[str, Any]) -> list[tuple[TextKind, str]]:
    """The texts of a message or of a piece of one, in order."""
    content = message.get("content")
    # The fast path: nearly every token of a stream is this.
    if isinstance(content, str) and not message.get("additional_kwargs"):
        return [("text", content)] if content else []
    return [*_texts(message)]


def _texts(message: Mapping[str, Any]) -> Iterator[tuple[TextKind, str]]:
    extra = message.get("additional_kwargs")
    if isinstance(extra, dict):
        extra = cast("dict[str, Any]", extra)
        if isinstance(reasoning := extra.get("reasoning_content"), str) and reasoning:
            yield "reasoning", reasoning
        if isinstance(refusal := extra.get("refusal"), str) and refusal:
            yield "refusal", refusal
    content = message.get("content")
    if isinstance(content, str):
        if content:
            yield "text", content
        return
    for block in cast("list[Any]", content) if isinstance(content, list) else []:
        yield from _block_texts(block)


def _block_texts(block: Any) -> Iterator[tuple[TextKind, str]]:
    if isinstance(block, str):
        yield "text", block
        return
    if not isinstance(block, dict):
        return
    known = cast("dict[str, Any]", block)
    kind = known.get("type")
    # A graph may put any JSON there.
    if kind in {"text", "output_text"} and isinstance(text := known.get("text"), str) and text:
        yield "text", text
    elif kind == "refusal" and isinstance(text := known.get("refusal"), str) and text:
        yield "refusal", text
    elif kind in {"reasoning", "thinking"} and (text := _reasoning(known)):
        yield "reasoning", text


def _reasoning(block: dict[str, Any]) -> str:
    """The text of a block of reasoning: its own, else the parts of its summary."""
    text = block.get("reasoning") or block.get("thinking")
    if isinstance(text, str):
        return text
    # OpenAI's models give summaries of their reasoning instead of the reasoning.
    summary = block.get("summary")
    parts = cast("list[Any]", summary) if isinstance(summary, list) else []
    texts = [cast("dict[str, Any]", part).get("text") for part in parts if isinstance(part, dict)]
    return "\n\n".join(each for each in texts if isinstance(each, str))


def returned_messages(update: object) -> list[dict[str, Any]]:
    """The messages of a node's update as objects. A message that is neither an object nor a pair becomes an empty one."""
    returned: Any = cast("dict[str, Any]", update).get("messages") if isinstance(update, dict) else None
    # `add_messages` takes a single message too, and a pair is one message and not a list of two.
    is_several = isinstance(returned, list) and not _is_pair(cast("object", returned))
    return [_as_dict(message) for message in cast("list[Any]", returned if is_several else [returned])]


def _as_dict(message: Any) -> dict[str, Any]:
    """A message that a node returned: an object, or a pair of role and content."""
    if isinstance(message, dict):
        return cast("dict[str, Any]", message)
    return {"role": message[0], "content": message[1]} if _is_pair(message) else {}


def _is_pair(value: object) -> bool:
    pair = cast("list[object]", value) if isinstance(value, list) else []
    return len(pair) == 2 and all(isinstance(each, str) for each in pair)
