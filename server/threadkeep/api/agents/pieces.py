"""Pieces: the texts of a message, or of a piece of one that a model streams."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

TextKind: TypeAlias = Literal["text", "refusal", "reasoning"]


def text_pieces(message: Mapping[str, Any]) -> list[tuple[TextKind, str]]:
    """The texts of a message or of a piece of one, in order."""
    content = message.get("content")
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
    if kind in {"text", "output_text"} and (text := known.get("text")):
        yield "text", text
    elif kind == "refusal" and (text := known.get("refusal")):
        yield "refusal", text
    elif kind in {"reasoning", "thinking"}:
        text = known.get("reasoning") or known.get("thinking")
        summary = cast("list[dict[str, Any]]", known.get("summary") or [])
        if text := text or "\n\n".join(part.get("text", "") for part in summary):
            yield "reasoning", text
