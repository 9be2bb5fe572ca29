"""JSON: encode Python values as the LangGraph clients expect them, and decode JSON.

A message is encoded as its fields, a dataclass as an object, a set as a list, bytes as base64, and a table as columns,
index and rows. A value without a JSON form is encoded as its text.
"""

import json as stdlib
import re
import sys
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeGuard, cast

import anyio.lowlevel
import orjson
from anyio import to_thread
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.types import Send
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1
from pydantic_core import to_jsonable_python

from threadkeep.base.problems import ContentTooLarge

OPTIONS = orjson.OPT_NON_STR_KEYS
NUL_ESCAPE = b"\\u0000"
REPLACEMENT_ESCAPE = b"\\ufffd"
LINE_ENDS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""Characters that end a line for some clients, in UTF-8 -> their escapes in JSON."""
MAX_DEPTH = 200
SHORT_DEPTH: Final = 20
ENDLESS: Final = "the value is nested too deeply, or contains itself"
LONG_INTEGER: Final = re.compile(rb"\d{19}")
"""Matches every integer above 64 bits, and few other values."""
# Python refuses more than 4,300 digits in `str` and `int`, because their time grows with the square.
FEW_DIGITS: Final = 10**4000
MAX_DIGITS: Final = 130_000
"""Digits in an integer. Postgres accepts 131,072 in JSON."""
WORD_BYTES: Final = 8
NAMED_KEYS: Final = {None: "null", True: "true", False: "false"}
INLINE_BYTES = 64 * 1024
"""Larger values are encoded in a thread."""
LONG_TEXT: Final = 100_000
"""Characters."""
MANY_ITEMS: Final = 1000
SAMPLE_ITEMS: Final = 4
SAMPLE_DEPTH: Final = 2
PIECE_ITEMS: Final = 100
"""The most items of a list that are encoded at once."""
PIECE_CHARACTERS: Final = 500_000
"""The most characters of a text that are encoded at once. This takes about one millisecond."""
PIECE_DEPTH: Final = 5
"""A value is split to this depth: a state, the values of its channels, their messages, and the parts of a message."""
MESSAGES: Final[frozenset[type[BaseMessage]]] = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})
"""Types whose fields are their whole JSON, if an instance has no extra fields."""


class RawJson:
    """JSON that is already encoded. It is passed on unchanged, and decoded only by `load`.

    It is not a dataclass, because orjson would encode its fields.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes | str) -> None:
        self.raw = raw.encode() if isinstance(raw, str) else bytes(raw)

    def load(self) -> Any:
        """Return the decoded value."""
        return loads(self.raw)


SCALARS: Final = (str, int, float, date, time, RawJson)


class Unserializable(ValueError):
    """A value of a graph that has no JSON form, because it is nested too deeply or contains itself."""


