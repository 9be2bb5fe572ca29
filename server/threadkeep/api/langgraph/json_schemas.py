"""JSON schemas of Python types, including types that pydantic cannot describe.

Pydantic describes a type completely or not at all. This module takes a refused type apart. The fields that have a JSON
schema keep it, and the schema of the other fields allows any value.
"""

import dataclasses
import logging
import types
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Annotated, Any, Final, NotRequired, Required, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import ReadOnly, is_typeddict

log = logging.getLogger(__name__)

JsonSchema = dict[str, Any]

ANYTHING: Final[JsonSchema] = {}
MAX_DEPTH: Final = 8
"""The depth to which the parts of a refused type are read, because a type may contain itself."""
MARKS: Final = (Annotated, Required, NotRequired, ReadOnly)
"""Wrappers of a field's type that do not change its values."""
UNIONS: Final = (Union, types.UnionType)


class LenientJsonSchema(GenerateJsonSchema):
    """Allows any value for a type without a JSON schema."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchema:
        """Return the schema of any value."""
        del schema, error_info
        return {}


def first(*ways: Callable[[], JsonSchema | None]) -> JsonSchema | None:
    """Return the first schema that one of `ways` makes, or None.

    A way that raises makes none. Types are the graph author's code, so a way may raise any exception.
    """
    for way in ways:
        try:
            # pydantic warns of a default without a JSON form.
            with warnings.catch_warnings(action="ignore", category=PydanticJsonSchemaWarning):
                described = way()
        except Exception:
            log.debug("a type has no JSON schema of its own", exc_info=True)
            continue
        if described is not None:
            return described
    return None


def of_fields(title: str, fields: Mapping[str, Any], required: Sequence[str] = (), *, at: str = "#") -> JsonSchema:
    """Return the schema of an object with these fields. `at` is its place in the document, as a JSON pointer."""
    return _of_fields(title, {name: (annotation, name in required) for name, annotation in fields.items()}, at, 0)


def of_type(annotation: Any, *, at: str = "#", depth: int = 0) -> JsonSchema:
    """Return the schema of a type. The parts without a schema allow any value."""
    described = first(
        lambda: _by_its_library(annotation, at, depth),
        lambda: _by_pydantic(annotation, at),
        lambda: _by_parts(annotation, at, depth),
    )
    return ANYTHING if described is None else described


def _by_its_library(annotation: Any, at: str, depth: int) -> JsonSchema | None:
    """Return the schema of a class of attrs or a model of pydantic 1. pydantic 2 would allow any value for them."""
    if not isinstance(annotation, type) or depth == MAX_DEPTH:
        return None
    declared = cast("type[Any]", annotation)
    if issubclass(declared, BaseModelV1):
        return declared.schema(ref_template=f"{at}/definitions/{{model}}")
    attributes = declared.__dict__.get("__attrs_attrs__")
    if attributes is None:
        return None
    hints = _hints(declared)
    fields = {
        each.name: (hints.get(each.name, Any), repr(each.default) == "NOTHING") for each in attributes if each.init
    }
    return _of_fields(declared.__name__, fields, at, depth)


def _by_pydantic(annotation: Any, at: str) -> JsonSchema:
    """Return pydantic's schema, from a model with one field of the type. Plain dataclasses inherit its configuration."""
    configured = ConfigDict(arbitrary_types_allowed=True)
    model = create_model("Described", __config__=configured, value=(annotation, Field(default=None)))
    document = model.model_json_schema(schema_generator=LenientJsonSchema, ref_template=f"{at}/$defs/{{model}}")
    described: JsonSchema = document["properties"]["value"]
    described.pop("default", None)
    # pydantic has made this title from the name of the field above.
    if described.get("title") == "Value":
        del described["title"]
    definitions: dict[str, JsonSchema] = document.get("$defs", {})
    reference = str(described.get("$ref", "")).removeprefix(f"{at}/$defs/")
    if reference in definitions:
        described = {**definitions[reference], **{key: value for key, value in described.items() if key != "$ref"}}
    return described | ({"$defs": definitions} if definitions else {})


