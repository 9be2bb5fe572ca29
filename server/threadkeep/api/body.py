"""Decoding of request bodies and queries: strict, bounded, and cheap for small bodies.

Every request passes through this module. The code after it gets only values that Python, LangGraph and Postgres can all
hold, and that are returned as they were sent. orjson refuses text that is not UTF-8, a BOM, lone surrogates, NaN and
infinity. It would accept or change repeated keys, integers above 64 bits and deep nesting, so this module detects them
by counting bytes. Only if the counts are ambiguous, Python's `json` parses the text a second time. It keeps integers of
any size.
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
"""Levels of nesting in a body. Later code and Python's `json` support more levels, but not without limit."""
MAX_KEYS = 100_000
"""Keys in all objects of a body together."""
MAX_CONTAINERS = 200_000
"""Objects and arrays in a body. Each takes 60 bytes or more of memory, but only two bytes in the text."""
MAX_ERRORS = 20
"""Largest number of errors that a refusal lists."""
LARGE_BYTES = 1024 * 1024
"""Larger bodies are parsed in a thread, so that the event loop can answer other requests."""

HAS_BODY_ARRIVED: Final = "threadkeep.has_body_arrived"
"""Key in a scope whose request was received to its end. Most are when their endpoint begins, and need no time limit."""
DIGITS: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
"""A table for `bytes.translate` that maps each digit to `0` and all other bytes to a space."""
LONG_INTEGER_PATTERN: Final = b"0" * 19
BEFORE_NUMBER: Final = frozenset({b"", b"[", b":", b",", b" ", b"\n", b"\t", b"\r"})
MAX_NUMBER_CANDIDATES = 20_000
"""Largest number of long digit sequences that are checked one by one."""
STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
"""A JSON string, or the rest of one without an end, so that each byte is read only once."""
MAX_INTEGER_DIGITS = 4300
"""Digits in one integer. Python itself does not print longer ones."""
MAX_LONG_DIGITS = 2_000_000
"""Digits in all integers above 64 bits of a body. Python's time to parse one grows with the square of its length."""
INVALID: Final = "Invalid JSON in request body"
_INVALID: Final = object()
SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_VALUES_BESIDE = 100_000
"""Values in a body that has such an integer. Python's `json` must encode it later, about twenty times as slowly as orjson."""


async def read_body(request: Request[Any], model: Any) -> object:
    """Return the body as `model`. Raise ValidationFailed, ContentTooLarge, UnsupportedMediaType or BodyTimeout."""
    raw = await read_bytes(request)
    value = parse_json(raw) if len(raw) <= LARGE_BYTES else await to_thread.run_sync(parse_json, raw)
    return validate(model, value)


async def read_bytes(request: Request[Any]) -> bytes:
    """Return the body. Its size is checked while it is read, because a chunked body has no Content-Length.

    Raise ContentTooLarge, or BodyTimeout if it arrives too slowly.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise UnsupportedMediaType("the body must not be compressed")
    settings = request.scope["state"]["threadkeep"].settings
    if request.scope.get(HAS_BODY_ARRIVED):
        return await _counted(request, settings.max_body_bytes)
    try:
        async with asyncio.timeout(settings.body_timeout_s):  # a cancel scope of anyio costs four times as much
            return await _counted(request, settings.max_body_bytes)
    except TimeoutError:
        pass
    raise BodyTimeout(f"the body did not arrive within {settings.body_timeout_s:g} s", headers={"connection": "close"})


async def _counted(request: Request[Any], limit: int) -> bytes:
    content_length = request.headers.get("content-length", "")
    # The number of digits first, because Python does not parse integers of more than 4,300 digits.
    if (
        content_length.isascii()
        and content_length.isdecimal()
        and (len(content_length) > len(str(limit)) or int(content_length) > limit)
    ):
        raise _too_large(limit)
    read = bytearray()
    try:
        async for chunk in request.stream():
            read += chunk
            if len(read) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ValidationFailed("the client disconnected before the end of the body") from None
    return bytes(read)


def _too_large(limit: int) -> ContentTooLarge:
    # The rest of the body may be large, so the connection serves no further request.
    return ContentTooLarge(f"the body has more than {limit} bytes", headers={"connection": "close"})


def parse_json(raw: bytes) -> object:
    """Parse strict JSON. NUL becomes U+FFFD, as in LangGraph's server. Raise ValidationFailed if it is not valid."""
    text = wire.replace_nul(raw)
    keys, containers = _keys_at_most(text), text.count(b"{") + text.count(b"[")
    if keys > MAX_KEYS or containers > MAX_CONTAINERS:
        _refuse_many(text)
    try:
        value = cast("object", orjson.loads(text))
    except orjson.JSONDecodeError:
        value = _INVALID
    # Only a body with this many brackets can be too deep, and most bodies have fewer.
    if value is not _INVALID and containers > MAX_DEPTH and _is_deep(value):
        raise ValidationFailed(f"the body is nested more than {MAX_DEPTH} levels deep")
    if _may_hold_long_integer(text):
        return _read_exactly(text, value)
    if value is _INVALID:
        raise ValidationFailed(INVALID)
    # orjson keeps the last of repeated keys, so its value then has fewer keys than the text.
    if keys > 1 and keys != _keys(orjson.dumps(value)):
        # The result is dropped. The counts may also differ without a repeated key, for example by a colon in a string.
        json.loads(text, object_pairs_hook=_unrepeated, parse_int=_nothing, parse_float=_nothing)
    return value


