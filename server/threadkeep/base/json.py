"""Wire: from Python to JSON, the way the LangGraph clients read it.

A message is its plain fields, a dataclass an object, a set a list; what has no JSON form is its text.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from enum import Enum
from typing import Any, Final, cast

import orjson
from anyio import to_thread
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

from threadkeep.base.problems import TooLarge

OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
NUL_ESCAPE = b"\\u0000"
REPLACEMENT_ESCAPE = b"\\ufffd"
MAX_DEPTH = 200
INLINE_BYTES = 64 * 1024
"""Above it a value is encoded in a thread."""
MESSAGES: Final[frozenset[type[BaseMessage]]] = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})
"""Whose fields say all that there is to say, as long as there are no further ones."""


class Json:
    """JSON that is there already: sent on as it is, read only where somebody asks.

    No dataclass, for orjson would take it apart.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes | str) -> None:
        self.raw = raw.encode() if isinstance(raw, str) else bytes(raw)

    def load(self) -> Any:
        """What it says."""
        return orjson.loads(self.raw)


class Unserializable(ValueError):
    """A value of the graph's that has no JSON form: too deep, or part of itself."""


def dumps(value: object) -> bytes:
    """`value` as one line of JSON that Postgres takes too; Unserializable where it has no end.

    NUL becomes U+FFFD, as on the reference: jsonb refuses it. So does a lone surrogate, which UTF-8 can't hold.
    """
    try:
        encoded = orjson.dumps(value, _default, OPTIONS)
    except (TypeError, ValueError, RecursionError):
        encoded = orjson.dumps(_plain(value, MAX_DEPTH), _default, OPTIONS)
    return without_nul(encoded)


async def dumps_apart(value: object, *, size: int) -> bytes:
    """As `dumps`; in a thread if the value is large, so that the event loop goes on. `size` is about how large, in bytes."""
    return dumps(value) if size <= INLINE_BYTES else await to_thread.run_sync(dumps, value)


def without_nul(encoded: bytes) -> bytes:
    """JSON with U+FFFD for each escaped NUL; an escaped backslash before `u0000` is no escape of NUL."""
    if b"\\" not in encoded or NUL_ESCAPE not in encoded:  # one byte is found much sooner than six
        return encoded
    halves = encoded.split(b"\\\\")
    return b"\\\\".join(half.replace(NUL_ESCAPE, REPLACEMENT_ESCAPE) for half in halves)


def _default(value: object) -> object:
    """What orjson asks for on a type it does not know. A long state is mostly messages: pydantic's general way would take
    several times as long."""
    if type(value) in MESSAGES and not cast("BaseMessage", value).__pydantic_extra__:
        return value.__dict__
    if isinstance(value, Json):
        return orjson.Fragment(value.raw)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, (set, frozenset, deque)):
        return list(cast("Iterable[object]", value))
    return _by_duck(value)


def _by_duck(value: object) -> object:
    if callable(fields := getattr(value, "_asdict", None)):  # a NamedTuple, which orjson does not take for a tuple
        return cast("Callable[[], object]", fields)()
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    return repr(value) if isinstance(value, BaseException) else str(cast("object", value))


def _plain(value: Any, depth: int) -> Any:
    """The slow way, for what orjson refused: surrogates replaced, huge integers as they are, keys as text."""
    if depth == 0:
        raise Unserializable("the value is nested too deeply, or contains itself")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Enum):
        return _plain(value.value, depth - 1)
    if isinstance(value, int) and not isinstance(value, bool):
        return Json(str(value))  # a number of any length, which orjson would refuse
    if value is None or isinstance(value, (bool, float, Json, date, time)) or type(value).__module__ == "numpy":
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(_plain(str(key), depth - 1)): _plain(item, depth - 1) for key, item in items}
    if type(value) in {list, tuple, set, frozenset, deque}:
        return [_plain(item, depth - 1) for item in value]
    if fields := getattr(value, "__dataclass_fields__", None):
        return {name: _plain(getattr(value, name), depth - 1) for name in fields}
    return _plain(_default(value), depth - 1)


def check_bytes(limit: int, **named: Mapping[str, object] | None) -> None:
    """TooLarge if one of the objects, named as the client named it, has more than `limit` bytes as JSON.

    Metadata, config and context are read with every run and every list, so each has a limit.
    """
    for name, value in named.items():
        if value and len(dumps(value)) > limit:
            raise too_large(name, limit)


def too_large(name: str, limit: int) -> TooLarge:
    """The refusal of an object, or of what a change would make of it."""
    return TooLarge(f"{name} would have more than {limit:,} bytes")
