"""Conversation items: the messages of a state, or of a request, as items of the OpenAI API."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast
from uuid import UUID

from threadkeep.api.agents.content import fields_of, text_of
from threadkeep.api.agents.pieces import Call, calls_of, text_pieces
from threadkeep.api.openai.message_input import CLIENT_RESULT
from threadkeep.api.openai.object_ids import item_id

MESSAGE_ROLES: Final[Mapping[str, str]] = {
    "human": "user",
    "user": "user",
    "system": "system",
    "ai": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}
"""Types and roles of messages, and the roles of items."""


def message_items(
    messages: Sequence[Mapping[str, Any]], thread_id: UUID | None, server_label: str
) -> list[dict[str, Any]]:
    """Return messages as items, in order. A call of a tool of the graph and its result are one item."""
    # A result comes after its call, but is a part of the item of the call.
    results = {str(message.get("tool_call_id")): message for message in messages if _role(message) == "tool"}
    items: list[dict[str, Any]] = []
    for message in messages:
        items += _items(message, results, thread_id, server_label)
    return items


def _items(
    message: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], thread_id: UUID | None, server_label: str
) -> Iterator[dict[str, Any]]:
    role = _role(message)
    if role == "assistant":
        yield from _spoken(message, thread_id)
        for call in calls_of(message):
            result = results.get(str(call.call_id))
            if result is None or _is_clients(result):
                yield _call(call, thread_id)
            else:
                yield _own_call(call, result, thread_id, server_label)
    elif role == "tool":
        # The result of a tool of the graph is in the item of its call.
        if _is_clients(message):
            yield _result(message, thread_id)
    elif role is not None:
        yield _message(message, role, _input_parts(message.get("content")), thread_id)


def _role(message: Mapping[str, Any]) -> str | None:
    return MESSAGE_ROLES.get(str(message.get("role") or message.get("type")))


def _is_clients(result: Mapping[str, Any]) -> bool:
    return str(result.get("id")).startswith(CLIENT_RESULT)


def _message(message: Mapping[str, Any], role: str, parts: list[Any], thread_id: UUID | None) -> dict[str, Any]:
    key = str(message.get("id"))
    return {
        "id": item_id("msg", thread_id, key),
        "type": "message",
        "status": "completed",
        "role": role,
        "content": parts,
    }


def _spoken(message: Mapping[str, Any], thread_id: UUID | None) -> Iterator[dict[str, Any]]:
    """Yield the items of the content of an assistant's message: its reasoning, and its text or refusal."""
    pieces = text_pieces(message)
    key = str(message.get("id"))
    if reasoning := "".join(text for kind, text in pieces if kind == "reasoning"):
        summary = [{"type": "summary_text", "text": reasoning}]
        yield {"id": item_id("rs", thread_id, key), "type": "reasoning", "status": "completed", "summary": summary} | {
            "encrypted_content": None
        }
    text = "".join(text for kind, text in pieces if kind == "text")
    refusal = "".join(text for kind, text in pieces if kind == "refusal")
    parts: list[dict[str, Any]] = []
    if text:
        parts.append({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    if refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        yield _message(message, "assistant", parts, thread_id)


def _input_parts(content: object) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    # LangChain allows plain texts among the parts.
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [_input_part(cast("dict[str, Any]", block)) for block in blocks if isinstance(block, dict)]


def _input_part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "image_url":
        # LangChain takes the address of an image in place of the object, too.
        image = fields_of(part.get("image_url")) or {"url": part.get("image_url")}
        return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail", "auto")}
    if part.get("type") == "file" and "file" in part:
        return {"type": "input_file", **fields_of(part["file"])}
    return {**part, "type": "input_text"} if part.get("type") == "text" else part


def _call(call: Call, thread_id: UUID | None) -> dict[str, Any]:
    return {
        "id": item_id("fc", thread_id, str(call.call_id)),
        "type": "function_call",
        "status": "completed",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _result(message: Mapping[str, Any], thread_id: UUID | None) -> dict[str, Any]:
    call_id = str(message.get("tool_call_id"))
    return {
        "id": item_id("fco", thread_id, call_id),
        "type": "function_call_output",
        "status": "completed",
        "call_id": call_id,
        "output": text_of(message.get("content")),
    }


def _own_call(call: Call, result: Mapping[str, Any], thread_id: UUID | None, server_label: str) -> dict[str, Any]:
    failed, text = result.get("status") == "error", text_of(result.get("content"))
    return {
        "id": item_id("mcp", thread_id, str(call.call_id)),
        "type": "mcp_call",
        "status": "failed" if failed else "completed",
        "server_label": server_label,
        "name": call.name,
        "arguments": call.arguments,
        "approval_request_id": None,
        "output": None if failed else text,
        "error": text if failed else None,
    }
