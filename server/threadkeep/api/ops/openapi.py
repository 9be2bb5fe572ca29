"""OpenAPI: the route table as an OpenAPI 3.1 document.

It is made from the table, the pydantic models of bodies and queries, the rows, and the docstrings.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias, cast

from threadkeep import __version__
from threadkeep.api import shapes
from threadkeep.api.operation import Operation
from threadkeep.api.ops.schema import Mode, Schema, referenced_components, schema_model, type_schemas
from threadkeep.api.paging import PageBody
from threadkeep.base.problems import (
    BodyTimeout,
    ContentTooLarge,
    Forbidden,
    IdempotencyKeyReused,
    NotFound,
    Problem,
    ServiceUnavailable,
    TooManyRequests,
    TransactionConflict,
    UnsupportedMediaType,
    ValidationFailed,
)

TAGS: Final[tuple[tuple[str, str, str], ...]] = (
    (r"/assistants.*", "Assistants", "Graphs with a configuration."),
    (
        r"/threads(?!/\{thread_id\}/runs).*",
        "Threads",
        "Conversations: their state, history and metadata.",
    ),
    (
        r"/threads/\{thread_id\}/runs(?!/crons).*",
        "Thread Runs",
        "Runs on a thread, which start from its state and change it.",
    ),
    (r"/runs(?!/crons).*|/query", "Stateless Runs", "Runs without a thread of your own."),
    (
        r"/a2a/.*|/\.well-known/agent-card\.json",
        "A2A",
        "Assistants as agents of A2A 1.0 and 0.3: their cards and methods.",
    ),
    (r"/mcp|/\.well-known/oauth-protected-resource.*", "MCP", "Assistants as tools of MCP."),
    (r"/ag-ui/.*", "AG-UI", "Runs of pages that speak AG-UI."),
    (r"/v1/.*", "OpenAI", "The OpenAI API: graphs as models, threads as conversations."),
    (r".*/runs/crons.*", "Crons", "Runs on a schedule."),
    (r"/store.*", "Store", "Items that graphs and clients keep across threads."),
    (r".*", "System", "Health, version and limits of the server."),
)
"""Patterns of paths with their tags. The first pattern that matches a path decides."""

UUID_SCHEMA: Final = {"type": "string", "format": "uuid"}
PATH_PARAMETERS: Final[Mapping[str, tuple[dict[str, str], str]]] = {
    "assistant_id": ({"type": "string"}, "The assistant's id, or the name of a graph: its own assistant."),
    "checkpoint_id": ({"type": "string"}, ""),
    "conversation_id": ({"type": "string"}, "`conv_` and the id of a thread, or the thread's UUID."),
    "cron_id": (UUID_SCHEMA, ""),
    "item_id": ({"type": "string"}, ""),
    "namespace": ({"type": "string"}, "The names of the nodes that lead to the subgraph, between `|`."),
    "model": ({"type": "string"}, "The name of a graph, or an assistant's id."),
    "response_id": ({"type": "string"}, ""),
    "key_id": (UUID_SCHEMA, ""),
    "run_id": (UUID_SCHEMA, ""),
    "thread_id": (UUID_SCHEMA, ""),
}
LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that you have. `-1` asks for all events.",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key has its effect only once within a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
TOTALS: Final = {
    "x-pagination-total": {"description": "The number of all matching rows.", "schema": {"type": "integer"}},
    "x-pagination-next": {
        "description": "The `offset` of the next page, if there is one.",
        "schema": {"type": "integer"},
    },
}

RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}
}
OPERATION_IDS: Final[Mapping[str, str]] = {
    "POST /runs": "create_stateless_run",
    "POST /runs/stream": "create_stateless_run_and_stream",
    "POST /runs/wait": "create_stateless_run_and_wait",
    "POST /runs/batch": "create_stateless_runs",
    "POST /runs/cancel": "cancel_runs",
    "GET /threads/{thread_id}/stream": "stream_thread",
    "POST /threads/{thread_id}/commands": "send_thread_command",
    "POST /threads/{thread_id}/stream/events": "stream_thread_events",
    "POST /threads/{thread_id}/runs": "create_run",
    "GET /threads/{thread_id}/runs": "list_runs",
    "POST /threads/{thread_id}/runs/stream": "create_run_and_stream",
    "POST /threads/{thread_id}/runs/wait": "create_run_and_wait",
    "GET /threads/{thread_id}/runs/{run_id}": "get_run",
    "DELETE /threads/{thread_id}/runs/{run_id}": "delete_run",
    "GET /threads/{thread_id}/runs/{run_id}/join": "join_run",
    "GET /threads/{thread_id}/runs/{run_id}/stream": "stream_run",
    "POST /threads/{thread_id}/runs/{run_id}/cancel": "cancel_run",
    "POST /threads": "create_thread",
    "POST /threads/search": "search_threads",
    "POST /threads/count": "count_threads",
    "POST /threads/prune": "prune_threads",
    "GET /threads/{thread_id}": "get_thread",
    "PATCH /threads/{thread_id}": "update_thread",
    "DELETE /threads/{thread_id}": "delete_thread",
    "POST /threads/{thread_id}/copy": "copy_thread",
    "GET /threads/{thread_id}/storage": "get_thread_storage",
    "GET /threads/{thread_id}/state": "get_thread_state",
    "POST /threads/{thread_id}/state": "update_thread_state",
    "POST /threads/{thread_id}/state/checkpoint": "find_thread_state",
    "GET /threads/{thread_id}/state/{checkpoint_id}": "get_thread_state_at_checkpoint",
    "GET /threads/{thread_id}/history": "list_thread_history",
    "POST /threads/{thread_id}/history": "search_thread_history",
    "GET /ok": "check_ok",
    "GET /livez": "check_liveness",
    "GET /readyz": "check_readiness",
    "GET /info": "get_info",
    "GET /metrics": "get_metrics",
    "GET /openapi.json": "get_openapi",
    "GET /docs": "get_docs",
    "POST /assistants": "create_assistant",
    "POST /assistants/search": "search_assistants",
    "POST /assistants/count": "count_assistants",
    "GET /assistants/{assistant_id}": "get_assistant",
    "PATCH /assistants/{assistant_id}": "update_assistant",
    "DELETE /assistants/{assistant_id}": "delete_assistant",
    "POST /assistants/{assistant_id}/versions": "list_assistant_versions",
    "POST /assistants/{assistant_id}/latest": "set_latest_assistant_version",
    "GET /assistants/{assistant_id}/graph": "get_assistant_graph",
    "GET /assistants/{assistant_id}/schemas": "get_assistant_schemas",
    "GET /assistants/{assistant_id}/subgraphs": "get_assistant_subgraphs",
    "GET /assistants/{assistant_id}/subgraphs/{namespace}": "get_assistant_subgraph",
    "POST /runs/crons": "create_cron",
    "POST /threads/{thread_id}/runs/crons": "create_thread_cron",
    "POST /runs/crons/search": "search_crons",
    "POST /runs/crons/count": "count_crons",
    "GET /runs/crons/{cron_id}": "get_cron",
    "PATCH /runs/crons/{cron_id}": "update_cron",
    "DELETE /runs/crons/{cron_id}": "delete_cron",
    "PUT /store/items": "put_item",
    "GET /store/items": "get_item",
    "DELETE /store/items": "delete_item",
    "POST /store/items/search": "search_items",
    "POST /store/namespaces": "list_namespaces",
    "POST /query": "query",
    "POST /a2a/{assistant_id}": "a2a_call_method",
    "GET /a2a/{assistant_id}/.well-known/agent-card.json": "a2a_get_agent_card",
    "GET /.well-known/agent-card.json": "a2a_get_well_known_agent_card",
    "POST /mcp": "mcp_call_method",
    "GET /.well-known/oauth-protected-resource": "mcp_get_resource_metadata",
    "GET /.well-known/oauth-protected-resource/mcp": "mcp_get_path_resource_metadata",
    "POST /ag-ui/{assistant_id}": "ag_ui_run",
    "POST /v1/chat/completions": "openai_create_chat_completion",
    "GET /v1/models": "openai_list_models",
    "GET /v1/models/{model}": "openai_get_model",
    "POST /v1/responses": "openai_create_response",
    "GET /v1/responses/{response_id}": "openai_get_response",
    "DELETE /v1/responses/{response_id}": "openai_delete_response",
    "POST /v1/responses/{response_id}/cancel": "openai_cancel_response",
    "GET /v1/responses/{response_id}/input_items": "openai_list_input_items",
    "POST /v1/conversations": "openai_create_conversation",
    "GET /v1/conversations/{conversation_id}": "openai_get_conversation",
    "POST /v1/conversations/{conversation_id}": "openai_update_conversation",
    "DELETE /v1/conversations/{conversation_id}": "openai_delete_conversation",
    "GET /v1/conversations/{conversation_id}/items": "openai_list_conversation_items",
    "POST /v1/conversations/{conversation_id}/items": "openai_add_conversation_items",
    "GET /v1/conversations/{conversation_id}/items/{item_id}": "openai_get_conversation_item",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": "openai_delete_conversation_item",
    "POST /runs/search": "search_runs",
    "GET /workers": "list_workers",
    "GET /events": "stream_changes",
    "GET /me": "get_me",
    "GET /api-keys": "list_api_keys",
    "DELETE /api-keys/{key_id}": "revoke_api_key",
}
"""How generated clients name their functions. An operation that is not here is named by its module and function."""

RUN_EXAMPLE: Final = {
    "assistant_id": "agent",
    "input": {"messages": [{"role": "user", "content": "What is 6 * 7?"}]},
    "stream_mode": ["values"],
}
EXAMPLES: Final[Mapping[str, Any]] = {
    "POST /query": {"query": "My name is Ada."},
    "POST /runs": RUN_EXAMPLE,
    "POST /runs/batch": [RUN_EXAMPLE],
    "POST /runs/crons": RUN_EXAMPLE | {"schedule": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
    "POST /runs/search": {"status": "error", "created_after": "2026-01-01T00:00:00Z", "limit": 10},
    "POST /runs/stream": RUN_EXAMPLE,
    "POST /runs/wait": RUN_EXAMPLE,
    "POST /assistants": {"graph_id": "agent", "name": "support", "context": {}},
    "POST /assistants/search": {"graph_id": "agent", "limit": 10},
    "POST /threads": {"metadata": {"topic": "sums"}},
    "POST /threads/search": {"metadata": {"topic": "sums"}, "status": "idle", "limit": 10},
    "POST /threads/{thread_id}/runs": RUN_EXAMPLE,
    "POST /threads/{thread_id}/runs/crons": RUN_EXAMPLE | {"schedule": "@daily"},
    "POST /threads/{thread_id}/runs/stream": RUN_EXAMPLE,
    "POST /threads/{thread_id}/runs/wait": RUN_EXAMPLE,
    "POST /threads/{thread_id}/state": {"values": {"messages": []}, "as_node": "agent"},
    "PUT /store/items": {"namespace": ["notes"], "key": "first", "value": {"text": "hello"}},
    "DELETE /store/items": {"namespace": ["notes"], "key": "first"},
    "POST /store/items/search": {"namespace_prefix": ["notes"], "limit": 10},
}
"""Operation -> example of a valid body."""
STREAM_EXAMPLE: Final = (
    'event: metadata\ndata: {"run_id": "…", "attempt": 1}\n\nevent: values\ndata: {"messages": []}\n\n'
)

Key: TypeAlias = tuple[str, str, str]
"""Method, path, and use of a type: `body`, `query`, or a status."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The schemas of all types in the route table."""

    schemas: Mapping[Key, Schema]
    components: Schema


