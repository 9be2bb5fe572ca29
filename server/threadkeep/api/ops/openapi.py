"""OpenAPI: the table of routes as an OpenAPI 3.1 document.

All of it follows from the table, the pydantic models of bodies and queries, the rows, and the docstrings.
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
from threadkeep.api.ops.schema import Mode, Schema, mentioned, model, of_types
from threadkeep.api.paging import PageBody
from threadkeep.base.problems import (
    BodyTimeout,
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    Problem,
    TooLarge,
    TooMany,
    Unavailable,
    UnsupportedMedia,
)

TAGS: Final[tuple[tuple[str, str, str], ...]] = (
    (r"/assistants.*", "Assistants", "Graphs with a configuration."),
    (
        r"/threads(?!/\{thread_id\}/runs).*",
        "Threads",
        "Conversations: what they hold, held before, and are to hold.",
    ),
    (
        r"/threads/\{thread_id\}/runs(?!/crons).*",
        "Thread Runs",
        "Runs on a thread, from the state that it holds to the one that they leave.",
    ),
    (r"/runs(?!/crons).*|/query", "Stateless Runs", "Runs that bring no thread along."),
    (r".*/runs/crons.*", "Crons", "Runs on a schedule."),
    (r"/store.*", "Store", "What graphs and clients remember beside threads."),
    (r".*", "System", "Whether the server is alive and ready, and what it is."),
)
"""A pattern of paths, and the tag of those that no earlier pattern fits."""

UUID_SCHEMA: Final = {"type": "string", "format": "uuid"}
PATH_PARAMETERS: Final[Mapping[str, tuple[dict[str, str], str]]] = {
    "assistant_id": ({"type": "string"}, "The assistant's id, or the name of a graph: its own assistant."),
    "checkpoint_id": ({"type": "string"}, ""),
    "cron_id": (UUID_SCHEMA, ""),
    "namespace": ({"type": "string"}, "The names of the nodes that lead to the subgraph, between `|`."),
    "run_id": (UUID_SCHEMA, ""),
    "thread_id": (UUID_SCHEMA, ""),
}
LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that the client has; `-1` asks for all.",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key makes nothing more, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
TOTALS: Final = {
    "x-pagination-total": {"description": "Of all that match.", "schema": {"type": "integer"}},
    "x-pagination-next": {"description": "The next `offset`, where there is more.", "schema": {"type": "integer"}},
}

Key: TypeAlias = tuple[str, str, str]
"""Method, path and role of a type: `body`, `query`, or a status."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The schemas of every type that the table names."""

    schemas: Mapping[Key, Schema]
    components: Schema


def document(table: Iterable[Operation], prefix: str = "") -> Schema:
    """The OpenAPI document of the operations of `table`, which are served below `prefix`."""
    shown = [operation for operation in table if operation.path != "/"]  # `/ok` by another name
    parts = _parts(shown)
    paths: dict[str, dict[str, Schema]] = {}
    for operation in shown:
        taken = {one["operationId"] for of_path in paths.values() for one in of_path.values()}
        entry = _operation(operation, parts)
        if entry["operationId"] in taken:
            entry["operationId"] += "_" + re.sub(r"\W+", "_", operation.path.rsplit("/", 1)[1]).strip("_")
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "Threadkeep", "version": __version__},
        "servers": [{"url": prefix or "/"}],
        "tags": [{"name": name, "description": description} for _, name, description in TAGS],
        "paths": paths,
        "components": {"schemas": mentioned(parts.components, paths)},
    }


