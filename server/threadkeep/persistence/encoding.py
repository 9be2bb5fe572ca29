"""Encoding: encodes each kind of value of a graph's state, so that decoding returns an equal value.

The format is LangGraph's own, so LangGraph's saver can read it: a msgpack extension for each way to construct a value. It
reads `[module, name, payload]`. Further parts are for our own decoder (decoding.py).
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_PYDANTIC_V2,
    _msgpack_default,  # pyright: ignore[reportPrivateUsage] - the encoder of unknown values has no public name
    _option,  # pyright: ignore[reportPrivateUsage]
)
from langgraph.checkpoint.serde.types import SendProtocol, _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]
from langgraph.store.base import Item
from pydantic import BaseModel
from pydantic.networks import _BaseMultiHostUrl, _BaseUrl  # pyright: ignore[reportPrivateUsage] - all kinds of URLs
from pydantic_core import MultiHostUrl, Url

from threadkeep.base import json
from threadkeep.persistence import dataframes, messages
from threadkeep.persistence.project_types import attrs_names

# Passed to `encoded`, because msgpack would store subclasses as their base, and tuples as lists.
ANY_KEYS: Final = (
    _option | ormsgpack.OPT_PASSTHROUGH_SUBCLASS | ormsgpack.OPT_PASSTHROUGH_BIG_INT | ormsgpack.OPT_PASSTHROUGH_TUPLE
)
TEXT_KEYS: Final = ANY_KEYS & ~ormsgpack.OPT_NON_STR_KEYS
"""Refuses other keys, because msgpack would silently turn them into strings."""
NATIVE_KEYS: Final = frozenset({str, int, float, bool, bytes, type(None)})
MAX_INTEGER_BITS: Final = 400_000
"""The most bits of an integer, about 120,000 digits. Postgres accepts at most 131,072 digits in a JSON number."""
FACTORIES: Final[Mapping[object, str]] = {
    None: "",
    **{kind: kind.__name__ for kind in (bool, bytes, dict, float, int, list, set, str, tuple)},
}
"""The allowed factories of a defaultdict, and their encoding."""
URLS: Final = (_BaseUrl, _BaseMultiHostUrl, Url, MultiHostUrl)

ENDLESS: Final = "a value that contains itself, or is nested too deeply, can't be stored"

Place = tuple[str, str]


class NotKept(TypeError):
    """A value can't be encoded without a change."""


def pack(value: object) -> bytes:
    """Encode a value as msgpack. NotKept, with the innermost reason, if it or a part of it can't be encoded."""
    refusals: list[str] = []

    def encoded_or_refused(part: object) -> ormsgpack.Ext:
        try:
            return encoded(part)
        except (TypeError, ValueError, AttributeError, RecursionError) as refusal:
            refusals.append(ENDLESS if isinstance(refusal, RecursionError) else str(refusal))
            raise  # msgpack hides the reason

    try:
        return ormsgpack.packb(value, default=encoded_or_refused, option=TEXT_KEYS)
    except TypeError:
        if refusals:
            raise NotKept(refusals[0]) from None
    try:  # a key is not a string
        return ormsgpack.packb(_with_native_keys(value), default=encoded_or_refused, option=ANY_KEYS)
    except (TypeError, RecursionError):
        raise NotKept(refusals[0] if refusals else ENDLESS) from None


def encoded(value: object) -> ormsgpack.Ext:
    """Encode a value that msgpack does not know as an extension."""
    kind = type(value)
    if kind in messages.KINDS:
        return _message(cast("Any", value))
    if (encode := EXACT.get(kind)) is not None:
        return encode(cast("Any", value))
    if (parts := dataframes.parts_of(value)) is not None:
        return ormsgpack.Ext(parts.code, pack(parts.written))
    for kinds, encode in BY_CLASS:
        if isinstance(value, kinds):
            return encode(cast("Any", value))
    # `is_dataclass` is also true for the class itself.
    if dataclasses.is_dataclass(value) and kind is not type:
        return _with_attributes(value, [field.name for field in dataclasses.fields(value)])
    names = attrs_names(kind)
    return _as_langgraph(value) if names is None else _with_attributes(value, names)


def place_of(value: Any) -> Place:
    """The module and name of the class of a value."""
    return name_of(type(value))


def name_of(kind: Any) -> Place:
    """The module and qualified name of a class. A class that a function created has only its bare name."""
    return kind.__module__, kind.__name__ if "<locals>" in kind.__qualname__ else kind.__qualname__