def document(table: Iterable[Operation], prefix: str = "") -> Schema:
    """Return the OpenAPI document of the operations in `table`, which are served below `prefix`."""
    documented = [operation for operation in table if operation.path != "/"]  # `/` is the same as `/ok`
    parts = _parts(documented)
    paths: dict[str, dict[str, Schema]] = {}
    for operation in documented:
        used_ids = {entry["operationId"] for of_path in paths.values() for entry in of_path.values()}
        entry = _operation(operation, parts)
        if entry["operationId"] in used_ids:
            entry["operationId"] += "_" + re.sub(r"\W+", "_", operation.path.rsplit("/", 1)[1]).strip("_")
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "Threadkeep", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": name, "description": description} for _, name, description in TAGS],
        "paths": paths,
        "components": {"schemas": referenced_components(parts.components, paths)},
    }


def _operation(operation: Operation, parts: _Parts) -> Schema:
    endpoint = cast("Any", operation.endpoint)
    summary, _, description = _docstring(operation).partition("\n")
    entry: Schema = {
        "operationId": OPERATION_IDS.get(
            operation.name, f"{endpoint.__module__.rsplit('.', 1)[1]}_{endpoint.__name__}"
        ),
        "tags": [_tag(operation.path)],
        "summary": summary.rstrip("."),
    }
    if description.strip():
        entry["description"] = description.strip()
    if parameters := [*_path_parameters(operation), *_query_parameters(operation, parts), *_headers(operation)]:
        entry["parameters"] = parameters
    if body := parts.schemas.get((operation.method, operation.path, "body")):
        content: Schema = {"schema": body}
        if operation.name in EXAMPLES:
            content["example"] = EXAMPLES[operation.name]
        entry["requestBody"] = {"required": True, "content": {"application/json": content}}
    entry["responses"] = dict(sorted(_responses(operation, parts)))
    return entry


