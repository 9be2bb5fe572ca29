"""Decoding: creates the values of a checkpoint again, if their types are allowed.

Anybody with write access to the database can name any callable. So only these are called: LangGraph's own list, the types
of a graph's state, the types that the operator lists, the plain types below, and classes that the project defines. Any
other value is returned as its payload.
"""

import dataclasses
import importlib
import logging
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from fractions import Fraction
from functools import reduce
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import ormsgpack
import pydantic_core
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_DELTA_SNAPSHOT,
    EXT_NUMPY_ARRAY,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]
from langgraph.types import Send
from pydantic import BaseModel, RootModel, ValidationError, networks

from threadkeep.base import json
from threadkeep.persistence import dataframes, messages
from threadkeep.persistence.encoding import FACTORIES, URLS
from threadkeep.persistence.project_types import PLAIN, ProjectTypes, attrs_names, is_value_class

log = logging.getLogger(__name__)

OPTION: Final = ormsgpack.OPT_NON_STR_KEYS
CODES: Final = frozenset(
    {EXT_CONSTRUCTOR_SINGLE_ARG, EXT_CONSTRUCTOR_POS_ARGS, EXT_CONSTRUCTOR_KW_ARGS, EXT_PYDANTIC_V1, EXT_PYDANTIC_V2}
)
"""Extensions that hold `[module, name, payload]`."""
MUTABLE: Final[frozenset[Any]] = frozenset({bytearray, list, dict, set, deque})
MANY: Final = 1000

LANGCHAIN_TYPES: Final = frozenset(
    {
        *(("langchain_core.agents", name) for name in ("AgentAction", "AgentActionMessageLog", "AgentFinish")),
        *(("langchain_core.prompt_values", name) for name in ("ChatPromptValue", "StringPromptValue")),
        ("langchain_core.outputs.generation", "Generation"),
        ("langchain_core.outputs.generation", "GenerationChunk"),
        ("langchain_core.outputs.chat_generation", "ChatGeneration"),
        ("langchain_core.outputs.chat_generation", "ChatGenerationChunk"),
        ("langchain_core.outputs.chat_result", "ChatResult"),
        ("langchain_core.outputs.llm_result", "LLMResult"),
    }
)
"""Results of models and agents, which LangGraph's own list misses. They hold values alone."""

Place = tuple[str, str]
Listed = set[tuple[str, ...]] | bool | None


def _default_dict(payload: Any, further: Sequence[Any]) -> Any:
    factories = {name: kind for kind, name in FACTORIES.items()}
    return defaultdict(cast("Any", factories[further[0]]), payload)


def _secret(name: str) -> Callable[[Any, Sequence[Any]], Any]:
    return lambda payload, _: getattr(importlib.import_module("pydantic"), name)(payload)


PLAIN_TYPES: Final[Mapping[Place, Callable[[Any, Sequence[Any]], Any]]] = {
    ("builtins", "int"): lambda payload, _: json.integer(payload),
    ("builtins", "tuple"): lambda payload, _: tuple(payload),
    ("builtins", "range"): lambda payload, _: range(*payload),
    ("builtins", "slice"): lambda payload, _: slice(*payload),
    ("builtins", "complex"): lambda payload, _: complex(*payload),
    ("builtins", "dict"): lambda payload, _: {key: part for key, part in payload[0]},  # noqa: C416 - only from pairs
    ("collections", "OrderedDict"): lambda payload, _: OrderedDict(payload),
    ("collections", "Counter"): lambda payload, _: cast("Any", Counter)(payload),
    ("collections", "defaultdict"): _default_dict,
    ("fractions", "Fraction"): lambda payload, _: Fraction(*payload),
    ("pathlib", "PurePosixPath"): lambda payload, _: PurePosixPath(payload),
    ("pathlib", "PureWindowsPath"): lambda payload, _: PureWindowsPath(payload),
    ("pydantic.types", "SecretStr"): _secret("SecretStr"),
    ("pydantic.types", "SecretBytes"): _secret("SecretBytes"),
    ("pydantic.types", "ByteSize"): _secret("ByteSize"),
}
"""Constructors from the payload and further parts. None of them calls code that a row can choose."""


