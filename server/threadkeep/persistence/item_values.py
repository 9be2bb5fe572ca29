"""Values of store items that are no plain JSON: kept as JSON, by which they are found and shown, and beside it as written.

The second stands under a key of its own in the same column, so that a row is still the stock store's. Plain values have
none, and cost nothing more.
"""

import json as stdlib
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


def stored(value: Mapping[str, Any], serializer: Serializer) -> dict[str, Any]:
    """A value for its row: itself if it is plain JSON, else as JSON shows it, and beside that as written.

    NotKept if it would not come back as it was, InvalidRequest if it has the reserved key: its payload would be trusted.
    """
    own = dict(value)
    if KEY in own:
        raise InvalidRequest(f"the key {KEY!r} is reserved")
    if is_plain(own):
        return own
    return {**json.loads(json.dumps(own)), KEY: b64encode(serializer.dumps_typed(own)[1]).decode()}


def read(value: dict[str, Any], serializer: Serializer) -> dict[str, Any]:
    """The value of a row, as it was put."""
    if KEY not in value:
        return value
    try:
        return serializer.loads_typed(("msgpack", b64decode(value[KEY])))
    except (TypeError, ValueError):  # a row may hold anything
        return without_written(value)


def without_written(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value of a row as JSON shows it, by which an item is indexed."""
    return {key: part for key, part in value.items() if key != KEY}


def shown(raw: bytes | str) -> RawJson:
    """The JSON of a row's value, as clients see it."""
    found = RawJson(raw)
    if MARK not in found.raw:
        return found
    return RawJson(json.dumps(without_written(cast("dict[str, Any]", found.load()))))


def is_plain(value: object) -> bool:
    """Whether jsonb holds the value as it is: texts without NUL, numbers of 64 bits, lists, and objects with texts as keys."""
    try:
        ormsgpack.packb(value, option=TEXT_KEYS)
        encoded = orjson.dumps(value)
        if b"null" in encoded:  # orjson writes it for infinity too
            stdlib.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return json.NUL_ESCAPE not in encoded