def _docstring(operation: Operation) -> str:
    """Return the endpoint's docstring without the method and path at its start."""
    text = inspect.getdoc(operation.endpoint) or ""
    description = re.sub(r"^[A-Z]+ /\S*?[.:](\s|$)", "", text)
    return description[:1].upper() + description[1:]


def _tag(path: str) -> str:
    return next(name for pattern, name, _ in TAGS if re.fullmatch(pattern, path))


def _path_parameters(operation: Operation) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        schema, description = PATH_PARAMETERS[name]
        parameter: Schema = {"name": name, "in": "path", "required": True, "schema": schema}
        yield parameter | ({"description": description} if description else {})


def _query_parameters(operation: Operation, parts: _Parts) -> Iterator[Schema]:
    query = parts.schemas.get((operation.method, operation.path, "query"))
    if query is None:
        return
    model: Schema = parts.components[query["$ref"].rsplit("/", 1)[1]] if "$ref" in query else query
    for name, described in model["properties"].items():
        plain: Schema = {key: value for key, value in described.items() if key not in {"description", "x-default"}}
        if "x-default" in described:  # harmless in a query: a client that sends the default changes nothing
            plain["default"] = described["x-default"]
        schema = _without_null(plain)
        parameter: Schema = {
            "name": name,
            "in": "query",
            "required": name in model.get("required", ()),
            "schema": schema,
        }
        yield parameter | ({"description": described["description"]} if "description" in described else {})