def _keys_at_most(text: bytes) -> int:
    r"""Return an upper bound of the number of keys: colons after a quote or a space, but not after `\"` in a string."""
    colons = text.count(b":")
    if colons < 2:
        return colons
    count = text.count(b'":')
    if count != colons:
        count += text.count(b" :") + text.count(b"\n:") + text.count(b"\t:") + text.count(b"\r:")
    if b"\\" not in text or b'\\\\":' in text:
        return count
    return count - text.count(b'\\":')


def _keys(written: bytes) -> int:
    """Return the number of keys in JSON that orjson wrote, or -1 if a key may end in a backslash.

    If the original text has at most that many keys, parsing lost no repeated key.
    """
    if b"\\" not in written:
        return written.count(b'":')
    return -1 if b'\\\\":' in written else written.count(b'":') - written.count(b'\\":')


def _refuse_many(text: bytes) -> None:
    """Raise ValidationFailed if there are too many keys or containers, not counting the contents of strings."""
    bare = STRING.sub(b"", text)
    if bare.count(b":") > MAX_KEYS:
        raise ValidationFailed(f"the body has more than {MAX_KEYS} keys")
    if bare.count(b"{") + bare.count(b"[") > MAX_CONTAINERS:
        raise ValidationFailed(f"the body has more than {MAX_CONTAINERS} objects and arrays")


def _may_hold_long_integer(text: bytes) -> bool:
    """Whether nineteen digits follow a byte that may precede a number, or there are too many candidates to check."""
    zeros = text.translate(DIGITS)
    end = 0
    for _ in range(MAX_NUMBER_CANDIDATES):
        if (start := zeros.find(LONG_INTEGER_PATTERN, end)) < 0:
            return False
        sign = text[start - 1 : start] == b"-"
        # At the start of the text the slice is empty, which is a place for a number too.
        if text[start - 1 - sign : start - sign] in BEFORE_NUMBER:
            return True
        if (end := zeros.find(b" ", start)) < 0:
            return False
    return True


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object from the pairs of Python's `json`, about ten times slower than orjson. Refuse repeated keys."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValidationFailed(f"the key {key[:100]!r} occurs twice in an object")
            seen.add(key)
    return fields


def _read_exactly(text: bytes, orjson_value: object) -> object:
    """Parse a body that may contain long integers with Python's `json`. Return orjson's value if it has none.

    orjson refuses integers above 1e308. Everything else that it refuses is refused here too.
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
                parse_constant=_finite,  # NaN and Infinity
            ),
        )
        if orjson_value is _INVALID and SURROGATE.search(text):
            json.dumps(exact, ensure_ascii=False).encode()  # lone surrogates cannot be encoded
    except (ValueError, RecursionError):
        raise ValidationFailed(INVALID) from None
    if not integers.long_digits:
        if orjson_value is _INVALID:
            raise ValidationFailed(INVALID)
        return orjson_value
    if _is_deep(exact):
        raise ValidationFailed(f"the body is nested more than {MAX_DEPTH} levels deep")
    return exact


def _finite(number: str) -> float:
    """Parse a float. Raise ValueError if it is NaN, infinite or above 1e308."""
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


class _Integers:
    """Reads the integers of a body exactly, and counts the digits of those above 64 bits."""

    def __init__(self, text: bytes) -> None:
        self.long_digits = 0
        self._text = text

    def read(self, digits: str) -> int:
        """Parse one integer. Raise ValidationFailed if it is too long, or if the body has too many values besides it."""
        if len(digits) < len(LONG_INTEGER_PATTERN):
            return int(digits)
        length = len(digits.lstrip("-"))
        if length > MAX_INTEGER_DIGITS:
            raise ValidationFailed(
                f"an integer may have at most {MAX_INTEGER_DIGITS:,} digits: send a longer one as a string"
            )
        number = int(digits)
        if not -(2**63) <= number < 2**64:
            if not self.long_digits and STRING.sub(b"", self._text).count(b",") >= MAX_VALUES_BESIDE:
                raise ValidationFailed(
                    f"a body with an integer above 64 bits may have at most {MAX_VALUES_BESIDE:,} values: send the integer as a string"
                )
            self.long_digits += length
            if self.long_digits > MAX_LONG_DIGITS:
                raise ValidationFailed(
                    f"the integers above 64 bits have more than {MAX_LONG_DIGITS:,} digits in total: send them as strings"
                )
        return number


def _nothing(digits: str) -> None:
    del digits


def _is_deep(value: object) -> bool:
    """Whether `value` is nested too deeply. It is checked level by level, because a recursive check would overflow."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in children(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def children(value: object) -> Collection[object]:
    """Return the values of an object or array. Anything else has none."""
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def read_query(request: Request[Any], model: type[BaseModel]) -> Any:
    """Return the query parameters as `model`. A repeated parameter is a list, and NUL becomes U+FFFD as in a body."""
    parameters = request.query_params
    fields: dict[str, object] = {}
    for name in parameters:
        values = [value.replace("\0", "\N{REPLACEMENT CHARACTER}") for value in parameters.getlist(name)]
        fields[name] = values if len(values) > 1 else values[0]
    return validate(model, fields)


@functools.cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def validate(model: Any, value: object) -> Any:
    """Return `value` as `model`. Raise ValidationFailed with the place of each error."""
    try:
        return _adapter(model).validate_python(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        errors = [
            {"loc": [_part(part) for part in item["loc"]], "msg": item["msg"], "type": item["type"]} for item in details
        ]
        lines = [f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in errors]
        raise ValidationFailed("\n".join(lines), errors=errors) from None


def _part(part: int | str) -> int | str:
    """Return a part of an error's place, shortened because it may be a long key of the client."""
    return part[:200] if isinstance(part, str) else part
