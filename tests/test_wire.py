"""Wire: from Python to JSON."""

from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import attrs
import orjson

from threadkeep.base import json


def test_one_value_that_is_hard_to_say_does_not_change_how_others_are_said() -> None:
    """Protocol: timestamps are RFC 3339 beside an integer of more than 64 bits too."""
    row = {"at": datetime(2026, 11, 23, 12, 30, tzinfo=UTC), "id": UUID(int=7), "few": [1.5, None, True]}

    easy = orjson.loads(json.dumps(row))
    hard = orjson.loads(json.dumps(row | {"many": 2**70}))

    assert easy["at"] == "2026-11-23T12:30:00+00:00"
    assert {name: hard[name] for name in row} == easy


class Word(StrEnum):
    YES = "yes"


def test_a_key_that_is_hard_to_say_does_not_change_how_others_are_said() -> None:
    """Ours: beside a key that is a tuple, an enum is its value too, and null is null."""
    row = {Word.YES: 1, None: 2, True: 3, 1.5: 4, 5: 6}

    assert orjson.loads(json.dumps(row | {(1, 2): 7})) == orjson.loads(json.dumps(row)) | {"(1, 2)": 7}


def test_surrogates_are_one_character_in_pairs_and_replaced_alone() -> None:
    """Ours: no UTF-8 holds them, and a model may stream one half of a character."""
    assert orjson.loads(json.dumps(["a\ud83d\ude00", "\ud83d", "b\ude00\u0000"])) == [
        "a\N{GRINNING FACE}",
        "\N{REPLACEMENT CHARACTER}",
        "b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}",
    ]


def test_a_class_that_attrs_made_is_an_object_of_its_fields() -> None:
    """Ours: as a dataclass is."""
    priced = attrs.make_class("Priced", ["name", "amounts"])

    assert orjson.loads(json.dumps(priced("pen", {1}))) == {"name": "pen", "amounts": [1]}
