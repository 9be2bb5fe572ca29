"""Message input: the messages of a request as the input of a graph.

A message of the input is a dict with `role`, `content` and an `id` of its own, which LangGraph's reducers read. Text is one
string, because graphs and models expect that. Other parts keep OpenAI's shape, which LangChain's models read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.base import ids, json

Message: TypeAlias = dict[str, Any]
"""A message as a graph's input has it."""

ROLES: Final[Mapping[str, str]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    # The newer name of OpenAI for the same role.
    "developer": "system",
    "tool": "tool",
}
CLIENT_RESULT: Final = "client-"
"""The beginning of the ids of results of the client's tools."""
TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})
MEDIA_PARTS: Final = frozenset({"image_url", "input_audio"})
"""Parts that are handed to the graph as they are."""


def chat_messages(sent: Sequence[object]) -> list[Message]:
    """Return the messages of a chat completion. Raise InvalidParameter, which names the invalid field."""
    return [_chat_message(message, f"messages[{index}]") for index, message in enumerate(sent)]


def _chat_message(sent: object, where: str) -> Message:
    message = require_object(sent, where)
    role = message.get("role")
    if role == "function":
        raise InvalidParameter("'function' messages are not supported: use tools", param=f"{where}.role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidParameter(f"must be one of {', '.join(ROLES)}", param=f"{where}.role")
    calls = tool_calls(message.get("tool_calls"), where) if role == "assistant" else []
    content = read_content(message.get("content"), f"{where}.content", may_be_null=role == "assistant")
    made = new_message(ROLES[role], content)
    if isinstance(name := message.get("name"), str) and role == "user":
        made["name"] = name
    if calls:
        made["tool_calls"] = calls
    if role == "tool":
        made |= client_result(require_text(message, "tool_call_id", where))
    return made


def client_result(call_id: str) -> Message:
    """Return the fields of a message with the result of a tool of the client."""
    return {"tool_call_id": call_id, "id": f"{CLIENT_RESULT}{ids.uuid7()}"}


def new_message(role: str, content: object) -> Message:
    """Return a message with a new id."""
    return {"role": role, "content": content, "id": str(ids.uuid7())}


def tool_calls(sent: object, where: str) -> list[dict[str, Any]]:
    """Return the calls of an assistant's message, with their arguments parsed. Raise InvalidParameter."""
    if sent is None:
        return []
    if not isinstance(sent, list):
        raise InvalidParameter("must be an array", param=f"{where}.tool_calls", code="invalid_type")
    return [_tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(cast("list[object]", sent))]


def _tool_call(sent: object, where: str) -> dict[str, Any]:
    call = require_object(sent, where)
    if call.get("type", "function") != "function":
        raise InvalidParameter("only calls of functions are supported", param=f"{where}.type")
    function = require_object(call.get("function"), f"{where}.function")
    arguments = parsed_arguments(function.get("arguments"), f"{where}.function.arguments")
    name = require_text(function, "name", f"{where}.function")
    return {"type": "tool_call", "name": name, "args": arguments, "id": require_text(call, "id", where)}


def parsed_arguments(sent: object, where: str) -> dict[str, Any]:
    """Parse the arguments of a call, which clients send as JSON in a string. Raise InvalidParameter."""
    try:
        arguments = cast("object", json.loads(sent or "{}")) if isinstance(sent, str) else sent
    except ValueError:
        arguments = ""  # refused below, like each value that is not an object
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise InvalidParameter("must be a JSON object in a string", param=where)
    return cast("dict[str, Any]", arguments)


def read_content(sent: object, where: str, *, may_be_null: bool = False) -> str | list[Any]:
    """Return a content as a string, or as parts if some of them are not text. Raise InvalidParameter."""
    if isinstance(sent, str):
        return sent
    # A message with calls may have no content.
    if sent is None and may_be_null:
        return ""
    if sent is None:
        raise InvalidParameter("is required", param=where, code="missing_required_parameter")
    if not isinstance(sent, list):
        raise InvalidParameter("must be a string or an array of parts", param=where, code="invalid_type")
    if not sent:
        raise InvalidParameter("must have at least one part", param=where)
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(cast("list[object]", sent))]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(sent: object, where: str) -> dict[str, Any]:
    part = require_object(sent, where)
    kind = require_text(part, "type", where)
    if kind in TEXT_PARTS:
        return {"type": "text", "text": require_text(part, "text", where, may_be_empty=True)}
    if kind == "refusal":
        return {"type": "text", "text": require_text(part, "refusal", where, may_be_empty=True)}
    if kind in MEDIA_PARTS:
        if not isinstance(part.get(kind), dict):
            raise InvalidParameter(f"must have an object {kind!r}", param=where)
        return part
    if kind == "input_image":
        return _image(part, where)
    if kind in {"file", "input_file"}:
        return _file(require_object(part.get("file"), where) if kind == "file" else part, where)
    raise InvalidParameter(f"parts of type {kind[:100]!r} are not supported", param=where)


def _image(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return an image of the Responses API in the form of Chat Completions. The server fetches no address."""
    if not isinstance(url := part.get("image_url"), str):
        raise InvalidParameter("must have 'image_url': a file id is not supported", param=where)
    detail = {"detail": part["detail"]} if isinstance(part.get("detail"), str) else {}
    return {"type": "image_url", "image_url": {"url": url, **detail}}


def _file(file: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(file.get("file_data"), str):
        raise InvalidParameter("must have 'file_data': a file id is not supported", param=where)
    names = ("filename", "file_data")
    return {"type": "file", "file": {name: file[name] for name in names if isinstance(file.get(name), str)}}


def require_object(sent: object, where: str) -> dict[str, Any]:
    """Return the object at a place, without its null fields. Raise InvalidParameter if there is none."""
    if sent is None:
        raise InvalidParameter("is required", param=where, code="missing_required_parameter")
    if not isinstance(sent, dict):
        raise InvalidParameter("must be an object", param=where, code="invalid_type")
    # Clients with typed requests send null for each absent field.
    return {key: value for key, value in cast("dict[str, Any]", sent).items() if value is not None}


def require_text(sent: Mapping[str, Any], name: str, where: str, *, may_be_empty: bool = False) -> str:
    """Return a string of an object. Raise InvalidParameter if it is missing or not a string."""
    text: object = sent.get(name)
    if text is None or (text == "" and not may_be_empty):
        raise InvalidParameter("is required", param=f"{where}.{name}", code="missing_required_parameter")
    if not isinstance(text, str):
        raise InvalidParameter("must be a string", param=f"{where}.{name}", code="invalid_type")
    return text