def _constructed(code: int, place: Place, payload: object, *further: object) -> ormsgpack.Ext:
    return ormsgpack.Ext(code, pack([*place, payload, *further]))


def _single(value: Any, payload: object, *further: object) -> ormsgpack.Ext:
    return _constructed(EXT_CONSTRUCTOR_SINGLE_ARG, place_of(value), payload, *further)


def _as_langgraph(value: object) -> ormsgpack.Ext:
    """Encode as LangGraph does: dates, paths, decimals, addresses, ids, patterns. NotKept for other types."""
    try:
        return cast("ormsgpack.Ext", _msgpack_default(value))
    except TypeError:
        kind = type(value)
        raise NotKept(f"an object of type {kind.__module__}.{kind.__qualname__} can't be stored") from None


def _message(message: Any) -> ormsgpack.Ext:
    """Encode one of LangChain's four message types, without pydantic if its fields are plain."""
    if not message.__pydantic_extra__:
        try:
            written = (*messages.KINDS[type(message)], message.__dict__, "model_validate_json")
            return ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(written, option=_option))
        except TypeError:  # a field has a value that is not plain
            pass
    return _known_model(message)


def _known_model(model: BaseModel) -> ormsgpack.Ext:
    """Encode a model that LangGraph's serializer can decode, in the same format. Models inside it stay models."""
    return _with_fields(model, place_of(model))


def _with_fields(model: BaseModel, place: Place, *details: object) -> ormsgpack.Ext:
    """Encode its fields unchanged, because `model_dump` would turn models inside it into dictionaries."""
    try:
        # LangGraph's format names a method after the fields. Its decoder ignores further parts.
        return _constructed(EXT_PYDANTIC_V2, place, _fields(model), "model_validate_json", *details)
    except NotKept:  # a field's own serializer may have another form
        return _constructed(EXT_PYDANTIC_V2, place, model.model_dump(), "model_validate_json")


def _model(model: BaseModel) -> ormsgpack.Ext:
    """Encode a model of the project or of a library, with details that a constructor does not accept."""
    place = place_of(model)
    if place in SAFE_MSGPACK_TYPES:
        return _known_model(model)
    generic = type(model).__pydantic_generic_metadata__
    if generic["origin"] is not None:
        place = name_of(generic["origin"])
    private, is_whole = _private(model)
    details = {
        "set": sorted(model.model_fields_set),
        "extra": list(model.__pydantic_extra__ or ()),
        "private": private,
        "whole": is_whole,
        "arguments": [list(name_of(argument)) for argument in generic["args"] if isinstance(argument, type)],
    }
    return _with_fields(model, place, details)


def _fields(model: BaseModel) -> dict[str, Any]:
    fields = type(model).model_fields
    included = {name: model.__dict__[name] for name in fields if name in model.__dict__ and not fields[name].exclude}
    return {**included, **(model.__pydantic_extra__ or {})}


def _private(model: BaseModel) -> tuple[dict[str, Any], bool]:
    """The private attributes that can be encoded, and whether these are all. A lock or a client can't be encoded."""
    attributes = model.__pydantic_private__ or {}
    packed = {name: _packed(value) for name, value in attributes.items()}
    return {name: value for name, value in packed.items() if value is not None}, None not in packed.values()


def _packed(value: object) -> ormsgpack.Fragment | None:
    """A packed value to put into another one. None if it can't be encoded."""
    try:
        return ormsgpack.Fragment(pack(value))
    except NotKept:
        return None


def _enum(member: Enum) -> ormsgpack.Ext:
    # The value may have no encoding. Our decoder then finds the member by its name.
    return _single(member, _packed(member.value), member.name)


def _with_attributes(value: Any, names: Iterable[str]) -> ormsgpack.Ext:
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return _constructed(EXT_CONSTRUCTOR_KW_ARGS, place_of(value), fields)


def _tuple(value: tuple[object, ...]) -> ormsgpack.Ext:
    names = cast("tuple[str, ...] | None", getattr(value, "_fields", None))
    if names is None:
        return _single(value, list(value))
    return _constructed(EXT_CONSTRUCTOR_KW_ARGS, place_of(value), dict(zip(names, value, strict=True)))


def _datetime(value: datetime) -> ormsgpack.Ext:
    """Encode a datetime as LangGraph does, with the name of its zone, which is more than its offset."""
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    further = (zone, value.fold) if zone is not None or value.fold else ()
    return ormsgpack.Ext(EXT_METHOD_SINGLE_ARG, pack([*place_of(value), value.isoformat(), "fromisoformat", *further]))


def _dict(value: Mapping[Any, Any]) -> ormsgpack.Ext:
    return _single(value, dict(value))