def _by_parts(annotation: Any, at: str, depth: int) -> JsonSchema | None:
    """Return the schema of a type that pydantic refuses, part by part. Return None if it has no parts."""
    if depth == MAX_DEPTH:
        return None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in MARKS:
        return of_type(arguments[0], at=at, depth=depth)
    if origin in UNIONS:
        options = [of_type(member, at=f"{at}/anyOf/{index}", depth=depth + 1) for index, member in enumerate(arguments)]
        return {"anyOf": options}
    if isinstance(origin, type):
        return _of_collection(cast("type[object]", origin), arguments, at, depth)
    fields = _fields(annotation)
    return None if fields is None else _of_fields(annotation.__name__, fields, at, depth)


def _of_collection(kind: type[object], arguments: tuple[Any, ...], at: str, depth: int) -> JsonSchema | None:
    if issubclass(kind, Mapping):
        values = of_type(arguments[-1], at=f"{at}/additionalProperties", depth=depth + 1)
        return {"type": "object", "additionalProperties": values or True}
    if not issubclass(kind, (Sequence, Set)):
        return None
    described: JsonSchema = {"type": "array"}
    # A tuple has a type for each place, unless its second one is an ellipsis.
    if kind is not tuple or arguments[1:] == (...,):
        described["items"] = of_type(arguments[0], at=f"{at}/items", depth=depth + 1)
    return described | ({"uniqueItems": True} if issubclass(kind, Set) else {})


def _fields(annotation: Any) -> dict[str, tuple[Any, bool]] | None:
    """Return each field's type and whether it is required, by name. Return None if the type has no fields."""
    if is_typeddict(annotation):
        return {name: (hint, name in annotation.__required_keys__) for name, hint in _hints(annotation).items()}
    if not isinstance(annotation, type):
        return None
    declared = cast("Any", annotation)
    if issubclass(declared, BaseModel):
        return {field.alias or name: (field.annotation, field.is_required()) for name, field in _of_model(declared)}
    # A dataclass has its annotations as texts if its module postpones them.
    hints = _hints(declared)
    if dataclasses.is_dataclass(declared):
        return {
            field.name: (hints.get(field.name, Any), _has_no_default(field))
            for field in dataclasses.fields(declared)
            if field.init
        }
    names: tuple[str, ...] | None = getattr(declared, "_fields", None)  # of a NamedTuple
    return None if names is None else {name: (hints.get(name, Any), True) for name in names}


def _of_model(declared: type[BaseModel]) -> Sequence[tuple[str, Any]]:
    return list(declared.model_fields.items())


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _hints(annotation: Any) -> Mapping[str, Any]:
    """Return the types of a class's fields. If one names an object missing at runtime, each is resolved separately."""
    try:
        return typing.get_type_hints(annotation, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation is code of the graph's author
        return {name: _hint(annotation, name) for name in getattr(annotation, "__annotations__", {})}


def _hint(annotation: Any, name: str) -> Any:
    alone = type(annotation.__name__, (), {"__annotations__": {name: annotation.__annotations__[name]}})
    # Names in the annotation are resolved in this module.
    alone.__module__ = annotation.__module__
    try:
        return typing.get_type_hints(alone, include_extras=True)[name]
    except Exception:  # noqa: BLE001 - as above
        return Any


def _of_fields(title: str, fields: Mapping[str, tuple[Any, bool]], at: str, depth: int) -> JsonSchema:
    properties: dict[str, JsonSchema] = {}
    for name, (annotation, _) in fields.items():
        described = of_type(annotation, at=f"{at}/properties/{_pointed(name)}", depth=depth + 1)
        properties[name] = {"title": title_of(name), **described}
    required = [name for name, (_, is_required) in fields.items() if is_required]
    return {"title": title, "type": "object", "properties": properties} | ({"required": required} if required else {})


def _pointed(name: str) -> str:
    """Escape a key as part of a JSON pointer (RFC 6901) in a fragment."""
    return name.replace("~", "~0").replace("/", "~1").replace("%", "%25").replace(" ", "%20")


def title_of(name: str) -> str:
    """Return a field's title as pydantic makes it from the name."""
    return name.replace("_", " ").strip().title()
