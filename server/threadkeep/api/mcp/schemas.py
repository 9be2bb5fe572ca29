"""Schemas: the input and output schema of a tool, from those of its graph.

The root is always an object. A graph whose input or output is something else has it under `input` or `output`. A graph with
LangChain messages takes a text, because models write no message objects. `thread_id` and `resume` are added, unless the
graph has keys of these names.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from threadkeep.api.langgraph.graph_schemas import graph_schemas
from threadkeep.base import json
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.graphs import LoadedGraph, Tenant, is_local
from threadkeep.runs.assistants import ResolvedAssistant

log = logging.getLogger(__name__)

JsonSchema: TypeAlias = dict[str, Any]
MESSAGES: Final = "messages"
THREAD_ID: Final = "thread_id"
RESUME: Final = "resume"
INPUT: Final = "input"
OUTPUT: Final = "output"
MESSAGE_CLASSES: Final = frozenset({"AIMessage", "BaseMessage", "HumanMessage"})
"""Definitions that the schema of a list of LangChain messages refers to."""
DEFINITIONS: Final = "#/$defs/"
SCHEMA_TTL_S: Final = 300.0
MAX_SCHEMAS: Final = 1000

MESSAGES_SCHEMA: Final[JsonSchema] = {"type": "string", "description": "The message to the agent."}
THREAD_SCHEMA: Final[JsonSchema] = {
    "type": "string",
    "description": "The thread_id of an earlier result, to continue that conversation. Leave it out to begin a new one.",
}
RESUME_SCHEMA: Final[JsonSchema] = {
    "description": (
        "The answer to the question at which the thread of thread_id waits: the answer itself, or for several questions an "
        "object from the id of each question to its answer. The other arguments have no effect then."
    ),
}
RESULT_THREAD_SCHEMA: Final[JsonSchema] = {
    "type": "string",
    "description": "The conversation. Send it as thread_id to continue there.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchemas:
    """The schemas of a tool, and how its arguments and its result differ from the graph's input and output."""

    input_schema: JsonSchema
    output_schema: JsonSchema
    takes_messages: bool
    """`messages` are LangChain's messages. A text may replace them."""
    gives_messages: bool
    """The result is the text of the model's last message."""
    takes_object: bool
    """If not, the graph's input is the argument `input`."""
    takes_anything: bool
    """The graph's input is not known, because it runs elsewhere or could not be made."""
    has_thread_argument: bool
    """`thread_id` names the thread. If not, it is a key of the graph's own input."""
    has_resume_argument: bool
    """`resume` answers a question of the thread."""

    @property
    def is_chat(self) -> bool:
        return self.takes_messages and self.gives_messages


UNKNOWN: Final[Mapping[str, Any]] = {"input_schema": None, "output_schema": None}


@dataclass(slots=True)
class SchemaCache:
    """The schemas of tools. Making them takes some milliseconds, and calls a graph's factory."""

    _known: TtlCache[tuple[object, ...], ToolSchemas] = field(
        default_factory=lambda: TtlCache[tuple[object, ...], ToolSchemas](capacity=MAX_SCHEMAS, ttl_s=SCHEMA_TTL_S)
    )

    async def get(self, loaded: LoadedGraph, assistant: ResolvedAssistant, tenant: Tenant) -> ToolSchemas:
        """The schemas of an assistant's tool for a caller."""
        # A compiled graph is the same for all assistants and callers. A factory may build another one.
        key = (loaded.graph_id,) if loaded.is_static else _key(assistant, tenant)
        return self._known.get(key) or await self._known.get_or_read(key, partial(_make, loaded, assistant, tenant))


def _key(assistant: ResolvedAssistant, tenant: Tenant) -> tuple[UUID, bytes]:
    """A factory may make another graph for each configuration and each caller."""
    parts = [assistant.config, assistant.context, tenant.user]
    return assistant.assistant_id, hashlib.sha256(json.dumps(parts)).digest()


async def _make(loaded: LoadedGraph, assistant: ResolvedAssistant, tenant: Tenant) -> ToolSchemas:
    ids = {"assistant_id": str(assistant.assistant_id), "graph_id": assistant.graph_id}
    config: Any = {**assistant.config, "configurable": {**assistant.context, **ids}}
    try:
        async with loaded.open(config, durable=False, access="assistants.read", tenant=tenant) as graph:
            return tool_schemas(
                await graph_schemas(graph) if is_local(graph) else UNKNOWN, is_remote=not is_local(graph)
            )
    except Exception:  # the factory is the project's code
        log.exception("schema of a tool not known: its graph could not be built", extra=ids)
        return tool_schemas(UNKNOWN, is_remote=False)