def _default_dict(value: "defaultdict[Any, Any]") -> ormsgpack.Ext:
    factory = FACTORIES.get(cast("Any", value.default_factory))
    if factory is None:
        raise NotKept("a defaultdict with a function as its factory can't be stored")
    return _single(value, dict(value), factory)


def _integer(value: int) -> ormsgpack.Ext:
    if value.bit_length() > MAX_INTEGER_BITS:
        raise NotKept(f"an integer of {value.bit_length():,} bits can't be stored: at most {MAX_INTEGER_BITS:,}")
    return _single(value, json.digits(value))


def _send(value: Any) -> ormsgpack.Ext:
    arguments = [value.node, value.arg]
    if getattr(value, "timeout", None) is not None:
        arguments.append(value.timeout)
    return _constructed(EXT_CONSTRUCTOR_POS_ARGS, place_of(value), arguments)


def _positional(*attributes: str) -> Callable[[Any], ormsgpack.Ext]:
    def encode(value: Any) -> ormsgpack.Ext:
        arguments = [getattr(value, attribute) for attribute in attributes]
        return _constructed(EXT_CONSTRUCTOR_POS_ARGS, place_of(value), arguments)

    return encode


def _item(item: Item) -> ormsgpack.Ext:
    return _constructed(EXT_CONSTRUCTOR_KW_ARGS, place_of(item), {name: getattr(item, name) for name in Item.__slots__})


EXACT: Final[Mapping[type[Any], Callable[[Any], ormsgpack.Ext]]] = {
    tuple: _tuple,
    int: _integer,
    range: _positional("start", "stop", "step"),
    slice: _positional("start", "stop", "step"),
    complex: _positional("real", "imag"),
    Fraction: _positional("numerator", "denominator"),
    datetime: _datetime,
    PurePosixPath: lambda value: _single(value, str(value)),
    PureWindowsPath: lambda value: _single(value, str(value)),
    defaultdict: _default_dict,
    **dict.fromkeys((Decimal, date, time, timedelta), _as_langgraph),
    _DeltaSnapshot: lambda snapshot: ormsgpack.Ext(EXT_DELTA_SNAPSHOT, pack(snapshot.value)),
}
"""Encoders of exact types. Subclasses have other encoders."""
BY_CLASS: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[Any], ormsgpack.Ext]], ...]] = (
    (BaseModel, _model),
    (Enum, _enum),
    (tuple, _tuple),
    ((set, frozenset, deque), lambda value: _single(value, list(value))),
    (SendProtocol, _send),
    (Item, _item),
    (URLS, lambda value: _single(value, str(value))),
    (defaultdict, _default_dict),
    (dict, _dict),
    (list, lambda value: _single(value, list(value))),
    # A subclass may have a `__str__` of its own.
    (str, lambda value: _single(value, str.__str__(value))),
    (bytes, lambda value: _single(value, bytes(value))),
    (int, lambda value: _single(value, int(value))),
    (float, lambda value: _single(value, float(value))),
    (Decimal, lambda value: _single(value, Decimal(value))),
    (Fraction, lambda value: _single(value, Fraction(value))),
    (datetime, lambda value: _single(value, datetime.combine(value, value.timetz()))),
    (date, lambda value: _single(value, date.fromordinal(value.toordinal()))),
    (timedelta, lambda value: _single(value, value + timedelta())),
)
"""Encoders by base class. The first match is used. Dataclasses have no common base class."""


def _with_native_keys(value: Any) -> Any:
    """Replace dictionaries with other keys by lists of pairs, because msgpack can't encode or would change the keys."""
    if type(value) is list:
        return [_with_native_keys(part) for part in cast("list[Any]", value)]
    if type(value) is tuple:
        return tuple(_with_native_keys(part) for part in cast("tuple[Any, ...]", value))
    if type(value) is not dict:
        return value
    entries = {_utf8(key): _with_native_keys(part) for key, part in cast("dict[Any, Any]", value).items()}
    if all(_is_native(key) for key in entries):
        return entries
    return _constructed(
        EXT_CONSTRUCTOR_POS_ARGS, ("builtins", "dict"), [[[key, part] for key, part in entries.items()]]
    )


def _utf8(key: object) -> object:
    """Replace lone surrogates in a key, because UTF-8 can't encode them. msgpack does so in values only."""
    return key.encode(errors="replace").decode() if type(key) is str else key


def _is_native(key: object) -> bool:
    return type(key) in NATIVE_KEYS and not (type(key) is int and key.bit_length() > 63)
