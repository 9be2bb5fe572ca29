"""Context schemas: what a graph or a factory takes of a client's context, whatever its author declared.

A schema needs no JSON schema to be used. The rule is the constructor's: a client's keys reach it if it accepts them.
"""

import dataclasses
import inspect
import logging
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, cast, get_args, get_origin

import typing_extensions
from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.dataclasses import is_pydantic_dataclass
from typing_extensions import is_typeddict

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

log = logging.getLogger(__name__)

NO_EXTRA_ITEMS: Final = getattr(typing_extensions, "NoExtraItems", None)
"""How a TypedDict says that it declares all its keys (PEP 728)."""


def context_of(schema: Any, sent: Mapping[str, Any], *, is_asked_for: bool) -> Any:
    """The context to call a graph with: the keys of `sent` that `schema` accepts.

    If the client names no field of a model or dataclass, and no context at all (`is_asked_for`), the context holds the
    defaults. It is None, as in a plain `ainvoke`, if a field has no default.
    """
    accepted = accepted_keys(schema, sent)
    if is_asked_for or not is_constructed(schema) or not declared_names(schema).isdisjoint(sent):
        return accepted
    try:
        return schema(**accepted)
    except Exception as refusal:  # noqa: BLE001 - a constructor is the author's code, and nobody asked for a context
        log.debug("a graph's context has no defaults", extra={"error_type": type(refusal).__name__})
        return None


def accepted_keys(schema: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `schema` takes of `given`: all of it, unless it declares its names and refuses others."""
    if accepts_any_key(schema):
        return dict(given)
    names = declared_names(schema)
    return {key: value for key, value in given.items() if key in names}


def is_constructed(schema: Any) -> bool:
    """Whether LangGraph makes an object of the class out of the keys; of other schemas nodes get the keys themselves."""
    if not isinstance(schema, type):
        return False
    declared = cast("type[object]", schema)
    return issubclass(declared, BaseModel) or dataclasses.is_dataclass(declared)


def accepts_any_key(schema: Any) -> bool:
    """Whether a key that the schema does not declare reaches it without an error."""
    if is_pydantic(schema):
        return _pydantic_config(schema).get("extra") != "forbid"  # the model itself drops what it ignores
    if dataclasses.is_dataclass(schema):
        return any(each.kind is each.VAR_KEYWORD for each in _parameters(schema).values())
    return not is_typeddict(schema) or getattr(schema, "__extra_items__", NO_EXTRA_ITEMS) is not NO_EXTRA_ITEMS


def is_pydantic(schema: Any) -> bool:
    """Whether pydantic validates what the schema is made of."""
    if not isinstance(schema, type):
        return False
    declared = cast("type[object]", schema)
    return issubclass(declared, BaseModel) or is_pydantic_dataclass(declared)


def declared_names(schema: Any) -> frozenset[str]:
    """The keys that fill a field of the schema: names, and the aliases that pydantic looks for."""
    if is_pydantic(schema):
        fields: Mapping[str, FieldInfo] = getattr(schema, "model_fields", None) or schema.__pydantic_fields__
        aliases = (alias for field in fields.values() for alias in (field.alias, field.validation_alias))
        return frozenset(fields).union(*map(_first_words, aliases))
    if dataclasses.is_dataclass(schema):
        return frozenset(_parameters(schema))
    if is_typeddict(schema):
        return cast("frozenset[str]", schema.__required_keys__ | schema.__optional_keys__)
    return frozenset()


def runtime_class(schema: Any) -> Any:
    """The class that stands for a schema at runtime: LangGraph fails a run whose schema is an alias (`dict[str, Any]`,
    `Ctx[int]`, `Ctx | None`). None if there is no one class: nodes then get the keys themselves."""
    if schema is None or isinstance(schema, type):
        return schema
    origin, arguments = get_origin(schema), get_args(schema)
    if origin in (Union, types.UnionType):
        classes = [each for each in arguments if each is not types.NoneType]
        return runtime_class(classes[0]) if len(classes) == 1 else None
    if origin is Annotated:
        return runtime_class(arguments[0])
    return origin if isinstance(origin, type) else None


def _pydantic_config(schema: Any) -> Mapping[str, Any]:
    return getattr(schema, "model_config", None) or getattr(schema, "__pydantic_config__", None) or {}


def _parameters(schema: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(schema).parameters


def _first_words(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    """The keys of the input that an alias looks for."""
    if isinstance(alias, AliasChoices):
        return {word for choice in alias.choices for word in _first_words(choice)}
    if isinstance(alias, AliasPath):
        return {str(alias.path[0])}
    return set() if alias is None else {alias}
