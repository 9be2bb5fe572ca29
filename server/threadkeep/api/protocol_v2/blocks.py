"""Content blocks: the content of a message as the protocol streams it, block by block.

langchain-core (`content_blocks`) gives the formats of all providers one form. This module numbers each block, and makes
its start, its deltas and the complete block at the end.
"""

from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import AIMessage, AIMessageChunk

from threadkeep.base import json

Block: TypeAlias = dict[str, Any]
Data: TypeAlias = dict[str, Any]
"""The data of an event of the channel `messages`."""

CHUNKS: Final = {"tool_call_chunk": "tool_call", "server_tool_call_chunk": "server_tool_call"}
"""Types of blocks whose arguments arrive as pieces of JSON, and the type of the complete block."""
TEXTS: Final = {"text": "text", "reasoning": "reasoning"}
"""Types of blocks that arrive as pieces of text, and the field with the text."""
BESIDE_TEXT: Final = ("tool_call_chunks", "tool_calls", "invalid_tool_calls", "additional_kwargs")
"""Fields of a message that add blocks besides its text."""
PLAIN_TEXT_KEYS: Final = 2
"""Number of fields of a piece that has only a type and a text."""
PLAIN_TEXT: Final = ("text", 0)
"""The key of a text block without an index."""
LARGE_FIELDS: Final = frozenset({"args", "data", "base64", "output", "value"})
"""Fields that are sent only once, with the complete block."""


class _StreamingBlock:
    """A block of which more pieces may follow. Its text is joined once, at the end."""

    def __init__(self, index: int, block: Block) -> None:
        self.index = index
        self._block = dict(block)
        self._field = _growing(block)
        self._pieces = [block.get(self._field) or ""] if self._field else []

    def add(self, block: Block) -> None:
        # A block that does not grow arrives complete each time, so the newest one replaces it.
        if self._field is None or self._block.get("type") != block.get("type"):
            self._block, self._field = dict(block), _growing(block)
            self._pieces = [block.get(self._field) or ""] if self._field else []
            return
        self._pieces.append(block.get(self._field) or "")
        # Most pieces have nothing else to merge.
        if len(block) > PLAIN_TEXT_KEYS:
            # Later pieces of a call have None as its id and name.
            self._block.update({key: value for key, value in block.items() if value is not None})

    def complete(self) -> Block:
        return _complete(self._block | {self._field: "".join(self._pieces)} if self._field else self._block)


class ContentBlocks:
    """The blocks of one message of which more chunks may follow."""

    def __init__(self) -> None:
        self._open: dict[object, _StreamingBlock] = {}

    def add(self, message: Block) -> list[Data]:
        """Return the events of one more chunk of the message, decoded from JSON."""
        events: list[Data] = []
        for key, block in _blocks(message):
            growing = self._open.get(key)
            if growing is None:
                growing = self._open[key] = _StreamingBlock(len(self._open), block)
                events.append(_start(growing.index, block))
            else:
                growing.add(block)
            if (delta := _delta(block)) is not None:
                events.append({"event": "content-block-delta", "index": growing.index, "delta": delta})
        return events

    def add_text(self, text: str) -> bool:
        """Add text to the message's only block. Return False if there are other blocks or it is not plain text."""
        growing = self._open.get(PLAIN_TEXT)
        if growing is None or len(self._open) > 1:
            return False
        growing.add({"type": "text", "text": text})
        return True

    def finish(self) -> list[Data]:
        """Return the events with the complete blocks."""
        return [
            {"event": "content-block-finish", "index": growing.index, "content": growing.complete()}
            for growing in self._open.values()
        ]


def _blocks(message: Block) -> list[tuple[object, Block]]:
    """Return each block with its key, which is the same in all pieces: its index, else its type and place."""
    content = message.get("content")
    if isinstance(content, str) and not any(message.get(field) for field in BESIDE_TEXT):
        return [(PLAIN_TEXT, {"type": "text", "text": content})] if content else []
    blocks: list[tuple[object, Block]] = []
    for place, block in enumerate(_uniform(message)):
        index = block.get("index")
        blocks.append(((block.get("type"), place) if index is None else index, block))
    return blocks


def _uniform(message: Block) -> list[Block]:
    """Return the content blocks that langchain-core reads from a message. If it cannot read it, return only its text."""
    kind = AIMessageChunk if message.get("type") == "AIMessageChunk" else AIMessage
    fields = {key: value for key, value in message.items() if key != "type" and value is not None}
    try:
        built = kind(**fields)
        blocks = [cast("Block", dict(block)) for block in built.content_blocks]
    except (ValueError, TypeError, KeyError, AttributeError):
        text = message.get("content")
        return [{"type": "text", "text": text}] if isinstance(text, str) else []
    # For a complete message, `content_blocks` leaves the invalid calls out.
    if kind is AIMessage:
        blocks.extend({"type": "invalid_tool_call", **call} for call in built.invalid_tool_calls)
    return blocks


def _start(index: int, block: Block) -> Data:
    kind = block.get("type", "text")
    if field := TEXTS.get(kind):
        content = {key: value for key, value in block.items() if key not in {"index", "annotations"}} | {field: ""}
    elif kind in CHUNKS:
        content = {key: value for key, value in block.items() if key != "extras"} | {"args": ""}
    else:
        content = {key: value for key, value in block.items() if key not in LARGE_FIELDS}
        content |= {"args": {}} if "args" in block and kind != "invalid_tool_call" else {}
        content |= {"value": {}} if "value" in block else {}
    return {"event": "content-block-start", "index": index, "content": content}


def _delta(block: Block) -> Block | None:
    kind = block.get("type", "text")
    if field := TEXTS.get(kind):
        return {"type": f"{kind}-delta", field: block[field]} if block.get(field) else None
    if kind in CHUNKS:
        return {"type": "tool-call-delta", "args": block["args"]} if block.get("args") else None
    return None


def _growing(block: Block) -> str | None:
    """Return the field that arrives in pieces, or None if each block arrives complete."""
    kind = block.get("type", "text")
    return TEXTS.get(kind) or ("args" if kind in CHUNKS else None)


def _complete(block: Block) -> Block:
    kind = block.get("type", "text")
    if kind not in CHUNKS:
        return block if kind == "text" and "index" not in block else {k: v for k, v in block.items() if k != "index"}
    call = {"id": block.get("id"), "name": block.get("name")}
    # A call without arguments arrives with an empty text.
    raw = block.get("args") or "{}"
    try:
        # A stream may end within the arguments, and a model may write anything.
        args = cast("object", json.loads(raw))
    except ValueError:
        args = None
    if isinstance(args, dict):
        return {"type": CHUNKS[kind], **call, "args": cast("Block", args)}
    return {"type": "invalid_tool_call", **call, "args": raw, "error": "the arguments are not a JSON object"}
