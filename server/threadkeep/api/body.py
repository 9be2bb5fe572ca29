"""Decoding: the one door for what clients send. Strict, bounded, and cheap for what is small.

Nothing behind it sees bytes of a client's: only values that Python, LangGraph and Postgres can all hold, and that come
back as they were sent. orjson refuses what is no UTF-8, a BOM, lone surrogates, NaN and infinity; what it would change
or overlook (a key that stands twice, an integer above 64 bits, depth) is found here, by counting bytes: only where the
counts leave a doubt is the text read a second time, by Python's own reader, which keeps integers of any size.
"""

import asyncio
import functools
import json
import math
import re
from collections.abc import Collection
from typing import Any, Final, cast

import orjson
from anyio import to_thread
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from threadkeep.base import json as wire
from threadkeep.base.problems import BodyTimeout, ContentTooLarge, UnsupportedMediaType, ValidationFailed

MAX_DEPTH = 100
"""Of a body: what is built on it, and Python's own JSON, go a good deal deeper, but not for ever."""
MAX_KEYS = 100_000
"""Of a body's objects together."""
MAX_CONTAINERS = 200_000
"""Objects and arrays of a body: each takes 60 bytes and more of memory, and two in the text."""
MAX_ERRORS = 20
"""Places that a refusal names."""
LARGE_BYTES = 1024 * 1024
"""Above it a body is read in a thread, so that others are answered meanwhile."""

DIGITS: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
"""For `translate`: each digit is `0`, all else a space."""
LONG_INTEGER_PATTERN: Final = b"0" * 19
BEFORE_NUMBER: Final = frozenset({b"", b"[", b":", b",", b" ", b"\n", b"\t", b"\r"})
MAX_NUMBER_CANDIDATES = 20_000
"""Long runs of digits that are looked at one by one."""
STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
"""Or what is left of one that does not end: so each byte is looked at once."""
MAX_INTEGER_DIGITS = 4300
"""Of one integer: Python itself writes no longer one."""
MAX_LONG_DIGITS = 2_000_000
"""Of the integers above 64 bits of a body together: Python takes a time for each that grows with its square."""
INVALID: Final = "Invalid JSON in request body"
_INVALID: Final = object()
SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_VALUES_BESIDE = 100_000
"""Values of a body that has such an integer. What orjson refuses is written by Python, some twenty times as slowly."""


async def read_body(request: Request[Any], model: Any) -> object:
    """The body as `model`; Invalid, ContentTooLarge, UnsupportedMediaType or BodyTimeout where it is none."""
    raw = await read_bytes(request)
    found = parse_json(raw) if len(raw) <= LARGE_BYTES else await to_thread.run_sync(parse_json, raw)
    return validate(model, found)