def tool_schemas(schemas: Mapping[str, Any], *, is_remote: bool = False) -> ToolSchemas:
    """Return the schemas of a tool, made from those of a graph. A graph on another server counts as a chat."""
    graph_input, graph_output = schemas["input_schema"], schemas["output_schema"]
    tool_input, takes_object = _as_object(graph_input, INPUT)
    output, _ = _as_object(graph_output, OUTPUT)
    takes_messages = is_remote or _has_messages(tool_input)
    gives_messages = is_remote or _has_messages(output)
    own = tool_input["properties"].keys()
    if takes_messages:
        tool_input["properties"][MESSAGES] = MESSAGES_SCHEMA
    if THREAD_ID not in own:
        tool_input["properties"][THREAD_ID] = THREAD_SCHEMA
        # An answer needs a thread, so without the argument `thread_id` there is none for `resume`.
        tool_input["properties"].setdefault(RESUME, RESUME_SCHEMA)
    return ToolSchemas(
        input_schema=_without_unused_definitions(tool_input),
        output_schema=_output_schema(output, is_chat=takes_messages and gives_messages),
        takes_messages=takes_messages,
        gives_messages=gives_messages,
        takes_object=takes_object,
        takes_anything=graph_input is None,
        # Compared by identity: the graph may have a key of this name and even an equal schema.
        has_thread_argument=tool_input["properties"][THREAD_ID] is THREAD_SCHEMA,
        has_resume_argument=tool_input["properties"].get(RESUME) is RESUME_SCHEMA,
    )


def _as_object(schema: JsonSchema | None, name: str) -> tuple[JsonSchema, bool]:
    """The schema with an object as its root, and whether its root was one. Another type is put under `name`."""
    if schema is None:
        return {"type": "object", "properties": {}}, True
    definitions: JsonSchema = schema.get("$defs", {})
    root = schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(DEFINITIONS):
        # Pydantic puts a recursive model below `$defs`. MCP wants an object at the root.
        root = {**definitions.get(reference.removeprefix(DEFINITIONS), {}), "$defs": definitions}
    if root.get("type") == "object" or "properties" in root:
        keywords = {key: value for key, value in root.items() if key not in {"title", "type", "properties", "$defs"}}
        return {
            "type": "object",
            "properties": dict(root.get("properties") or {}),
            **keywords,
            **({"$defs": definitions} if definitions else {}),
        }, True
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    made: JsonSchema = {"type": "object", "properties": {name: inner}, "required": [name]}
    return {**made, **({"$defs": definitions} if definitions else {})}, False


def _has_messages(schema: JsonSchema) -> bool:
    """Whether `messages` is a list of LangChain messages."""
    described: object = schema["properties"].get(MESSAGES)
    return any(name in MESSAGE_CLASSES for name in _references(described))


def _output_schema(output: JsonSchema, *, is_chat: bool) -> JsonSchema:
    """The schema of the structured result. Only `thread_id` is required: a graph may leave a key of its output unwritten."""
    if is_chat:
        return {"type": "object", "properties": {THREAD_ID: RESULT_THREAD_SCHEMA}, "required": [THREAD_ID]}
    # Clients check the result against this schema and refuse all of it if a key is missing or new.
    relaxed = {key: value for key, value in output.items() if key not in {"required", "additionalProperties"}}
    own = output["properties"]
    if THREAD_ID in own:
        return _without_unused_definitions(relaxed)
    made = {**relaxed, "properties": {**own, THREAD_ID: RESULT_THREAD_SCHEMA}, "required": [THREAD_ID]}
    return _without_unused_definitions(made)


def _without_unused_definitions(schema: JsonSchema) -> JsonSchema:
    """The schema with only the definitions that it uses."""
    definitions: JsonSchema = schema.get("$defs", {})
    used: set[str] = set()
    waiting = set(_references({key: value for key, value in schema.items() if key != "$defs"}))
    while waiting:
        name = waiting.pop()
        used.add(name)
        waiting |= set(_references(definitions.get(name))) - used
    used_definitions = {name: definition for name, definition in definitions.items() if name in used}
    bare = {key: value for key, value in schema.items() if key != "$defs"}
    return {**bare, "$defs": used_definitions} if used_definitions else bare


def _references(schema: object) -> Iterator[str]:
    """The names of the definitions that a schema refers to, at any depth."""
    # A stack and not recursion, because a schema may be nested deeply.
    level = [schema]
    while level:
        part = level.pop()
        if isinstance(part, Mapping):
            named = cast("Mapping[str, object]", part)
            reference = named.get("$ref")
            if isinstance(reference, str) and reference.startswith(DEFINITIONS):
                yield reference.removeprefix(DEFINITIONS).partition("/")[0]
            level.extend(named.values())
        elif isinstance(part, list):
            level.extend(cast("list[object]", part))


NO_SCHEMAS: Final = tool_schemas(UNKNOWN)
"""Of a tool whose graph this process does not serve."""
