"""Response input: the items of a request of the Responses API as messages of a graph's input."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.api.openai.message_input import (
    Message,
    client_result,
    new_message,
    parsed_arguments,
    read_content,
    require_object,
    require_text,
)
from threadkeep.api.openai.object_ids import parse_item_id
from threadkeep.base import ids

ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def response_messages(sent: str | Sequence[object], thread_id: UUID | None) -> list[Message]:
    """Return the input of a response as messages. References must have been replaced by their items.

    An item with an id of the thread keeps its message's id, so that the message is not added twice. InvalidParameter names
    the invalid item.
    """
    if isinstance(sent, str):
        return [new_message("user", sent)]
    messages: list[Message] = []
    for index, item in enumerate(sent):
        _add_item(messages, require_object(item, f"input[{index}]"), f"input[{index}]", thread_id)
    return messages


def _add_item(messages: list[Message], item: dict[str, Any], where: str, thread_id: UUID | None) -> None:
    kind = item.get("type", "message" if "role" in item else None)
    if kind == "message":
        messages.append(_message(item, where, thread_id))
    elif kind == "function_call":
        _add_call(messages, require_text(item, "call_id", where), item, where)
    elif kind == "function_call_output":
        messages.append(_result(require_text(item, "call_id", where), item.get("output"), f"{where}.output"))
    elif kind == "mcp_call":
        _add_own_call(messages, item, where)
    # Clients send all items of an answer back. A graph has no message for reasoning, so it is dropped.
    elif kind != "reasoning":
        raise InvalidParameter(f"items of type {str(kind)[:100]!r} are not supported", param=where)


def _message(item: Mapping[str, Any], where: str, thread_id: UUID | None) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidParameter(f"must be one of {', '.join(ROLES)}", param=f"{where}.role")
    message = new_message(ROLES[role], read_content(item.get("content"), f"{where}.content"))
    known = parse_item_id(item["id"]) if isinstance(item.get("id"), str) else None
    # An item of a run, such as a question, is not a message of the state.
    if known is not None and known.thread_id == thread_id and known.run_id is None:
        message["id"] = known.key
    return message


def _add_call(messages: list[Message], call_id: str, item: Mapping[str, Any], where: str) -> None:
    """Add a call to the assistant's message before it, or as a message of its own."""
    call = {
        "type": "tool_call",
        "name": require_text(item, "name", where),
        "args": parsed_arguments(item.get("arguments"), f"{where}.arguments"),
        "id": call_id,
    }
    if not messages or messages[-1]["role"] != "assistant":
        messages.append(new_message("assistant", ""))
    messages[-1].setdefault("tool_calls", []).append(call)


def _result(call_id: str, output: object, where: str) -> Message:
    return new_message("tool", read_content(output, where)) | client_result(call_id)


def _add_own_call(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    """Add a call of a tool of the graph, which a client has sent back, and its result."""
    known = parse_item_id(require_text(item, "id", where))
    # The item of another server has an id that cannot be read.
    call_id = known.key if known is not None else f"call_{ids.uuid7().hex}"
    _add_call(messages, call_id, item, where)
    failed = item.get("error")
    output = item.get("output") or (failed if isinstance(failed, str) else "")
    messages.append(new_message("tool", str(output)) | {"tool_call_id": call_id})
