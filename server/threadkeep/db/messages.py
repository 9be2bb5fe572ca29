"""Messages: LangChain's four kinds out of their fields, without pydantic's general way.

A long thread is mostly messages, and each turn reads all of them. What they become here, they become through pydantic too:
whatever might not is left to it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from threadkeep import wire

KINDS: Final[Mapping[type[BaseMessage], tuple[str, str]]] = {
    kind: (kind.__module__, kind.__name__) for kind in wire.MESSAGES
}
"""Each kind, by exact class, and how a checkpoint names it."""
FIELDS: Final[Mapping[type[BaseMessage], frozenset[str]]] = {kind: frozenset(kind.model_fields) for kind in KINDS}
BY_NAME: Final = {name: kind for kind, name in KINDS.items()}
TOOL_CALL: Final = frozenset({"name", "args", "id", "type"})
USAGE: Final = frozenset(
    {"input_tokens", "output_tokens", "total_tokens", "input_token_details", "output_token_details"}
)


def made_of(name: tuple[str, str], fields: dict[str, Any]) -> BaseMessage | None:
    """The message of that kind with these fields; None where its own constructor might make something else of them."""
    kind = BY_NAME.get(name)
    if kind is None or fields.keys() != FIELDS[kind] or not _is_settled(kind, fields):
        return None
    message = kind.__new__(kind)
    _set(message, "__dict__", fields)
    _set(message, "__pydantic_fields_set__", set(fields))
    _set(message, "__pydantic_extra__", {})
    _set(message, "__pydantic_private__", None)
    return message


_set: Final[Callable[[object, str, object], None]] = object.__setattr__
"""As pydantic's own `model_construct`: a model refuses to be set up in any other way."""


def _is_settled(kind: type[BaseMessage], fields: Mapping[str, Any]) -> bool:
    """Whether no validator of the class has anything to do."""
    if type(fields["content"]) is not str or type(fields["response_metadata"]) is not dict:
        return False
    if not (_is_text_or_none(fields["id"]) and _is_text_or_none(fields["name"])):
        return False
    more = cast("object", fields["additional_kwargs"])
    if type(more) is not dict or cast("dict[str, object]", more).get("tool_calls"):
        return False
    if kind is ToolMessage:
        return type(fields["tool_call_id"]) is str and fields["status"] in {"success", "error"}
    return kind is not AIMessage or _is_settled_answer(fields)


def _is_settled_answer(fields: Mapping[str, Any]) -> bool:
    usage = cast("object", fields["usage_metadata"])
    if usage is not None and not (type(usage) is dict and cast("dict[str, object]", usage).keys() <= USAGE):
        return False
    return not fields["invalid_tool_calls"] and all(map(_is_settled_call, fields["tool_calls"]))


def _is_settled_call(call: object) -> bool:
    if type(call) is not dict:
        return False
    said = cast("dict[str, object]", call)
    return said.keys() == TOOL_CALL and said["type"] == "tool_call" and type(said["args"]) is dict


def _is_text_or_none(value: object) -> bool:
    return value is None or type(value) is str