async def read_bytes(request: Request[Any]) -> bytes:
    """The body, counted while it is read, so that a chunked one is bounded too; BodyTimeout where it comes too slowly."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType("the body must not be compressed")
    settings = request.scope["state"]["threadkeep"].settings
    try:
        async with asyncio.timeout(settings.body_timeout_s):  # a scope of anyio's costs each request four times as much
            return await _counted(request, settings.max_body_bytes)
    except TimeoutError:
        pass
    raise BodyTimeout(f"the body did not come within {settings.body_timeout_s:g} s", headers={"connection": "close"})


async def _counted(request: Request[Any], limit: int) -> bytes:
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdecimal() and (len(told) > len(str(limit)) or int(told) > limit):
        raise _too_large(limit)
    read = bytearray()
    try:
        async for chunk in request.stream():
            read += chunk
            if len(read) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ValidationFailed("the body ended too soon") from None
    return bytes(read)


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(f"the body is above {limit} bytes", headers={"connection": "close"})


def parse_json(raw: bytes) -> object:
    """Strict JSON, nested no deeper than what can be sent again; NUL becomes U+FFFD, as on the reference."""
    text = wire.replace_nul(raw)
    keys, brackets = _keys_at_most(text), text.count(b"{") + text.count(b"[")
    if keys > MAX_KEYS or brackets > MAX_CONTAINERS:
        _refuse_many(text)
    try:
        found = cast("object", orjson.loads(text))
    except orjson.JSONDecodeError:
        found = _INVALID
    if found is not _INVALID and brackets > MAX_DEPTH and _is_deep(found):
        raise ValidationFailed(f"the body is nested more than {MAX_DEPTH} levels deep")
    if _may_hold_long_integer(text):
        return _read_exactly(text, found)
    if found is _INVALID:
        raise ValidationFailed(INVALID)
    if keys > 1 and keys != _keys(orjson.dumps(found)):
        json.loads(text, object_pairs_hook=_unrepeated, parse_int=_nothing, parse_float=_nothing)
    return found


def _keys_at_most(text: bytes) -> int:
    r"""How many keys there may be: colons behind a quote or a space, without those behind `\"`, inside a string."""
    colons = text.count(b":")
    if colons < 2:
        return colons
    found = text.count(b'":')
    if found != colons:
        found += text.count(b" :") + text.count(b"\n:") + text.count(b"\t:") + text.count(b"\r:")
    if b"\\" not in text or b'\\\\":' in text:
        return found
    return found - text.count(b'\\":')


def _keys(written: bytes) -> int:
    """How many keys there are in what orjson has written; -1 where one ends in a backslash, and that takes a longer look.

    Where a text may hold no more keys than there are in what it was read as, none was lost.
    """
    if b"\\" not in written:
        return written.count(b'":')
    return -1 if b'\\\\":' in written else written.count(b'":') - written.count(b'\\":')


def _refuse_many(text: bytes) -> None:
    """Invalid where there is too much, what stands in strings not counted."""
    bare = STRING.sub(b"", text)
    if bare.count(b":") > MAX_KEYS:
        raise ValidationFailed(f"the body holds more than {MAX_KEYS} keys")
    if bare.count(b"{") + bare.count(b"[") > MAX_CONTAINERS:
        raise ValidationFailed(f"the body holds more than {MAX_CONTAINERS} objects and arrays")


def _may_hold_long_integer(text: bytes) -> bool:
    """Some nineteen digits follow what may stand before a number; or there are too many to look at each."""
    zeros = text.translate(DIGITS)
    end = 0
    for _ in range(MAX_NUMBER_CANDIDATES):
        if (start := zeros.find(LONG_INTEGER_PATTERN, end)) < 0:
            return False
        sign = text[start - 1 : start] == b"-"
        if text[start - 1 - sign : start - sign] in BEFORE_NUMBER:
            return True
        if (end := zeros.find(b" ", start)) < 0:
            return False
    return True


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object, while Python's own reader goes through the text: it shows each key, and takes some ten times as long."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValidationFailed(f"the key {key[:100]!r} stands twice in an object")
            seen.add(key)
    return made


def _read_exactly(text: bytes, found: object) -> object:
    """What Python's own reader makes of a body that may hold long integers, or `found`, as orjson read it, if it has none.

    To orjson an integer above 1e308 is no JSON. What else it refuses is refused here too.
    """
    integers = _Integers(text)
    try:
        exact = cast(
            "object",
            json.loads(
                text.decode(),
                object_pairs_hook=_unrepeated,
                parse_int=integers.read,
                parse_float=_finite,
                parse_constant=_finite,
            ),
        )
        if found is _INVALID and SURROGATE.search(text):
            json.dumps(exact, ensure_ascii=False).encode()  # lone surrogates have no bytes
    except (ValueError, RecursionError):
        raise ValidationFailed(INVALID) from None
    if not integers.long_digits:
        if found is _INVALID:
            raise ValidationFailed(INVALID)
        return found
    if _is_deep(exact):
        raise ValidationFailed(f"the body is nested more than {MAX_DEPTH} levels deep")
    return exact


def _finite(number: str) -> float:
    """ValueError if it is NaN, infinite or above 1e308."""
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


class _Integers:
    """Reads the integers of a body exactly, and counts the digits of those above 64 bits."""

    def __init__(self, text: bytes) -> None:
        self.long_digits = 0
        self._text = text

    def read(self, digits: str) -> int:
        """One integer. ValidationFailed if it is too long, or if the body holds too much beside it."""
        if len(digits) < len(LONG_INTEGER_PATTERN):
            return int(digits)
        length = len(digits.lstrip("-"))
        if length > MAX_INTEGER_DIGITS:
            raise ValidationFailed(f"an integer has at most {MAX_INTEGER_DIGITS:,} digits; send it as a string")
        number = int(digits)
        if not -(2**63) <= number < 2**64:
            if not self.long_digits and STRING.sub(b"", self._text).count(b",") >= MAX_VALUES_BESIDE:
                raise ValidationFailed(
                    f"a body with an integer above 64 bits holds at most {MAX_VALUES_BESIDE:,} values; send it as a string"
                )
            self.long_digits += length
            if self.long_digits > MAX_LONG_DIGITS:
                raise ValidationFailed(f"the integers above 64 bits have more than {MAX_LONG_DIGITS:,} digits together")
        return number


def _nothing(digits: str) -> None:
    del digits


def _is_deep(value: object) -> bool:
    """By a walk level by level: a recursive one would end where it matters."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in children(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def children(value: object) -> Collection[object]:
    """What an object or an array holds, of anything else nothing."""
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def read_query(request: Request[Any], model: type[BaseModel]) -> Any:
    """The query parameters as `model`; a name given several times is a list, and NUL becomes U+FFFD, as in a body."""
    given = request.query_params
    found: dict[str, object] = {}
    for name in given:
        several = [value.replace("\0", "\N{REPLACEMENT CHARACTER}") for value in given.getlist(name)]
        found[name] = several if len(several) > 1 else several[0]
    return validate(model, found)


@functools.cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def validate(model: Any, value: object) -> Any:
    """`value` as `model`; Invalid, with the places named, where it is none."""
    try:
        return _adapter(model).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        errors = [
            {"loc": [_part(part) for part in item["loc"]], "msg": item["msg"], "type": item["type"]} for item in found
        ]
        lines = [f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in errors]
        raise ValidationFailed("\n".join(lines), errors=errors) from None


def _part(part: int | str) -> int | str:
    """A place's name: a key that a client made up may be long."""
    return part[:200] if isinstance(part, str) else part