def dumps(value: object) -> bytes:
    """Return `value` as one line of JSON that Postgres accepts. Raise Unserializable, and nothing else, if it has none.

    NUL becomes U+FFFD, as in LangGraph's server, because jsonb refuses it. A lone surrogate becomes `?`, as in a
    checkpoint, because UTF-8 cannot encode it.
    """
    try:
        encoded = orjson.dumps(value, _default, OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Rare: a surrogate, an integer above 64 bits, or an unusual key. `_plain` copies the whole value.
        # Rare: a surrogate, an integer above 64 bits, or an unusual key. `_plain` copies the whole value.
        encoded = _dumps_slowly(value)
    return replace_nul(encoded)


def _dumps_slowly(value: object) -> bytes:
    """Encode what orjson refused. Every failure is Unserializable, because the end of a run depends on this."""
    try:
        return orjson.dumps(_plain(value, MAX_DEPTH), _default, OPTIONS)
    except Unserializable:
        raise
    except RecursionError:
        raise Unserializable(ENDLESS) from None
    except Exception as failure:
        raise Unserializable(f"the value has no JSON form: {type(failure).__name__}") from failure


def dumps_shortened(value: object) -> bytes:
    """Encode like `dumps`, but replace a part that would not end by the name of its type.

    An event is only shown. Its run must not fail because somebody watches, for example an object that knows its parent.
    """
    try:
        return dumps(value)
    except Unserializable:
        pass
    try:
        return dumps(_shortened(value, SHORT_DEPTH, {}))
    except Exception:  # noqa: BLE001 - attributes and iteration are code of the graph's author
        return dumps(_name(value))


async def dumps_apart(value: object, *, size: int) -> bytes:
    """Encode like `dumps`, but in a thread if the value is large. `size` is its approximate size in bytes."""
    return dumps(value) if size <= INLINE_BYTES else await to_thread.run_sync(dumps, value)


async def dumps_in_pieces(value: object) -> bytes:
    """Encode like `dumps`. If the value seems large, encode it in pieces, and let other tasks run in between.

    A thread would not help, because orjson holds the interpreter's lock.
    """
    return dumps(value) if not _seems_large(value) else b"".join([piece async for piece in _pieces(value, 0)])


async def _pieces(value: object, depth: int) -> AsyncGenerator[bytes]:
    """The parts of an encoded value. Each takes a few milliseconds."""
    value = _fields(value)
    if type(value) is str and len(value) > LONG_TEXT:
        yield b'"'
        for part in _parts(value):
            yield dumps(part)[1:-1]
            await anyio.lowlevel.checkpoint()
        yield b'"'
    elif depth < PIECE_DEPTH and _has_text_keys(value):
        for number, (key, item) in enumerate(value.items()):
            yield b"%b%b:" % (b"," if number else b"{", dumps(key))
            async for piece in _pieces(item, depth + 1):
                yield piece
        yield b"}"
    elif depth < PIECE_DEPTH and type(value) is list and value:
        for number, batch in enumerate(_batches(cast("list[object]", value))):
            yield b"," if number else b"["
            async for piece in _batch_pieces(batch, depth + 1):
                yield piece
        yield b"]"
    else:
        yield dumps(cast("object", value))
        await anyio.lowlevel.checkpoint()


async def _batch_pieces(batch: list[object], depth: int) -> AsyncGenerator[bytes]:
    """The parts of some items of a list, without its brackets. Only the last item can be long."""
    *items, last = batch
    if not _seems_large(last):
        items = batch
    if items:
        yield dumps(items)[1:-1]
        await anyio.lowlevel.checkpoint()
    if items is not batch:
        yield b"," if items else b""
        async for piece in _pieces(last, depth):
            yield piece


def _parts(text: str) -> Iterator[str]:
    """The text in parts. A pair of surrogates stays together, because it is one character in JSON."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if "\ud800" <= text[end - 1 : end] <= "\udbff":
            end += 1
        yield text[start:end]
        start = end


def _fields(value: object) -> object:
    """The fields of a message, or the value itself."""
    return _default(value) if type(value) in MESSAGES else value


def _has_text_keys(value: object) -> TypeGuard[dict[str, object]]:
    """It is an object, and has keys."""
    if type(value) is not dict or not value:
        return False
    return all(type(key) is str for key in cast("dict[object, object]", value))


def _batches(items: Sequence[object]) -> Iterator[list[object]]:
    """Return the items in order. Each large item is alone in its group."""
    batch: list[object] = []
    looks_into_objects = len(items) <= MANY_ITEMS  # each look costs as much as the encoding of a small object
    for item in items:
        batch.append(item)
        if len(batch) == PIECE_ITEMS or _is_long(item) or (looks_into_objects and _has_long_field(item)):
            yield batch
            batch = []
    if batch:
        yield batch


def _seems_large(value: object) -> bool:
    """Estimate quickly whether a state is large, by its newest items."""
    return _is_long(value) or _has_long_field(value)


def _has_long_field(value: object) -> bool:
    return type(value) is dict and any(_is_long(item) for item in cast("dict[object, object]", value).values())


def _is_long(value: object, depth: int = 0) -> bool:
    """It is a long text, a message with one, or a list of many or long items."""
    content: object = value.content if isinstance(value, BaseMessage) else value
    if isinstance(content, (str, bytes)):
        return len(content) > LONG_TEXT
    if type(content) is not list or depth > SAMPLE_DEPTH:
        return False
    items = cast("list[object]", content)
    newest = items[-SAMPLE_ITEMS:]
    return len(items) > MANY_ITEMS or any(_is_long(item, depth + 1) or _has_long_field(item) for item in newest)


def replace_nul(encoded: bytes) -> bytes:
    """Replace each escaped NUL by U+FFFD. `u0000` after an escaped backslash is not a NUL."""
    if b"\\" not in encoded or NUL_ESCAPE not in encoded:  # searching for one byte is much faster than for six
        return encoded
    halves = encoded.split(b"\\\\")
    return b"\\\\".join(half.replace(NUL_ESCAPE, REPLACEMENT_ESCAPE) for half in halves)


def one_line(frames: bytes) -> bytes:
    """Escape the characters of JSON that Python's `splitlines` takes for the end of a line.

    `httpx` splits there in `aiter_lines`, which `a2a-sdk` and other clients read streams by. SSE itself allows them.
    """
    if b"\xe2\x80" not in frames and b"\xc2\x85" not in frames:
        return frames
    for character, escaped in LINE_ENDS:
        frames = frames.replace(character, escaped)
    return frames


def loads(raw: bytes | str) -> Any:
    """Decode JSON, with integers of any size. orjson would turn those above 64 bits into floats.

    Raise ValueError if it is not JSON.
    """
    encoded = raw.encode() if isinstance(raw, str) else raw
    if not LONG_INTEGER.search(encoded):
        return orjson.loads(encoded)
    try:
        return stdlib.loads(encoded, parse_int=integer, parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


async def loads_apart(raw: bytes) -> Any:
    """Decode like `loads`, but in a thread if the value is large."""
    return loads(raw) if len(raw) <= INLINE_BYTES else await to_thread.run_sync(loads, raw)


def seems_large(value: object) -> bool:
    """Estimate quickly whether a decoded value is large."""
    return _seems_large(value)


def dumps_plain(value: object) -> bytes:
    """Encode plain JSON values, with integers of any size. Raise TypeError or ValueError for other values."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return stdlib.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def digits(value: int) -> str:
    """Return an integer's digits. `str` refuses more than 4,300 of them."""
    return str(value) if abs(value) < FEW_DIGITS else format(Decimal(value), "f")


def integer(text: str) -> int:
    """Return the integer of these digits. Raise ValueError if there are more than `MAX_DIGITS`, or none."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer has at most {MAX_DIGITS:,} digits")
    return int(text) if len(text) <= 4000 else int(Decimal(text))


def _default(value: object) -> object:
    """Return a value that orjson can encode, for a type that it does not know: the name of the type if its code fails."""
    try:
        return _shown(value)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001 - attributes, iteration and `__str__` are code of the graph's author
        return _name(value)


def _shown(value: object) -> object:
    """Return the JSON form of a value by its type.

    Messages come first, because a long state is mostly messages and pydantic's `model_dump` is several times slower.
    """
    if type(value) in MESSAGES and not cast("BaseMessage", value).__pydantic_extra__:
        return value.__dict__
    if isinstance(value, float):  # a subclass, such as numpy's
        return float(value)
    if isinstance(value, RawJson):
        return orjson.Fragment(value.raw)
    if isinstance(value, BaseModel):
        return _model(value)
    if isinstance(value, BaseModelV1):
        return dict(value.__dict__)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, (set, frozenset, deque)):
        return list(cast("Iterable[object]", value))
    if (library := type(value).__module__.partition(".")[0]) in LIBRARIES:
        return LIBRARIES[library](value)
    return _by_duck(value)


def _model(value: BaseModel) -> object:
    try:
        # pydantic warns of each field whose value has another type, and graphs may set such values.
        return value.model_dump(warnings=False)
    except Exception:  # noqa: BLE001 - a serializer is code of the graph's author
        return dict(value.__dict__)


def _by_duck(value: object) -> object:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b64encode(cast("bytes", value)).decode()
    if isinstance(value, (date, time)):  # a subclass, which orjson does not encode
        return value.isoformat()
    if isinstance(value, timedelta):
        return cast("object", to_jsonable_python(value))  # ISO 8601, as in pydantic
    if (attributes := getattr(cast("object", type(value)), "__attrs_attrs__", None)) is not None:
        return {field.name: getattr(value, field.name, None) for field in cast("Iterable[Any]", attributes)}
    if callable(fields := getattr(value, "_asdict", None)):  # a NamedTuple, which orjson does not encode as a tuple
        return cast("Callable[[], object]", fields)()
    if isinstance(value, tuple):
        return list(cast("tuple[object, ...]", value))
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, re.Pattern):
        return cast("re.Pattern[Any]", value).pattern
    if isinstance(value, Send):
        return {"node": value.node, "args": value.arg}
    return repr(value) if isinstance(value, BaseException) else str(cast("object", value))


def _of_numpy(value: Any) -> object:
    """Return the JSON of numbers, and plain values for what orjson refuses or shows otherwise, such as a date that is none."""
    kind, size = (value.dtype.kind, value.dtype.itemsize) if hasattr(value, "dtype") else ("", 0)
    if kind in {"b", "i", "u"} and not value.shape:  # a number, and often one of many
        return value.tolist()
    if _is_plain_numpy(value):
        return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    if kind in {"m", "M"}:
        return _dates(value.astype(str).tolist())
    if kind == "f" and size > 8:  # no plain number has this precision
        return value.astype("float64").tolist()
    return value.tolist() if kind and not (kind == "c" and size > 16) else str(value)


def _is_plain_numpy(value: Any) -> bool:
    """Whether orjson encodes the numbers as they are."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype.kind not in "biuf" or not dtype.isnative or dtype.itemsize > WORD_BYTES:
        return False
    numpy = sys.modules["numpy"]
    return isinstance(value, numpy.generic) or (
        type(value) is numpy.ndarray and bool(value.ndim) and value.flags.c_contiguous
    )


def _dates(text: object) -> object:
    """Return the text of dates and spans. NaT is null, as in pandas."""
    if isinstance(text, list):
        return [_dates(part) for part in cast("list[object]", text)]
    return None if text == "NaT" else text


def _of_pandas(value: Any) -> object:
    """Return a DataFrame as columns, index and rows, and a Series as name, index and values."""
    kind = type(value).__name__
    if kind == "DataFrame":
        rows = [list(row) for row in value.itertuples(index=False, name=None)]
        return {"index": list(value.index), "columns": list(value.columns), "data": rows}
    if kind == "Series":
        return {"name": value.name, "index": list(value.index), "data": value.tolist()}
    if kind in {"NaTType", "NAType"}:
        return None
    if kind in {"Timestamp", "Timedelta"}:
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else str(value)


LIBRARIES: Final[Mapping[str, Callable[[Any], object]]] = {"numpy": _of_numpy, "pandas": _of_pandas}
"""Library -> encoder of its values. The libraries are not imported for this."""


def _plain(value: Any, depth: int) -> Any:
    """Convert a value that orjson refused, slowly: replace surrogates, keep huge integers, and turn keys into strings."""
    if depth == 0:
        raise Unserializable(ENDLESS)
    if isinstance(value, Enum):
        return _plain(value.value, depth - 1)
    if value is None or isinstance(value, SCALARS):
        return _plain_scalar(value)
    if type(value).__module__ == "numpy":
        return value if _is_plain_numpy(value) else _plain(_of_numpy(value), depth - 1)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_plain(_key(key), depth - 1): _plain(item, depth - 1) for key, item in items}
    if type(value) in {list, tuple, set, frozenset, deque}:
        return [_plain(item, depth - 1) for item in value]
    if fields := getattr(value, "__dataclass_fields__", None):
        return {name: _plain(getattr(value, name), depth - 1) for name in fields}
    return _plain(_default(value), depth - 1)


