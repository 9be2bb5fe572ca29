"""Content: messages in and out as LangChain's standard content blocks.

A block is `text`, or one of `image`, `audio`, `video` and `file` with `base64` or `url`, and `mime_type` and `filename` if they
are known. Out, a block that is none of these is `non_standard`, with its data as `value`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from langchain_core.messages import AIMessage, HumanMessage

Block: TypeAlias = dict[str, Any]
MediaType: TypeAlias = Literal["image", "audio", "video", "file"]
MEDIA_TYPES: Final[tuple[MediaType, ...]] = ("image", "audio", "video", "file")
CALL_BLOCKS: Final = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call"})
"""Blocks that a message also has as `tool_calls`."""
REFUSALS: Final = (ValueError, TypeError, LookupError, AttributeError)
"""Exceptions of LangChain for blocks that it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Data that is not text. Exactly one of `base64` and `url` is set."""

    mime_type: str | None
    base64: str | None = None
    url: str | None = None
    filename: str | None = None


def text_block(text: str) -> Block:
    """A block of text."""
    return {"type": "text", "text": text}


def media_block(media: Media, media_type: MediaType | None = None) -> Block:
    """A block of data. Its type follows from its MIME type, unless `media_type` is given."""
    fields = {
        "base64": media.base64,
        "url": media.url,
        "mime_type": media.mime_type,
        "filename": media.filename,
    }
    kind = media_type or type_of_mime(media.mime_type)
    return {"type": kind, **{name: value for name, value in fields.items() if value is not None}}


def type_of_mime(mime_type: str | None) -> MediaType:
    """The type of a block with data of a MIME type."""
    family = (mime_type or "").partition("/")[0]
    return family if family in MEDIA_TYPES else "file"


def message_content(blocks: Sequence[Block]) -> str | list[Block]:
    """The content of a message. Content with only text is a plain string, because graphs and models expect that."""
    if all(block["type"] == "text" for block in blocks):
        return "\n".join(block["text"] for block in blocks)
    return list(blocks)


def content_blocks(message: Mapping[str, Any]) -> list[Block]:
    """The content of a message of a state, which is JSON, in blocks. Calls of tools are left out."""
    content: object = message.get("content")
    if isinstance(content, str):
        return [text_block(content)] if content else []
    parts = cast("list[object]", content) if isinstance(content, list) else []
    known = [cast("str | Block", part) for part in parts if isinstance(part, (str, dict))]
    return [_plain(block) for block in _standard(message, known) if block.get("type") not in CALL_BLOCKS]


def text_of(content: object) -> str:
    """The text of a message's content. Other parts are left out."""
    if isinstance(content, str):
        return content
    parts = cast("list[object]", content) if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else _text_of_part(part) for part in parts]
    return "\n".join(text for text in texts if text)


def fields_of(value: object) -> dict[str, Any]:
    """The fields of a JSON object. Empty for another value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def messages_of(values: object) -> list[dict[str, Any]]:
    """The messages of a state, as JSON. Those that a graph keeps as something else are left out."""
    messages: object = fields_of(values).get("messages")
    several = cast("list[object]", messages) if isinstance(messages, list) else []
    return [cast("dict[str, Any]", each) for each in several if isinstance(each, dict)]


def _standard(message: Mapping[str, Any], content: list[str | Block]) -> list[Block]:
    """The blocks as LangChain translates those of each provider."""
    # Only these two translate blocks of providers. The message itself is dropped again.
    kind = AIMessage if message.get("type") == "ai" else HumanMessage
    try:
        # LangChain finds the provider, whose blocks it must translate, in the metadata.
        made = kind(content=cast("Any", content), response_metadata=message.get("response_metadata") or {})
        return [cast("Block", {**block}) for block in made.content_blocks]
    # A state may have any content. One strange block must not make the whole thread unreadable.
    except REFUSALS:
        return [text_block(part) if isinstance(part, str) else _unknown(part) for part in content]


def _unknown(part: Block) -> Block:
    text = part.get("text")
    return text_block(text) if isinstance(text, str) else {"type": "non_standard", "value": part}


def _plain(block: Block) -> Block:
    """The block without LangChain's own id, which is another one each time, and with the name of a file in its place."""
    value: object = block.get("value")
    # LangChain translates the thinking of a model only if it knows the model's provider.
    if block["type"] == "non_standard" and isinstance(value, dict) and "thinking" in value:
        return {"type": "reasoning", "reasoning": cast("dict[str, Any]", value)["thinking"]}
    extras = cast("dict[str, Any]", block.get("extras") or {})
    named = {"filename": extras["filename"]} if isinstance(extras.get("filename"), str) else {}
    return {**named, **{name: part for name, part in block.items() if name not in {"id", "extras"}}}


def _text_of_part(part: object) -> str:
    text: object = cast("dict[str, object]", part).get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""
