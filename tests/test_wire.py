"""Wire: from Python to JSON."""

from datetime import UTC, datetime
from uuid import UUID

import orjson

from threadkeep.base import json


def test_one_value_that_is_hard_to_say_does_not_change_how_others_are_said() -> None:
    """Protocol: timestamps are RFC 3339 beside an integer of more than 64 bits too."""
    row = {"at": datetime(2026, 11, 23, 12, 30, tzinfo=UTC), "id": UUID(int=7), "few": [1.5, None, True]}

    easy = orjson.loads(json.dumps(row))
    hard = orjson.loads(json.dumps(row | {"many": 2**70}))

    assert easy["at"] == "2026-11-23T12:30:00+00:00"
    assert {name: hard[name] for name in row} == easy
