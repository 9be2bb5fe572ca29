"""Schema: types as JSON schemas for the spec, with the docstrings that stand under their attributes."""

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
"""As what is read, or as what is sent."""
KeyT = TypeVar("KeyT", bound=Hashable)


class SchemaGenerator(GenerateJsonSchema):
    """JSON schemas with the docstrings under attributes, and without titles made up from names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never: `Thread Id` says no more than `thread_id`."""
        del schema
        return False

    def default_schema(self, schema: Any) -> Schema:
        """Of a field with a default, which is told as `x-default`.

        Generators of clients take `default` for a value that is always there, and send it though nobody set it. Null says
        no more than that the field need not be there.
        """
        described = super().default_schema(schema)
        value = described.pop("default", None)
        return described if value is None else described | {"x-default": value}

    def model_schema(self, schema: Any) -> Schema:
        """Of a pydantic model."""
        return _described(super().model_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: Any) -> Schema:
        """Of a TypedDict."""
        return _described(super().typed_dict_schema(schema), schema["cls"])


def type_schemas(types: Mapping[KeyT, tuple[Any, Mode]]) -> tuple[dict[KeyT, Schema], Schema]:
    """The schema of each type, by its key, and the components that these refer to, by name."""
    wanted: list[tuple[KeyT, Mode, TypeAdapter[Any]]] = [
        (key, mode, TypeAdapter(kind)) for key, (kind, mode) in types.items()
    ]
    made, rest = TypeAdapter.json_schemas(
        wanted, ref_template="#/components/schemas/{model}", schema_generator=SchemaGenerator
    )
    components: Schema = rest.get("$defs", {})
    names = {name: _plain_name(name) for name in components}
    renamed = {names[name]: _titled(_renamed(schema, names), names[name]) for name, schema in components.items()}
    return {key: _renamed(schema, names) for (key, _), schema in made.items()}, renamed


def schema_model(shape: Any, *, selects: bool) -> Any:
    """`shape` as pydantic can describe it: a row becomes a model; with `selects`, one of which no field need be there."""
    if get_origin(shape) is list:
        return list[schema_model(get_args(shape)[0], selects=selects)]
    return _row_model(shape, selects) if is_dataclass(shape) else shape


@functools.cache
def _row_model(row: Any, selects: bool) -> type[BaseModel]:
    hints = get_type_hints(row)
    named: dict[str, Any] = {}
    for one in fields(row):
        required = not selects and one.default is MISSING
        text = _attribute_docs(row).get(one.name)
        named[one.name] = (_json_type(one.name, hints[one.name]), Field(... if required else None, description=text))
    return create_model(f"Selected{row.__name__}" if selects else row.__name__, **named)


def _json_type(name: str, hint: Any) -> Any:
    """What a column of JSON holds: an object, but for the state of a thread, which is what its graph says."""
    if name == "values":
        return Any
    if hint is RawJson:
        return dict[str, Any]
    return dict[str, Any] | None if RawJson in get_args(hint) else hint


def _described(schema: Schema, kind: type) -> Schema:
    """The JSON schema of `kind`, with the docstrings under its attributes."""
    for base in kind.__mro__:
        for name, text in _attribute_docs(base).items():
            if name in schema.get("properties", {}):
                schema["properties"][name].setdefault("description", text)
    return schema


def _attribute_docs(kind: type) -> Mapping[str, str]:
    """The docstrings under the attributes of a class of ours."""
    return _docs_of_module(kind.__module__).get(kind.__qualname__, {})


@functools.cache
def _docs_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    """Class -> attribute -> docstring, in JSON's words; read from the source, for Python forgets them."""
    if not name.startswith("threadkeep."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {node.name: dict(_docs_of_class(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs_of_class(tree: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, re.sub(r"\bNone\b", "null", inspect.cleandoc(text))
            case _:
                pass


def referenced_components(components: Schema, mentioning: object) -> Schema:
    """Those of `components` that are referred to, directly or by others: the queries have become parameters."""
    found: Schema = {}
    open_ends = _refs(mentioning)
    while open_ends:
        found |= {name: components[name] for name in open_ends}
        open_ends = _refs([found[name] for name in open_ends]) - found.keys()
    return dict(sorted(found.items()))


def _refs(schema: object) -> set[str]:
    if isinstance(schema, list):
        return {name for one in cast("list[object]", schema) for name in _refs(one)}
    if not isinstance(schema, dict):
        return set()
    found = cast("dict[str, object]", schema)
    own = {ref.rsplit("/", 1)[1]} if isinstance(ref := found.get("$ref"), str) else set[str]()
    return own.union(*(_refs(value) for value in found.values()))


def _plain_name(name: str) -> str:
    """`CronsSearchBody` for `threadkeep__api__crons__SearchBody`: several modules have one of that name."""
    *modules, plain = name.split("__")
    return modules[-1].split("_")[0].capitalize() + plain if modules else name


def _titled(schema: Schema, name: str) -> Schema:
    """With the component's own name as its title: generated code names classes by titles, and drops what comes twice."""
    return schema | {"title": name} if "title" in schema else schema


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """`schema` with the names of components that `names` gives."""
    if isinstance(schema, list):
        return [_renamed(one, names) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = cast("dict[str, Any]", schema)
    if isinstance(ref := found.get("$ref"), str):
        head, _, name = ref.rpartition("/")
        found = found | {"$ref": f"{head}/{names[name]}"}
    return {key: _renamed(value, names) for key, value in found.items()}