class Decoder:
    """Decodes values. `listed` has the allowed names in addition to LangGraph's own list. True allows every name."""

    def __init__(self, listed: Listed, types: ProjectTypes) -> None:
        self._all = listed is True
        self._listed = frozenset(listed) if isinstance(listed, set) else frozenset[Place]()
        self._types = types
        self._refused: set[Place] = set()
        """Types that were already logged."""

    def unpack(self, written: bytes) -> Any:
        """Decode a packed value."""
        return ormsgpack.unpackb(written, ext_hook=self._value, option=OPTION)

    def _value(self, code: int, data: bytes) -> Any:
        # First, because most values of a long thread are messages.
        if code == EXT_PYDANTIC_V2 and (message := _message(data)) is not None:
            return message
        if code in CODES:
            return self._constructed(code, data)
        if code == EXT_DELTA_SNAPSHOT:
            return _DeltaSnapshot(self.unpack(data))
        if code == EXT_NUMPY_ARRAY:
            return _attempted(lambda: dataframes.array(self.unpack(data)), None)
        return self._method(data)

    def _constructed(self, code: int, data: bytes) -> Any:
        written = self.unpack(data)
        try:
            module, name, payload, *further = written
        except (TypeError, ValueError):
            return None
        if not (isinstance(module, str) and isinstance(name, str)):
            return payload
        return _attempted(lambda: self._made(code, (module, name), payload, further), payload)

    def _made(self, code: int, place: Place, payload: Any, further: Sequence[Any]) -> Any:
        # From the safest to the most general. Only the last step calls a class that a row names.
        if (plain := PLAIN_TYPES.get(place)) is not None:
            return plain(payload, further)
        if (url := _url(place)) is not None:
            return url(payload, further)
        if dataframes.is_known(*place):
            return dataframes.revived(*place, payload, further)
        if (kind := self._types.find(*place)) is not None:
            return self._of_value_class(kind, payload, further)
        if not self._is_listed(place):
            self._refuse(place)
            return payload
        target: Any = reduce(getattr, place[1].split("."), importlib.import_module(place[0]))
        if place not in SAFE_MSGPACK_TYPES and isinstance(target, type) and is_value_class(cast("type[Any]", target)):
            return self._of_value_class(target, payload, further)
        return _called(code, target, payload)

    def _is_listed(self, place: Place) -> bool:
        return self._all or place in self._listed or place in SAFE_MSGPACK_TYPES or place in LANGCHAIN_TYPES

    def _refuse(self, place: Place) -> None:
        # Once for each type. Rows may invent any number of names, so the set is limited.
        if place not in self._refused and len(self._refused) < MANY:
            self._refused.add(place)
            log.warning(
                "a checkpoint names a type that is not allowed: its plain value is read instead",
                extra={"type": ".".join(place)[:200]},
            )

    def _of_value_class(self, kind: Any, payload: Any, further: Sequence[Any]) -> Any:
        if issubclass(kind, BaseModel):
            return model(self._with_arguments(kind, further), payload, further)
        if issubclass(kind, Enum):
            return enum(kind, payload, further)
        if dataclasses.is_dataclass(kind):
            return dataclass(kind, payload)
        if (names := attrs_names(kind)) is not None:
            return attrs_object(kind, names, payload)
        if issubclass(kind, dict) or (issubclass(kind, PLAIN) and not isinstance(payload, Mapping)):
            return plain_subclass(cast("Any", kind), payload)
        return kind(**payload) if isinstance(payload, Mapping) else kind(payload)

    def _with_arguments(self, kind: type[BaseModel], further: Sequence[Any]) -> type[BaseModel]:
        """`Box[int]` for `Box`, if its arguments are allowed types too."""
        names: list[tuple[str, str]] = further[1]["arguments"] if len(further) > 1 else []
        if not names:
            return kind
        arguments = [self._argument(module, name) for module, name in names]
        parameters = cast("dict[str, Any]", kind.__pydantic_generic_metadata__)["parameters"]
        if None in arguments or len(arguments) != len(parameters):
            return kind
        return cast("Any", kind)[tuple(arguments)]

    def _argument(self, module: str, name: str) -> type[Any] | None:
        plain = {kind.__name__: kind for kind in PLAIN} | {"bool": bool}
        return plain.get(name) if module == "builtins" else self._types.find(module, name)

    def _method(self, data: bytes) -> Any:
        """Call a method of LangGraph's own list. It has only one, which parses a datetime."""
        written = self.unpack(data)
        try:
            module, name, payload, method, *further = written
        except (TypeError, ValueError):
            return None
        if (module, name, method) not in SAFE_MSGPACK_METHODS:
            self._refuse((str(module), f"{name}.{method}"))
            return payload
        return _attempted(lambda: _date_and_time(payload, further), payload)


def _date_and_time(written: str, further: Sequence[Any]) -> datetime:
    """Return a datetime in its named zone, if the zone is known here."""
    parsed = datetime.fromisoformat(written)
    if not further:
        return parsed
    zone, fold = further
    if isinstance(zone, str):
        parsed = parsed.replace(tzinfo=_attempted(lambda: ZoneInfo(zone), parsed.tzinfo))
    return parsed.replace(fold=fold)


def model(kind: type[BaseModel], fields: Any, further: Sequence[Any]) -> BaseModel:
    """Create a model with these fields. No validator runs, unless the fields of the class have changed."""
    if issubclass(kind, RootModel):
        return cast("Any", kind)(**fields) if isinstance(fields, dict) else cast("Any", kind)(fields)
    details: Mapping[str, Any] = further[1] if len(further) > 1 else {}
    extra = set(details.get("extra", ()))
    if details.get("whole") and fields.keys() - extra == kind.model_fields.keys():
        return _restored(kind, fields, details)
    try:
        # Fields are stored under their names, and a model with aliases would accept only these.
        return kind.model_validate(fields, by_name=True)
    except ValidationError:
        return kind.model_construct(**fields)


