"""JSON schemas of types for the OpenAPI document, with the docstrings below attributes as descriptions."""

import ast
import functools
import inspect
import re
import sys
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema

from threadkeep.base.json import RawJson

Schema: TypeAlias = dict[str, Any]


Mode: TypeAlias = Literal["validation", "serialization"]
"""The schema of input (`validation`) or of output (`serialization`)."""
KeyT = TypeVar("KeyT", bound=Hashable)


class SchemaGenerator(GenerateJsonSchema):
    """Generates JSON schemas with the docstrings below attributes, and without titles derived from names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False, because a title such as `Thread Id` adds nothing to `thread_id`."""
        del schema
        return False

    def default_schema(self, schema: Any) -> Schema:
        """Return the schema of a field with a default, as `x-default`.

        Client generators treat `default` as a value that is always present, and send it even if the user did not set it.
        A default of null is left out, because it only means that the field is optional.
        """
        described = super().default_schema(schema)
        value = described.pop("default", None)
        return described if value is None else described | {"x-default": value}

    def model_schema(self, schema: Any) -> Schema:
        """Return the schema of a pydantic model."""
        return _described(super().model_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: Any) -> Schema:
        """Return the schema of a TypedDict."""
        return _described(super().typed_dict_schema(schema), schema["cls"])


def type_schemas(types: Mapping[KeyT, tuple[Any, Mode]]) -> tuple[dict[KeyT, Schema], Schema]:
    """Return the schema of each type by its key, and the components that they refer to by name."""
    adapters: list[tuple[KeyT, Mode, TypeAdapter[Any]]] = [
        (key, mode, TypeAdapter(kind)) for key, (kind, mode) in types.items()
    ]
    # In one call, because pydantic then gives different names to two types that have the same name.
    schemas, definitions = TypeAdapter.json_schemas(
        adapters, ref_template="#/components/schemas/{model}", schema_generator=SchemaGenerator
    )
    components: Schema = definitions.get("$defs", {})
    names = {name: _plain_name(name) for name in components}
    renamed = {names[name]: _titled(_renamed(schema, names), names[name]) for name, schema in components.items()}
    return {key: _renamed(schema, names) for (key, _), schema in schemas.items()}, renamed


def schema_model(shape: Any, *, selects: bool) -> Any:
    """Return `shape` as a type that pydantic can describe. A row becomes a model. `selects` makes all fields optional."""
    if get_origin(shape) is list:
        return list[schema_model(get_args(shape)[0], selects=selects)]
    return _row_model(shape, selects) if is_dataclass(shape) else shape


@functools.cache
def _row_model(row: Any, selects: bool) -> type[BaseModel]:
    hints = get_type_hints(row)
    definitions: dict[str, Any] = {}
    for column in fields(row):
        required = not selects and column.default is MISSING
        default = Field(... if required else None, description=_attribute_docs(row).get(column.name))
        definitions[column.name] = (_json_type(column.name, hints[column.name]), default)
    return create_model(f"Selected{row.__name__}" if selects else row.__name__, **definitions)


def _json_type(name: str, hint: Any) -> Any:
    """Return the type of a JSON column: an object, but any value for a thread's `values`, whose type the graph defines."""
    if name == "values":
        return Any
    if hint is RawJson:
        return dict[str, Any]
    return dict[str, Any] | None if RawJson in get_args(hint) else hint


def _described(schema: Schema, kind: type) -> Schema:
    """Return the JSON schema of `kind` with the docstrings below its attributes."""
    # An inherited field has its docstring in the base class. The nearest class wins.
    for base in kind.__mro__:
        for name, text in _attribute_docs(base).items():
            if name in schema.get("properties", {}):
                schema["properties"][name].setdefault("description", text)
    return schema


def _attribute_docs(kind: type) -> Mapping[str, str]:
    """Return the docstrings below the attributes of a class of this project."""
    return _docs_of_module(kind.__module__).get(kind.__qualname__, {})


@functools.cache
def _docs_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Return class -> attribute -> docstring. They are read from the source, because Python does not keep them."""
    if not name.startswith("threadkeep."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {node.name: dict(_docs_of_class(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs_of_class(tree: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                # Readers of the document see JSON.
                yield name, re.sub(r"\bNone\b", "null", inspect.cleandoc(text))
            case _:
                pass


def referenced_components(components: Schema, mentioning: object) -> Schema:
    """Return the components that are referred to, directly or indirectly. Models of queries are not, being parameters."""
    referenced: Schema = {}
    open_ends = _refs(mentioning)
    while open_ends:
        referenced |= {name: components[name] for name in open_ends}
        # A type may refer to itself.
        open_ends = _refs([referenced[name] for name in open_ends]) - referenced.keys()
    return dict(sorted(referenced.items()))


def _refs(schema: object) -> set[str]:
    if isinstance(schema, list):
        return {name for item in cast("list[object]", schema) for name in _refs(item)}
    if not isinstance(schema, dict):
        return set()
    fields = cast("dict[str, object]", schema)
    names = {ref.rsplit("/", 1)[1]} if isinstance(ref := fields.get("$ref"), str) else set[str]()
    return names.union(*(_refs(value) for value in fields.values()))


def _plain_name(name: str) -> str:
    """Return `CronsSearchBody` for `threadkeep__api__crons__SearchBody`, because several modules have a `SearchBody`."""
    *modules, plain = name.split("__")
    return modules[-1].split("_")[0].capitalize() + plain if modules else name


def _titled(schema: Schema, name: str) -> Schema:
    """Return a schema with the component's name as title. Generated code names classes by title and drops duplicates."""
    return schema | {"title": name} if "title" in schema else schema


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """Return `schema` with components renamed by `names`."""
    if isinstance(schema, list):
        return [_renamed(item, names) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    members = cast("dict[str, Any]", schema)
    if isinstance(ref := members.get("$ref"), str):
        head, _, name = ref.rpartition("/")
        members = members | {"$ref": f"{head}/{names[name]}"}
    return {key: _renamed(value, names) for key, value in members.items()}