def _shortened(value: Any, depth: int, shown: dict[int, object]) -> object:
    """Return plain values in which each object occurs once. `shown` also keeps them, because a free id is used again."""
    if value is None or isinstance(value, (*SCALARS, Enum, orjson.Fragment)):
        return value
    if type(value).__module__ == "numpy" and _is_plain_numpy(value):
        return value
    if depth == 0 or id(value) in shown:
        return _name(value)
    shown[id(value)] = value
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_key(key): _shortened(item, depth - 1, shown) for key, item in items}
    if type(value) in {list, tuple, set, frozenset, deque}:
        return [_shortened(item, depth - 1, shown) for item in value]
    if fields := getattr(value, "__dataclass_fields__", None):
        return {name: _shortened(getattr(value, name, None), depth - 1, shown) for name in fields}
    return _shortened(_default(value), depth, shown)


def _name(value: object) -> str:
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _plain_scalar(value: object) -> object:
    if isinstance(value, str):
        joined = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return joined.encode(errors="replace").decode()
    if isinstance(value, (date, time)):  # orjson refuses a time with a zone, and some zones
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return RawJson(digits(value))  # an integer of any length, which orjson would refuse
    return value


def _key(key: object) -> str:
    """Return a key as text: the value of an enum, and true, false and null as in JSON."""
    if isinstance(key, Enum):
        return _key(key.value)
    return NAMED_KEYS[key] if key is None or isinstance(key, bool) else str(key)


def check_bytes(limit: int, **objects: Mapping[str, object] | None) -> None:
    """Raise ContentTooLarge if one of the objects has more than `limit` bytes as JSON. Keywords are the fields' names.

    Metadata, config and context are read with every run and every list, so each has a limit.
    """
    for name, value in objects.items():
        if value and len(dumps(value)) > limit:
            raise too_large(name, limit)


def too_large(name: str, limit: int) -> ContentTooLarge:
    """Return the problem of an object that is too large, or would be after a change."""
    return ContentTooLarge(f"{name} would have more than {limit:,} bytes")
