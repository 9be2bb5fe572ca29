"""Decoding: the one door for what clients send. Strict, bounded, and cheap for what is small.

Nothing behind it sees bytes of a client's: only values that Python, LangGraph and Postgres can all hold, and that come
back as they were sent. orjson refuses what is no UTF-8, a BOM, lone surrogates, NaN and infinity; what it would change
or overlook (a key that stands twice, an integer above 64 bits, depth) is found here, by counting bytes: only where the
counts leave a doubt is the text read a second time.
"""

import asyncio
import functools
import json
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
MAX_INTEGER_DIGITS = 20
"""Digits of 2**64 - 1."""


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
        raise ValidationFailed("Invalid JSON in request body") from None
    if brackets > MAX_DEPTH and _is_deep(found):
        raise ValidationFailed(f"the body is nested more than {MAX_DEPTH} levels deep")
    if (keys > 1 and keys != _keys(orjson.dumps(found))) or _may_hold_long_integer(text):
        json.loads(text, object_pairs_hook=_refuse_repeated, parse_int=_refuse_long, parse_float=_nothing)
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


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    """Of one object, while Python's own reader goes through the text: it shows each key, and takes some ten times as long."""
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValidationFailed(f"the key {key[:100]!r} stands twice in an object")
            seen.add(key)


def _refuse_long(digits: str) -> None:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS or not -(2**63) <= int(digits) < 2**64:
        raise ValidationFailed("the body holds an integer above 64 bits; send it as a string")


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
