"""App routes: the routes of a project's own application (`http.app`), for the OpenAPI document.

FastAPI applications provide a description of themselves. For a Starlette application, the description is made from
paths, methods and docstrings.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from threadkeep.api.ops.schema import Schema

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
PARAMETER: Final = re.compile(r"\{(\w+)(?::(\w+))?\}")
TYPES: Final[Mapping[str, Schema]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "uuid": {"type": "string", "format": "uuid"},
}
REF: Final = "#/components/schemas/"


def merged(document: Schema, custom: Starlette, reserved: Iterable[str]) -> Schema:
    """Return `document` with the application's operations. They replace the server's, except on `reserved` paths."""
    description = _description(custom)
    names = _free_names(description.get("components", {}).get("schemas", {}), document["components"]["schemas"])
    used_ids = {entry["operationId"] for path in document["paths"].values() for entry in path.values()}
    for path, operations in _renamed(description.get("paths", {}), names).items():
        if path not in reserved:
            # A path item of OpenAPI also has keys that are not methods, such as `parameters` and `summary`.
            entries = {method: entry for method, entry in operations.items() if method in METHODS}
            document["paths"][path] = document["paths"].get(path, {}) | _with_free_ids(entries, used_ids)
    for kind, components in description.get("components", {}).items():
        renamed = _renamed(components, names)
        if kind == "schemas":
            renamed = {names[name]: schema for name, schema in renamed.items()}
        # Only schemas are renamed. In the other kinds the component of the server wins, because its operations refer to
        # it.
        document["components"][kind] = {**renamed, **document["components"].get(kind, {})}
    tag_names = {tag["name"] for tag in document["tags"]}
    document["tags"] += [tag for tag in description.get("tags", []) if tag["name"] not in tag_names]
    return document


def _description(custom: Starlette) -> Schema:
    # FastAPI is not a dependency of the server, so its class cannot be imported for a check.
    describe = getattr(custom, "openapi", None)
    if callable(describe):
        return cast("Callable[[], Schema]", describe)()
    paths: dict[str, Schema] = {}
    for path, route in _routes(custom.routes):
        # OpenAPI does not know the converters of Starlette, such as `{id:int}`.
        plain = PARAMETER.sub(r"{\1}", path)
        paths.setdefault(plain, {}).update(_operations(path, route))
    return {"paths": paths}


def _routes(routes: Iterable[BaseRoute], above: str = "") -> Iterator[tuple[str, Route]]:
    for route in routes:
        if isinstance(route, Route) and route.include_in_schema:
            yield above + route.path, route
        elif isinstance(route, Mount):
            yield from _routes(route.routes, above + route.path)


def _operations(path: str, route: Route) -> Iterator[tuple[str, Schema]]:
    """Yield the operations of a route: one for each method of a function, or of a class (HTTPEndpoint)."""
    if inspect.isclass(route.endpoint):
        handlers = {name: getattr(route.endpoint, name) for name in METHODS if hasattr(route.endpoint, name)}
    else:
        methods = sorted(name.lower() for name in route.methods or ["GET"])
        # Starlette adds HEAD to every route with GET, although the project does not declare it.
        handlers = {name: route.endpoint for name in methods if name != "head"}
    for method, handler in handlers.items():
        name = route.name if len(handlers) == 1 else f"{route.name}_{method}"
        yield method, _operation(path, name, handler)


def _operation(path: str, name: str, handler: Any) -> Schema:
    summary, _, description = (inspect.getdoc(handler) or name).partition("\n")
    entry: Schema = {"operationId": re.sub(r"\W+", "_", name), "summary": summary.rstrip(".")}
    if description.strip():
        entry["description"] = description.strip()
    parameters = [
        {"name": parameter, "in": "path", "required": True, "schema": TYPES.get(kind, {"type": "string"})}
        for parameter, kind in PARAMETER.findall(path)
    ]
    if parameters:
        entry["parameters"] = parameters
    return entry | {"responses": {"200": {"description": HTTPStatus.OK.phrase}}}


def _with_free_ids(operations: Schema, used_ids: set[str]) -> Schema:
    for entry in operations.values():
        if "operationId" in entry:
            # OpenAPI requires unique ids, because generated clients name their functions by them.
            while entry["operationId"] in used_ids:
                entry["operationId"] += "_of_app"
            used_ids.add(entry["operationId"])
    return operations


def _free_names(names: Iterable[str], used: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{name}OfApp" if name in used else name for name in names}


def _renamed(part: Any, names: Mapping[str, str]) -> Any:
    """Return a copy of a part of a description, with schemas renamed by `names`."""
    if isinstance(part, list):
        return [_renamed(item, names) for item in cast("list[Any]", part)]
    if not isinstance(part, dict):
        return part
    copied = {key: _renamed(value, names) for key, value in cast("dict[str, Any]", part).items()}
    ref = copied.get("$ref")
    if isinstance(ref, str) and ref.startswith(REF):
        copied["$ref"] = REF + names.get(ref.removeprefix(REF), ref.removeprefix(REF))
    return copied
