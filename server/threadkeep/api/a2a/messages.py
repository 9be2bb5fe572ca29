"""Messages: the parts of A2A as LangChain's content blocks, in both directions."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from mimetypes import MimeTypes
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from threadkeep.api.a2a.errors import unsupported_content
from threadkeep.api.a2a.fields import Fields
from threadkeep.api.agents.content import (
    MEDIA_TYPES,
    Block,
    Media,
    content_blocks,
    media_block,
    message_content,
    text_block,
)
from threadkeep.base import json

Part: TypeAlias = dict[str, Any]
"""A part as 1.0 has it."""
CONTENTS: Final = ("text", "raw", "url", "data")
"""Of these fields a part has exactly one."""
ROLES: Final = {"ROLE_USER": "ROLE_USER", 1: "ROLE_USER", "ROLE_AGENT": "ROLE_AGENT", 2: "ROLE_AGENT"}
"""The roles by their names and numbers. A client is the user, but helpers of `a2a-sdk` say that it is the agent."""
# A table of its own: the module-wide one also has the files of the system, and another name there on each machine.
TYPES: Final = MimeTypes().types_map[True]
"""Suffix of a filename -> media type, as Python knows it without the files of the system."""
UNKNOWN_MEDIA: Final = "application/octet-stream"
MAX_ID: Final = 255
"""Characters of an id that a client makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message of a client."""

    message_id: str
    context_id: str = ""
    """Empty: a new context, or that of the task."""
    task_id: str = ""
    """Empty: a new task."""
    parts: Sequence[Part]
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`metadata`, `extensions` and `referenceTaskIds`, if they were sent, and a `role` that is not the user's."""

    @property
    def content(self) -> str | list[Block]:
        """The content of a message of LangChain."""
        return message_content([block_of_part(part) for part in self.parts])

    @property
    def key(self) -> str:
        """The same for a message that is sent again: its id, and a digest of its parts. Some clients use an id twice."""
        return f"{self.message_id} {hashlib.sha256(json.dumps(self.parts)).hexdigest()[:32]}"

    def stored(self, *, without_raw: bool) -> dict[str, Any]:
        """The message as a run keeps it. `without_raw`: the bytes of files are in the run's input already."""
        parts = [{name: value for name, value in part.items() if name != "raw"} for part in self.parts]
        return {**self.details, "messageId": self.message_id, "parts": parts if without_raw else [*self.parts]}


def read_message(fields: Fields) -> SentMessage:
    """Read a message of a request. A2AError names the field that is wrong."""
    message_id = fields.required_text("messageId")
    if len(message_id) > MAX_ID:
        raise fields.refusal("messageId", f"must have at most {MAX_ID} characters")
    role = ROLES.get(fields.get("role")) if isinstance(fields.get("role"), str | int) else None
    if role is None:
        raise fields.refusal("role", "must be ROLE_USER")
    parts = [_read_part(part) for part in fields.messages("parts")]
    if not parts:
        raise fields.refusal("parts", "must have at least one part")
    details: dict[str, Any] = {
        "role": "" if role == "ROLE_USER" else role,
        "metadata": fields.struct("metadata"),
        "extensions": fields.texts("extensions"),
        "referenceTaskIds": fields.texts("referenceTaskIds"),
    }
    return SentMessage(
        message_id=message_id,
        context_id=fields.text("contextId"),
        task_id=fields.text("taskId"),
        parts=parts,
        details={name: value for name, value in details.items() if value},
    )


def _read_part(fields: Fields) -> Part:
    # Null is the same as absent, except for `data`: null is a JSON value.
    names = [name for name in CONTENTS if fields.get(name) is not None or (name == "data" and fields.has(name))]
    if len(names) != 1:
        raise fields.refusal(names[1] if names else "text", "a part has exactly one of text, raw, url and data")
    name = names[0]
    part: Part = {name: fields.get(name) if name == "data" else fields.text(name)}
    if name == "raw":
        part["raw"] = _base64(fields)
    extra = {"metadata": fields.struct("metadata"), **{key: fields.text(key) for key in ("filename", "mediaType")}}
    return part | {key: value for key, value in extra.items() if value}


def _base64(fields: Fields) -> str:
    """The bytes of a file in standard base64. ProtoJSON also allows the URL-safe form, and no padding."""
    # The form is normalized, because `base64` of LangChain's blocks goes to model providers, which read only one.
    text = fields.text("raw").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return b64encode(b64decode(text + "=" * (-len(text) % 4), validate=True)).decode()
    except ValueError:  # binascii.Error, or a character that is not ASCII
        raise fields.refusal("raw", "must be base64") from None


def check_media(parts: Sequence[Part], modes: Collection[str]) -> None:
    """Raise A2AError if a part has a media type that is not in `modes`."""
    for part in parts:
        if not is_one_of(media_of(part), modes):
            raise unsupported_content(media_of(part))


def is_one_of(media_type: str, modes: Collection[str]) -> bool:
    """Whether a media type is one of the modes, of which some end in `/*`."""
    plain = media_type.partition(";")[0].strip().lower()
    return any(fnmatchcase(plain, mode) for mode in modes)


def media_of(part: Part) -> str:
    """The media type of a part: its own, or the one that follows from its content or its filename."""
    if "mediaType" in part:
        return part["mediaType"]
    if "text" in part:
        return "text/plain"
    if "data" in part:
        return "application/json"
    named = str(part.get("filename") or urlsplit(str(part.get("url", ""))).path)
    return TYPES.get(PurePosixPath(named).suffix.lower(), UNKNOWN_MEDIA)


def block_of_part(part: Part) -> Block:
    """A part as a block. Data is text, because models read JSON."""
    if "text" in part:
        return text_block(part["text"])
    if "data" in part:
        return text_block(json.dumps(part["data"]).decode())
    media = Media(mime_type=media_of(part), base64=part.get("raw"), url=part.get("url"), filename=part.get("filename"))
    return media_block(media)


def parts_of_message(message: Mapping[str, Any]) -> list[Part]:
    """The parts of a message of a state, which is JSON. Reasoning and calls of tools are left out."""
    return [part for block in content_blocks(message) if (part := _part_of_block(block)) is not None]


def _part_of_block(block: Block) -> Part | None:
    kind = block["type"]
    if kind in {"text", "text-plain"} and isinstance(text := block.get("text"), str):
        return {"text": text} if text else None
    if kind == "non_standard":
        # A model's block of its own kind has no part of A2A, but is JSON.
        return {"data": block.get("value")}
    if kind not in MEDIA_TYPES:
        return None
    content = {"raw": block.get("base64"), "url": block.get("url")}
    fields = {**content, "filename": block.get("filename"), "mediaType": block.get("mime_type")}
    part = {name: value for name, value in fields.items() if value}
    # A file by a provider's id has no bytes and no URL. The client at least gets the block.
    return part if "raw" in part or "url" in part else {"data": block}
