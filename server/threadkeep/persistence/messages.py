"""Messages: decodes LangChain's four message types without pydantic's validation.

A long thread is mostly messages, and each run reads all of them. The result is the same as pydantic's. If it might not
be, pydantic decodes the message. The checks run some hundred times for each run, so there are few.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from threadkeep.base import json

KINDS: Final[Mapping[type[object], tuple[str, str]]] = {
    kind: (kind.__module__, kind.__name__) for kind in json.MESSAGES
}
"""The module and name in checkpoints by exact class."""
BY_NAME: Final = {kind.__name__: (kind, kind.__module__, set(kind.model_fields)) for kind in json.MESSAGES}
"""The class, its module and its fields by name."""
TOOL_CALL: Final = frozenset({"name", "args", "id", "type"})
USAGE: Final = frozenset(
    {"input_tokens", "output_tokens", "total_tokens", "input_token_details", "output_token_details"}
)
TEXT_OR_NONE: Final = (str, type(None))


def decode_message(written: Any) -> BaseMessage | None:
    """Decode a message from `[module, class, fields, method]`.

    None if it is something else, or if its own constructor might return another value.
    """
    try:
        module, name, fields, _ = written
        kind, its_module, names = BY_NAME[name]
        # Missing fields have defaults and further ones are extras, and both are pydantic's work.
        if module != its_module or fields.keys() != names or not _is_settled(kind, fields):
            return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    message = kind.__new__(kind)
    _set(message, "__dict__", fields)
    # A copy, because pydantic adds each field that is assigned.
    _set(message, "__pydantic_fields_set__", names.copy())
    _set(message, "__pydantic_extra__", {})
    _set(message, "__pydantic_private__", None)
    return message


_set: Final[Callable[[object, str, object], None]] = object.__setattr__
"""Sets attributes as pydantic's `model_construct` does, because models refuse assignment."""


def _is_settled(kind: type[BaseMessage], fields: Mapping[str, Any]) -> bool:
    """Whether no validator of the class would change the fields."""
    additional = fields["additional_kwargs"]
    if not (
        type(fields["content"]) is str
        and type(additional) is dict
        and type(fields["response_metadata"]) is dict
        and type(fields["id"]) in TEXT_OR_NONE
        and type(fields["name"]) in TEXT_OR_NONE
        # LangChain's validator would make `tool_calls` from these.
    ) or (additional and cast("dict[str, object]", additional).get("tool_calls")):
        return False
    if kind is AIMessage:
        return _is_settled_answer(fields)
    return kind is not ToolMessage or (type(fields["tool_call_id"]) is str and fields["status"] in {"success", "error"})


def _is_settled_answer(fields: Mapping[str, Any]) -> bool:
    usage, calls = cast("object", fields["usage_metadata"]), fields["tool_calls"]
    if usage is not None and not (type(usage) is dict and cast("dict[str, object]", usage).keys() <= USAGE):
        return False
    return not fields["invalid_tool_calls"] and (not calls or all(map(_is_settled_call, calls)))


def _is_settled_call(call: object) -> bool:
    if type(call) is not dict:
        return False
    fields = cast("dict[str, object]", call)
    return fields.keys() == TOOL_CALL and fields["type"] == "tool_call" and type(fields["args"]) is dict
