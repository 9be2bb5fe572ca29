"""Item values: stores values that are not plain JSON, as JSON for searches and clients, and in an exact encoding.

The exact encoding has a key of its own in the same column, so LangGraph's store can still read the row. Plain values do
not need it.
"""

import json as stdlib
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson
import ormsgpack

from threadkeep.base import json
from threadkeep.base.json import RawJson
from threadkeep.base.problems import InvalidRequest
from threadkeep.persistence.encoding import TEXT_KEYS
from threadkeep.persistence.serializer import Serializer

KEY: Final = "__threadkeep_written__"
MARK: Final = f'"{KEY}"'.encode()
LARGE_FLOAT: Final = re.compile(rb"\de\+\d")
"""A float with a positive exponent, as orjson writes it."""


def stored(value: Mapping[str, Any], serializer: Serializer) -> dict[str, Any]:
    """The value for its row: unchanged if it is plain JSON, else as JSON together with its exact encoding.

    NotKept if it can't be encoded. InvalidRequest if it has the reserved key, because that payload would be trusted.
    """
    item_value = dict(value)
    if KEY in item_value:
        raise InvalidRequest(f"the key {KEY!r} is reserved")
    if is_plain(item_value):
        return item_value
    return {**json.loads(json.dumps(item_value)), KEY: b64encode(serializer.dumps_typed(item_value)[1]).decode()}


def read(value: dict[str, Any], serializer: Serializer) -> dict[str, Any]:
    """The original value of a row."""
    if KEY not in value:
        return value
    try:
        return serializer.loads_typed(("msgpack", b64decode(value[KEY])))
    except (TypeError, ValueError):  # a row may hold anything
        return without_written(value)


def without_written(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value of a row as plain JSON, which is indexed."""
    return {key: part for key, part in value.items() if key != KEY}


def shown(raw: bytes | str) -> RawJson:
    """The JSON of a row's value for clients."""
    json_value = RawJson(raw)
    if MARK not in json_value.raw:
        return json_value
    return RawJson(json.dumps(without_written(cast("dict[str, Any]", json_value.load()))))


def is_plain(value: object) -> bool:
    """Whether jsonb returns the value unchanged.

    It does for strings without NUL, integers of 64 bits, floats below 1e16, lists, and objects with string keys.
    """
    try:
        ormsgpack.packb(value, option=TEXT_KEYS)
        encoded = orjson.dumps(value)
        if b"null" in encoded:  # orjson writes it for infinity too
            stdlib.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    # Of 1e16 and above, jsonb returns the digits, which are read as an integer, often of another value.
    if b"e+" in encoded and LARGE_FLOAT.search(encoded):  # the first search is much faster
        return False
    return json.NUL_ESCAPE not in encoded