def _without_null(schema: Schema) -> Schema:
    """Return the schema without null, because a query parameter is either present or absent."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return rest | (options[0] if len(options) == 1 else {"anyOf": options})


def _headers(operation: Operation) -> Iterator[Schema]:
    if operation.method == "GET" and operation.response.media_type == "text/event-stream":
        yield LAST_EVENT_ID
    if IdempotencyKeyReused in operation.response.problems:
        yield IDEMPOTENCY_KEY


def _responses(operation: Operation, parts: _Parts) -> Iterator[tuple[str, Schema]]:
    answer = operation.response
    for status in (answer.status, *answer.other_responses):
        response: Schema = {"description": HTTPStatus(status).phrase}
        schema = parts.schemas.get((operation.method, operation.path, str(status)), {"type": "string"})
        # A status without a shape has no body, for example 204.
        media = answer.media_type if status == answer.status else answer.other_responses[status] and "application/json"
        if media:
            response["content"] = {media: _stream(schema) if media == "text/event-stream" else {"schema": schema}}
        # The body may be None, or an alias such as `RunBatch`, which is not a class.
        if PageBody in getattr(operation.body, "__mro__", ()):
            response["headers"] = TOTALS
        yield str(status), response
    if answer.has_own_errors:
        return
    by_status: dict[int, list[str]] = {}
    later: set[int] = set()
    for kind in _refusals(operation):
        by_status.setdefault(kind.status, []).append(inspect.getdoc(kind) or "")
        # Only these problems are sent with the header.
        if "retry_after_s" in inspect.signature(kind).parameters:
            later.add(kind.status)
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status, texts in by_status.items():
        # OpenAPI has one entry for each status, and here the other shape describes it.
        if status not in answer.other_responses:
            refusal: Schema = {"description": " ".join(texts), "content": problem}
            yield str(status), refusal | ({"headers": RETRY_AFTER} if status in later else {})


def _stream(event: Schema) -> Schema:
    """Return the schema of a stream: a string, because generated clients would read one event's schema as the whole body.

    `x-event-schema` is the schema of each event. OpenAPI 3.2 calls it `itemSchema`.
    """
    return {"schema": {"type": "string", "format": "event-stream"}, "example": STREAM_EXAMPLE, "x-event-schema": event}


def _refusals(operation: Operation) -> Iterator[type[Problem]]:
    """Yield each kind of problem that an operation may answer once."""
    kinds: dict[type[Problem], None] = {}
    if operation.event != "public":
        kinds |= dict.fromkeys((Forbidden, TooManyRequests, ServiceUnavailable))
    if "{" in operation.path:
        kinds |= dict.fromkeys((ValidationFailed, NotFound))
    if operation.query or operation.documented_body:
        kinds[ValidationFailed] = None
    if operation.documented_body:
        kinds |= dict.fromkeys((BodyTimeout, ContentTooLarge))
    # `JsonWrites` refuses writes with another content type on all routes of the server, even without a body.
    if operation.method != "GET":
        kinds[UnsupportedMediaType] = None
        if operation.event != "public":
            kinds[TransactionConflict] = None
    yield from kinds | dict.fromkeys(operation.response.problems)


def _parts(table: Iterable[Operation]) -> _Parts:
    types: dict[Key, tuple[Any, Mode]] = {("", "", "problem"): (shapes.Problem, "serialization")}
    for operation in table:
        for key, kind in _types(operation):
            types[key] = kind, "validation" if key[2] in {"body", "query"} else "serialization"
    return _Parts(*type_schemas(types))


def _types(operation: Operation) -> Iterator[tuple[Key, Any]]:
    """Yield the types that an operation uses, with their keys."""
    answer, body = operation.response, operation.documented_body
    if body:
        yield (operation.method, operation.path, "body"), body
    if operation.query:
        yield (operation.method, operation.path, "query"), operation.query
    selects = any("select" in getattr(kind, "model_fields", ()) for kind in (body, operation.query))
    for status, shape in {answer.status: answer.schema, **answer.other_responses}.items():
        if shape is not None:
            yield (operation.method, operation.path, str(status)), schema_model(shape, selects=selects)
