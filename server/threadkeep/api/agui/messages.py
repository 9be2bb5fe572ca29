"""Messages: those of AG-UI as the input of a graph, and those of a state as AG-UI has them.

Both are JSON. An assistant's answer in AG-UI has only text, so other parts are not sent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from threadkeep.api.agents.content import (
    Block,
    Media,
    MediaType,
    content_blocks,
    fields_of,
    media_block,
    message_content,
    text_block,
    text_of,
)
from threadkeep.api.agents.pieces import Call, calls_of, text_pieces
from threadkeep.base import json

Message = dict[str, Any]

LEFT_OUT: Final = frozenset({"activity", "reasoning"})
"""Roles of messages that do not belong to a thread."""
ROLES: Final[Mapping[str, str]] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
"""LangChain's type -> AG-UI's role."""
MEDIA: Final[Mapping[str, MediaType]] = {"image": "image", "audio": "audio", "video": "video", "document": "file"}
"""AG-UI's part -> LangChain's block."""
PARTS: Final = {block: part for part, block in MEDIA.items()}
DEFAULT_MIME: Final = "application/octet-stream"


def graph_message(sent: Mapping[str, Any]) -> Message:
    """A message of a request as a graph's input has it, with the id that the client gave it."""
    role = sent["role"]
    message: Message = {"role": role, "content": _content(sent.get("content")), "id": sent["id"]}
    if isinstance(name := sent.get("name"), str):
        message["name"] = name
    if calls := sent.get("toolCalls"):
        message["tool_calls"] = [_call(call) for call in calls]
    if role == "tool":
        message["tool_call_id"] = sent["toolCallId"]
        if sent.get("error"):
            message["status"] = "error"
    return message


def upgraded(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with parts of type `binary`, which clients before AG-UI 1.0 send, as parts of 1.0."""
    content: object = fields_of(message).get("content")
    if not isinstance(content, list):
        return message
    return {**fields_of(message), "content": [_upgraded_part(part) for part in cast("list[object]", content)]}


def client_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages of a state in the form of AG-UI. Those of other roles are left out."""
    ids = message_ids(messages)
    several = [_client_message(message, each) for message, each in zip(messages, ids, strict=True)]
    return [message for message in several if message is not None]


def message_ids(messages: Sequence[Message]) -> list[str]:
    """The ids of the messages of a state. One without an id is known by its place."""
    return [str(message.get("id") or f"message-{index}") for index, message in enumerate(messages)]


def tool_content(message: Message) -> str | list[dict[str, Any]]:
    """The content of a tool's message: text, or parts if some of it is not text."""
    if isinstance(message.get("content"), str):
        return message["content"]
    parts = [_part(block) for block in content_blocks(message)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _content(content: object) -> str | list[Block]:
    if isinstance(content, list):
        return message_content([_block(part) for part in cast("list[dict[str, Any]]", content)])
    return content if isinstance(content, str) else ""


def _block(part: Mapping[str, Any]) -> Block:
    if part["type"] == "text":
        return text_block(part["text"])
    source, kind = part["source"], MEDIA[part["type"]]
    if source["type"] == "file":
        return {"type": kind, "file_id": source["value"]}
    where = {"base64" if source["type"] == "data" else "url": source["value"]}
    filename: object = fields_of(part.get("metadata")).get("filename")
    name = filename if isinstance(filename, str) else None
    return media_block(Media(mime_type=source.get("mimeType"), filename=name, **where), kind)


def _upgraded_part(part: object) -> object:
    fields = fields_of(part)
    if fields.get("type") != "binary":
        return part
    mime_type = fields.get("mimeType")
    family = str(mime_type).partition("/")[0]
    source: dict[str, Any] = {"mimeType": mime_type}
    for name, kind in (("data", "data"), ("url", "url"), ("id", "file")):
        if fields.get(name):
            source |= {"type": kind, "value": fields[name]}
            break
    named = {"metadata": {"filename": fields["filename"]}} if fields.get("filename") else {}
    return {"type": family if family in MEDIA else "document", "source": source, **named}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"type": "tool_call", "id": call["id"], "name": function["name"], "args": _arguments(function["arguments"])}


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call. If a stream was cut off, they are not an object, and their text is used."""
    try:
        arguments: object = json.loads(text or "{}")
    except ValueError:
        arguments = text
    return cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {"arguments": arguments}


def _client_message(message: Message, message_id: str) -> Message | None:
    role = ROLES.get(str(message.get("type") or message.get("role")))
    if role is None and message.get("role") in ROLES.values():  # a state without a reducer keeps messages as they were
        role = message["role"]
    if role is None:
        return None
    fields: Message = {"id": message_id, "role": role}
    if role == "tool":
        error = {"error": text_of(message.get("content"))} if message.get("status") == "error" else {}
        call_id = str(message.get("tool_call_id") or "")
        return {**fields, "content": tool_content(message), "toolCallId": call_id, **error}
    if isinstance(name := message.get("name"), str):
        fields["name"] = name
    if role == "user":
        fields["content"] = _user_content(message)
        return fields
    # LangChain turns a developer message into a system message with this key.
    if role == "system" and fields_of(message.get("additional_kwargs")).get("__openai_role__") == "developer":
        fields["role"] = "developer"
    # Not `text_of`, which puts line breaks between parts: streamed pieces were sent without.
    fields["content"] = "".join(text for kind, text in text_pieces(message) if kind != "reasoning")
    if role == "assistant" and (calls := calls_of(message)):
        fields["toolCalls"] = [client_call(call) for call in calls]
    return fields


def client_call(call: Call) -> dict[str, Any]:
    """A call of a message of a state in the form of AG-UI."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": str(call.call_id), "type": "function", "function": function}


def _user_content(message: Message) -> str | list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, str) else [_part(block) for block in content_blocks(message)]


def _part(block: Block) -> dict[str, Any]:
    """Return a content block as a part. A block without a part in AG-UI becomes its JSON."""
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = _source(block)
    if block["type"] not in PARTS or source is None:
        return {"type": "text", "text": json.dumps(block.get("value", block)).decode()}
    mime_type = block.get("mime_type")
    if mime_type or source["type"] == "data":
        source["mimeType"] = mime_type or DEFAULT_MIME
    named = {"metadata": {"filename": block["filename"]}} if block.get("filename") else {}
    return {"type": PARTS[block["type"]], "source": source, **named}


def _source(block: Block) -> dict[str, Any] | None:
    for name, kind in (("base64", "data"), ("url", "url"), ("file_id", "file")):
        if isinstance(block.get(name), str):
            return {"type": kind, "value": block[name]}
    return None
