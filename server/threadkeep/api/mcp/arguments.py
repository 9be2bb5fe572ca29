"""Arguments: reads the arguments of a tool call and checks them against the tool's schema.

A wrong argument is an error of the tool, not of the protocol, because models read it and send better arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from anyio import to_thread
from jsonschema import Draft202012Validator, exceptions
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from threadkeep.api.mcp.schemas import INPUT, MESSAGES, RESUME, THREAD_ID, JsonSchema, ToolSchemas
from threadkeep.base import json

MAX_DETAIL: Final = 500
"""Characters of an error."""
ROLES: Final = frozenset({"user", "human", "assistant", "ai", "system", "developer", "tool", "function"})
"""Roles of messages that LangChain knows."""
BROKEN_SCHEMAS: Final = (SchemaError, Unresolvable, ValueError, TypeError, RecursionError)
"""The errors of a validator for an invalid schema that a graph's author wrote by hand."""


class ToolError(Exception):
    """A call that cannot be done. Its text is the result of the tool, for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolArguments:
    """The arguments of a call, as this server reads them."""

    input: Any
    thread_id: UUID | None = None
    """The thread to continue. None: a new one."""
    resume: Any = None
    """The answer to the thread's question. None: the call sends new input."""


async def read_arguments(schemas: ToolSchemas, arguments: Mapping[str, Any]) -> ToolArguments:
    """Read the arguments of a call. ToolError names the wrong argument."""
    rest = dict(arguments)
    thread_id = _thread_id(rest.pop(THREAD_ID, None)) if schemas.has_thread_argument else None
    resume = rest.pop(RESUME, None) if schemas.has_resume_argument else None
    # Null counts as no answer, because models fill every argument of a schema.
    if resume is not None:
        if thread_id is None:
            raise ToolError("resume answers a question of an earlier call: send the thread_id of its result too")
        return ToolArguments(input=None, thread_id=thread_id, resume=resume)
    messages = _messages(rest.pop(MESSAGES, None)) if schemas.takes_messages else None
    # Without a known schema every argument goes to the graph, which refuses it itself.
    if not schemas.takes_anything:
        _refuse_unknown(schemas, rest)
        await _check(schemas, rest)
    graph_input: Any = rest if schemas.takes_object else rest.get(INPUT)
    if messages is not None:
        graph_input = {**rest, MESSAGES: messages}
    return ToolArguments(input=graph_input, thread_id=thread_id)


def unknown_thread() -> ToolError:
    """The error for a thread that does not exist or that the caller may not use."""
    return ToolError("The thread_id does not exist. Omit thread_id to begin a new conversation.")


def _thread_id(text: object) -> UUID | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise unknown_thread()
    try:
        return UUID(text)
    except ValueError:
        raise unknown_thread() from None


def _messages(sent: object) -> list[dict[str, Any]]:
    """A text as the user's message, or a list of messages with role and content."""
    if isinstance(sent, str) and sent:
        return [{"role": "user", "content": sent}]
    if not isinstance(sent, list) or not sent:
        raise ToolError("messages: must be a string: the message to the agent")
    return [_message(index, each) for index, each in enumerate(cast("list[object]", sent))]


def _message(index: int, sent: object) -> dict[str, Any]:
    message = cast("dict[str, Any]", sent) if isinstance(sent, dict) else {}
    role = message.get("role", message.get("type"))
    if role not in ROLES:
        raise ToolError(f"messages[{index}].role: must be one of {', '.join(sorted(ROLES))}")
    if not isinstance(message.get("content"), (str, list)):
        raise ToolError(f"messages[{index}].content: must be a text")
    return {**message, "role": role}


def _refuse_unknown(schemas: ToolSchemas, rest: Mapping[str, Any]) -> None:
    schema = schemas.input_schema
    # A model that invents an argument must learn it. JSON Schema alone would ignore the argument.
    if schema.get("additionalProperties") or "patternProperties" in schema:
        return
    known = schema["properties"].keys()
    if unknown := next((name for name in rest if name not in known), None):
        raise ToolError(f"{unknown[:100]}: is not an argument. Use {', '.join(known)}")


async def _check(schemas: ToolSchemas, rest: Mapping[str, Any]) -> None:
    """ToolError if the arguments do not fit the schema."""
    # The schema says text, but `_messages` has accepted a list too. So it is not checked again.
    left_out = {MESSAGES} if schemas.takes_messages else set[str]()
    properties = {name: each for name, each in schemas.input_schema["properties"].items() if name not in left_out}
    required = [name for name in schemas.input_schema.get("required", ()) if name not in left_out]
    schema = {**schemas.input_schema, "properties": properties, "required": required}
    if (error := await first_error(schema, rest)) is not None:
        raise ToolError(error)


async def first_error(schema: JsonSchema, value: object) -> str | None:
    """The place and the reason of the most telling error of a value. None if it fits the schema."""
    if not json.seems_large(value):
        return _first_error(schema, value)
    return await to_thread.run_sync(_first_error, schema, value)


def _first_error(schema: JsonSchema, value: object) -> str | None:
    # `jsonschema` has no complete types.
    loose: Any = exceptions
    try:
        error: Any = loose.best_match(_validator(schema).iter_errors(value))
    # An author's mistake in the schema must not stop every call.
    except BROKEN_SCHEMAS:
        return None
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message}"[:MAX_DETAIL] if where else error.message[:MAX_DETAIL]


async def misfits(schema: JsonSchema, value: Mapping[str, Any]) -> set[str]:
    """The keys of an object whose values do not fit the schema."""
    if not json.seems_large(value):
        return _misfits(schema, value)
    return await to_thread.run_sync(_misfits, schema, value)


def _misfits(schema: JsonSchema, value: Mapping[str, Any]) -> set[str]:
    try:
        errors = list(_validator(schema).iter_errors(value))
    # Nothing can be shown to fit, and a client throws away a result of which one value does not.
    except BROKEN_SCHEMAS:
        return set(value)
    return {str(error.absolute_path[0]) for error in errors if error.absolute_path}


def _validator(schema: JsonSchema) -> Any:
    loose: Any = Draft202012Validator
    return loose(schema)