def _operation(operation: Operation, parts: _Parts) -> Schema:
    endpoint = cast("Any", operation.endpoint)
    summary, _, more = _docstring(operation).partition("\n")
    entry: Schema = {
        "operationId": f"{endpoint.__module__.rsplit('.', 1)[1]}_{endpoint.__name__}",
        "tags": [_tag(operation.path)],
        "summary": summary.rstrip("."),
    }
    if more.strip():
        entry["description"] = more.strip()
    if parameters := [*_path_parameters(operation), *_query_parameters(operation, parts), *_headers(operation)]:
        entry["parameters"] = parameters
    if body := parts.schemas.get((operation.method, operation.path, "body")):
        entry["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    entry["responses"] = dict(sorted(_responses(operation, parts)))
    return entry


def _docstring(operation: Operation) -> str:
    """What the endpoint's docstring says behind the method and the path."""
    text = inspect.getdoc(operation.endpoint) or ""
    said = re.sub(r"^[A-Z]+ /\S*?[.:](\s|$)", "", text)
    return said[:1].upper() + said[1:]


def _tag(path: str) -> str:
    return next(name for pattern, name, _ in TAGS if re.fullmatch(pattern, path))


def _path_parameters(operation: Operation) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        schema, description = PATH_PARAMETERS[name]
        parameter: Schema = {"name": name, "in": "path", "required": True, "schema": schema}
        yield parameter | ({"description": description} if description else {})


def _query_parameters(operation: Operation, parts: _Parts) -> Iterator[Schema]:
    found = parts.schemas.get((operation.method, operation.path, "query"))
    if found is None:
        return
    model: Schema = parts.components[found["$ref"].rsplit("/", 1)[1]] if "$ref" in found else found
    for name, described in model["properties"].items():
        schema = _without_null({key: value for key, value in described.items() if key != "description"})
        parameter: Schema = {
            "name": name,
            "in": "query",
            "required": name in model.get("required", ()),
            "schema": schema,
        }
        yield parameter | ({"description": described["description"]} if "description" in described else {})


def _without_null(schema: Schema) -> Schema:
    """A query has no null: a parameter is there or not."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if not options:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return rest | (options[0] if len(options) == 1 else {"anyOf": options})


def _headers(operation: Operation) -> Iterator[Schema]:
    if operation.method == "GET" and operation.answer.media == "text/event-stream":
        yield LAST_EVENT_ID
    if KeyReused in operation.answer.refusals:
        yield IDEMPOTENCY_KEY


def _responses(operation: Operation, parts: _Parts) -> Iterator[tuple[str, Schema]]:
    answer = operation.answer
    for status in (answer.status, *answer.others):
        response: Schema = {"description": HTTPStatus(status).phrase}
        schema = parts.schemas.get((operation.method, operation.path, str(status)), {"type": "string"})
        media = answer.media if status == answer.status else answer.others[status] and "application/json"
        if media:
            response["content"] = {media: {"schema": schema}}
        if PageBody in getattr(operation.body, "__mro__", ()):
            response["headers"] = TOTALS
        yield str(status), response
    by_status: dict[int, list[str]] = {}
    for kind in _refusals(operation):
        by_status.setdefault(kind.status, []).append(inspect.getdoc(kind) or "")
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status, texts in by_status.items():
        if status not in answer.others:
            yield str(status), {"description": " ".join(texts), "content": problem}


def _refusals(operation: Operation) -> Iterator[type[Problem]]:
    """Each kind of problem once."""
    found: dict[type[Problem], None] = {}
    if operation.event != "public":
        found |= dict.fromkeys((Forbidden, TooMany, Unavailable))
    if "{" in operation.path:
        found |= dict.fromkeys((Invalid, NotFound))
    if operation.query or operation.shown_body:
        found[Invalid] = None
    if operation.shown_body:
        found |= dict.fromkeys((BodyTimeout, TooLarge))
    if operation.method != "GET":
        found[UnsupportedMedia] = None
    yield from found | dict.fromkeys(operation.answer.refusals)


def _parts(table: Iterable[Operation]) -> _Parts:
    wanted: dict[Key, tuple[Any, Mode]] = {("", "", "problem"): (shapes.Problem, "serialization")}
    for operation in table:
        for key, kind in _types(operation):
            wanted[key] = kind, "validation" if key[2] in {"body", "query"} else "serialization"
    return _Parts(*of_types(wanted))


def _types(operation: Operation) -> Iterator[tuple[Key, Any]]:
    """The types that an operation names, by what they are to it."""
    answer, body = operation.answer, operation.shown_body
    if body:
        yield (operation.method, operation.path, "body"), body
    if operation.query:
        yield (operation.method, operation.path, "query"), operation.query
    selects = any("select" in getattr(kind, "model_fields", ()) for kind in (body, operation.query))
    for status, shape in {answer.status: answer.shape, **answer.others}.items():
        if shape is not None:
            yield (operation.method, operation.path, str(status)), model(shape, selects=selects)
