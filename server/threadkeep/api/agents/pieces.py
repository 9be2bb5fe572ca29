"""Pieces: read the texts of a message or of a streamed chunk, and the messages that a node returns."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

TextKind: TypeAlias = Literal["text", "refusal", "reasoning"]


def text_pieces(message: Mapping[str, Any]) -> list[tuple[TextKind, str]]:
    """The texts of a message or of a piece of one, in order."""
    content = message.get("content")
    # The fast path: nearly every token of a stream is this.
    if isinstance(content, str) and not message.get("additional_kwargs"):
        return [("text", content)] if content else []
    return [*_texts(message)]


def _texts(message: Mapping[str, Any]) -> Iterator[tuple[TextKind, str]]:
    if extra := message.get("additional_kwargs"):
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
