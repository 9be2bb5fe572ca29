"""Context schemas: select the keys of a client's context that a graph or a factory accepts.

The schema may be any type, with or without a JSON schema. A client's key is passed on if the type's constructor accepts
it.
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
"""The marker of a TypedDict that declares all its keys (PEP 728)."""


def context_of(schema: Any, context: Mapping[str, Any], *, is_asked_for: bool) -> Any:
    """Return the context to call a graph with: the keys of `context` that `schema` accepts.

    If the client sent no context (`is_asked_for` is False) and no key is a field of the model or dataclass, return its
    defaults. Return None, as in a plain `ainvoke`, if a field has no default.
    """
    accepted = accepted_keys(schema, context)
    if is_asked_for or not is_constructed(schema) or not declared_names(schema).isdisjoint(context):
        return accepted
    try:
        return schema(**accepted)
    except Exception as refusal:  # noqa: BLE001 - a constructor is the author's code, and the client sent no context
        log.debug("context of a graph has no defaults", extra={"error_type": type(refusal).__name__})
        return None


def accepted_keys(schema: Any, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `context` that `schema` accepts: all, unless it declares its names and refuses others."""
    if accepts_any_key(schema):
        return dict(context)
    names = declared_names(schema)
    return {key: value for key, value in context.items() if key in names}


def is_constructed(schema: Any) -> bool:
    """Whether LangGraph creates an object of the class from the keys. For other schemas nodes get the keys as a dict."""
    if not isinstance(schema, type):
        return False
    declared = cast("type[object]", schema)
    return issubclass(declared, BaseModel) or dataclasses.is_dataclass(declared)


def accepts_any_key(schema: Any) -> bool:
    """Whether the schema accepts undeclared keys without an error."""
    if is_pydantic(schema):
        return _pydantic_config(schema).get("extra") != "forbid"  # the model itself drops ignored keys
    if dataclasses.is_dataclass(schema):
        # A dataclass with its own `__init__` may take any key.
        return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(schema).values())
    return not is_typeddict(schema) or getattr(schema, "__extra_items__", NO_EXTRA_ITEMS) is not NO_EXTRA_ITEMS


def is_pydantic(schema: Any) -> bool:
    """Whether pydantic validates the schema's fields."""
    if not isinstance(schema, type):
        return False
    declared = cast("type[object]", schema)
    return issubclass(declared, BaseModel) or is_pydantic_dataclass(declared)


def declared_names(schema: Any) -> frozenset[str]:
    """Return the keys that set a field of the schema: names, and the aliases that pydantic reads."""
    if is_pydantic(schema):
        # A pydantic dataclass has its fields under another name than a model.
        fields: Mapping[str, FieldInfo] = getattr(schema, "model_fields", None) or schema.__pydantic_fields__
        aliases = (alias for field in fields.values() for alias in (field.alias, field.validation_alias))
        return frozenset(fields).union(*map(_first_words, aliases))
    if dataclasses.is_dataclass(schema):
        return frozenset(_parameters(schema))
    if is_typeddict(schema):
        return cast("frozenset[str]", schema.__required_keys__ | schema.__optional_keys__)
    return frozenset()


def runtime_class(schema: Any) -> Any:
    """Return the runtime class of a schema, because LangGraph fails a run whose schema is an alias.

    Aliases are `dict[str, Any]`, `Ctx[int]` or `Ctx | None`. Return None if there is no single class. Nodes then get the
    keys as a dict.
    """
    if schema is None or isinstance(schema, type):
        return schema
    origin, arguments = get_origin(schema), get_args(schema)
    if origin in (Union, types.UnionType):
        # `Ctx | None` is a common way to say that the context may be left out.
        classes = [member for member in arguments if member is not types.NoneType]
        return runtime_class(classes[0]) if len(classes) == 1 else None
    if origin is Annotated:
        return runtime_class(arguments[0])
    return origin if isinstance(origin, type) else None


def _pydantic_config(schema: Any) -> Mapping[str, Any]:
    return getattr(schema, "model_config", None) or getattr(schema, "__pydantic_config__", None) or {}


def _parameters(schema: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(schema).parameters


def _first_words(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    """Return the keys of the input that an alias reads."""
    if isinstance(alias, AliasChoices):
        return {word for choice in alias.choices for word in _first_words(choice)}
    if isinstance(alias, AliasPath):
        return {str(alias.path[0])}
    return set() if alias is None else {alias}