def _restored(kind: type[BaseModel], fields: Mapping[str, Any], details: Mapping[str, Any]) -> BaseModel:
    restored = kind.__new__(kind)
    extra = {name: fields[name] for name in details["extra"]}
    private: Mapping[str, Any] = {**details["private"]}
    private_values = {
        name: private.get(name, attribute.get_default()) for name, attribute in kind.__private_attributes__.items()
    }
    _set(restored, "__dict__", {name: fields[name] for name in kind.model_fields})
    _set(restored, "__pydantic_fields_set__", set(details["set"]))
    _set(restored, "__pydantic_extra__", extra if kind.model_config.get("extra") == "allow" else None)
    _set(restored, "__pydantic_private__", private_values if kind.__private_attributes__ else None)
    return restored


_set: Final[Callable[[object, str, object], None]] = object.__setattr__
"""Sets attributes as pydantic's `model_construct` does, because models and frozen dataclasses refuse assignment."""


def enum(kind: type[Enum], value: Any, further: Sequence[Any]) -> Enum:
    """The member with the name, or else with the value."""
    name: object = further[0] if further else None
    return kind[name] if isinstance(name, str) and name in kind.__members__ else kind(value)


def dataclass(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Create a dataclass with exactly these fields, also if `__init__` would change them.

    `__init__` runs because it may set attributes that are no fields. If it raises, the fields are set without it.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    if not fields.keys() <= names:
        raise TypeError(f"{kind.__qualname__} no longer has the fields {sorted(fields.keys() - names)}")
    try:
        instance = kind(
            **{field.name: fields[field.name] for field in dataclasses.fields(kind) if _is_init_argument(field, fields)}
        )
    except Exception:  # noqa: BLE001 - a constructor is the graph author's code
        instance = kind.__new__(kind)
    for name, part in fields.items():
        _set(instance, name, part)
    return instance


def attrs_object(kind: Any, names: Sequence[str], fields: Mapping[str, Any]) -> Any:
    """An object of a class that attrs made, as it was: no converter and no validator runs."""
    if fields.keys() - set(names):
        raise TypeError(f"{kind.__qualname__} no longer has the fields {sorted(fields.keys() - set(names))}")
    if set(names) - fields.keys():
        # attrs removes the underscores of private names in its constructor.
        return kind(**{name.lstrip("_"): part for name, part in fields.items()})
    made = kind.__new__(kind)
    for name, part in fields.items():
        _set(made, name, part)
    return made


def _is_init_argument(field: "dataclasses.Field[Any]", fields: Mapping[str, Any]) -> bool:
    return field.init and field.name in fields


def plain_subclass(kind: Any, payload: Any) -> Any:
    """Create an instance of a subclass of a plain type with this value, without calling its own constructor."""
    base: Any = next(base for base in PLAIN if issubclass(kind, base))
    # An immutable object gets its value only in `__new__`.
    if base not in MUTABLE:
        return base.__new__(kind, payload)
    instance = kind.__new__(kind)
    base.__init__(instance, payload)
    return instance


def _url(place: Place) -> Callable[[Any, Sequence[Any]], Any] | None:
    """The constructor of one of pydantic's URL classes, or None."""
    module, name = place
    kind: Any = getattr(networks, name, None) if module == "pydantic.networks" else None
    if module == "pydantic_core._pydantic_core" and name in {"Url", "MultiHostUrl"}:
        kind = getattr(pydantic_core, name)
    return (lambda payload, _: kind(payload)) if isinstance(kind, type) and issubclass(kind, URLS) else None


def _message(data: bytes) -> Any:
    """Decode a message without pydantic. None if it is something else."""
    try:
        return messages.decode_message(ormsgpack.unpackb(data, option=OPTION))
    except ValueError:  # it holds more than plain values
        return None


def _called(code: int, target: Any, payload: Any) -> Any:
    """Call `target` as LangGraph does for the extension."""
    if code == EXT_CONSTRUCTOR_SINGLE_ARG:
        return target(payload)
    if code == EXT_CONSTRUCTOR_POS_ARGS:
        # `Send` accepts its timeout only by name.
        return Send(*payload[:2], timeout=payload[2]) if target is Send and len(payload) > 2 else target(*payload)
    if code == EXT_CONSTRUCTOR_KW_ARGS:
        return target(**payload)
    try:
        return target(**payload)
    except Exception:  # noqa: BLE001 - a validator is foreign code
        return target.construct(**payload) if code == EXT_PYDANTIC_V1 else target.model_construct(**payload)


def _attempted(make: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return make()
    except Exception as failure:  # a row may hold anything, and a constructor is foreign code
        log.warning("a checkpoint's value can't be restored: its plain value is read instead", exc_info=failure)
        return otherwise
