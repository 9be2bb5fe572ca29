"""Wire: from Python to JSON."""

import json as stdlib
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from enum import StrEnum
from typing import Any
from uuid import UUID

import anyio.lowlevel
import attrs
import numpy as np
import orjson
import pandas as pd
import pytest
from langchain_core.messages import HumanMessage

from threadkeep.base import json

LARGE: dict[str, Any] = {
    "many": {"items": list(range(5000)), "few": []},
    "long": {"items": ["a" * 200_000, "b", "c" * 200_000], "empty": {}, "none": None},
    "messages": {"messages": [HumanMessage("d" * 200_000, id="1"), HumanMessage("e\u0000", id="2")]},
    "nested": {"deep": {"er": {"list": [["f" * 200_000]]}}, "last": ["g" * 200_000]},
    "alone": ["h" * 200_000],
    "text": "i" * 200_000,
    "keys": {1: ["j" * 200_000], (2, 3): "k"},
    "integers": {"items": [2**70] * 3000},
    "small": {"items": [1, 2, 3]},
    "long text": {
        "a": "\u00e4\u0000\\\n" * 300_000,
        "b": "m" * 499_999 + "\ud83d\ude00" + "n" * 9,
        "c": "\ud83d" * 600_000,
    },
    "message objects": {"messages": [{"role": "user", "content": "o" * 1_200_000, "p": None}, {"q": 1}] * 2},
    "message parts": {"messages": [HumanMessage([{"type": "text", "text": "r" * 1_200_000}], id="1")]},
}


def _itself() -> list[Any]:
    endless: list[Any] = ["l" * 200_000]
    endless.append(endless)
    return endless


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
        "?",
        "b?\N{REPLACEMENT CHARACTER}",
    ]


def test_a_class_that_attrs_made_is_an_object_of_its_fields() -> None:
    """Ours: as a dataclass is."""
    priced = attrs.make_class("Priced", ["name", "amounts"])

    assert orjson.loads(json.dumps(priced("pen", {1}))) == {"name": "pen", "amounts": [1]}


class Raising:
    """One whose text can't be told."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.datetime64("NaT"), None),
        (np.array(["NaT", "2026-01-02"], dtype="M8[D]"), [None, "2026-01-02"]),
        (np.array([["NaT", 5]], dtype="m8[s]"), [[None, "5 seconds"]]),
        (np.array([2**70, np.datetime64("NaT")], dtype=object), [2**70, None]),
        (np.array(5), 5),
        ([np.float32(0.1), np.int8(1), np.bool_(True)], [0.1, 1, True]),
        (np.array([0.1, np.nan], dtype="f4"), [0.1, None]),
        (np.ma.array([1, 2], mask=[False, True]), [1, None]),
        ({np.int64(1): np.array([1], dtype=">i4")}, {"1": [1]}),
        (time(1, 2, tzinfo=UTC), "01:02:00+00:00"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(minutes=5), "odd")), "2026-01-02T00:00:00+00:05"),
        (Raising(), f"<{__name__}.Raising>"),
        ({"a": Raising(), "b": 2**70}, {"a": f"<{__name__}.Raising>", "b": 2**70}),
    ],
)
def test_every_value_has_a_form(value: Any, shown: Any) -> None:
    """Ours: a run whose result can't be written never ends, so nothing but a value without an end is refused."""
    assert stdlib.loads(json.dumps(value)) == shown


@pytest.mark.parametrize("name", LARGE)
async def test_pieces_of_a_large_value_make_the_same_json(name: str) -> None:
    """Ours: a state of 60 MB would hold up all other requests while it is encoded as a whole."""
    assert await json.dumps_in_pieces(LARGE[name]) == json.dumps(LARGE[name])


@pytest.mark.parametrize(
    "value",
    [
        {"items": list(range(5000))},
        {"text": "s" * 20_000_000},
        {"messages": [HumanMessage("t" * 20_000_000)]},
        {"messages": [HumanMessage([{"type": "text", "text": "t" * 20_000_000}])]},
        {"messages": [{"role": "user", "content": "u" * 20_000_000}]},
    ],
    ids=["items", "text", "message", "message part", "message object"],
)
async def test_other_tasks_run_between_the_pieces(value: dict[str, Any]) -> None:
    """Ours: they get their turn again and again."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await json.dumps_in_pieces(value)
        tasks.cancel_scope.cancel()

    assert turns >= 40


class Endless(dict[str, Any]):
    """One whose items can't be told."""

    def items(self) -> Any:
        raise RuntimeError


@dataclass
class Parent:
    """One whose child knows it."""

    name: str
    amounts: Any
    child: Any = None


def test_an_event_that_has_no_end_is_shortened() -> None:
    """Ours: a run must not fail because somebody watches."""
    parent, deep = Parent("p", np.array([1, 2])), [1]
    parent.child = {"parent": parent, "level": Word.YES, "many": 2**70}
    for _ in range(600):
        deep = [deep]

    child = {"parent": f"<{__name__}.Parent>", "level": "yes", "many": 2**70}
    assert json.loads(json.dumps_shortened([parent])) == [{"name": "p", "amounts": [1, 2], "child": child}]
    assert json.loads(json.dumps_shortened(_itself())) == ["l" * 200_000, "<builtins.list>"]
    assert json.dumps_shortened(deep) == b"[" * 20 + b'"<builtins.list>"' + b"]" * 20
    assert json.dumps_shortened({"a": {1, 2}}) == json.dumps({"a": {1, 2}})
    table = {"index": [0], "columns": ["dtype"], "data": [[1]]}
    assert json.loads(json.dumps_shortened([deep, pd.DataFrame({"dtype": [1]})]))[1] == table
    assert json.dumps_shortened([deep, Endless()]) == b'"<builtins.list>"'


async def test_a_value_that_contains_itself_is_refused_in_pieces_too() -> None:
    """Ours: it has no end."""
    with pytest.raises(json.Unserializable):
        await json.dumps_in_pieces({"items": _itself()})
