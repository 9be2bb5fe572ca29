"""Graphs that fill a state with values of every kind, stop to ask, and then look whether all is as it was."""

import datetime as dt
import re
from collections import defaultdict, deque
from decimal import Decimal
from typing import Any
from uuid import UUID

import kinds
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt
from pydantic import BaseModel, HttpUrl
from typing_extensions import TypedDict

BIG = 2**70


def values() -> dict[str, Any]:
    """Of every kind, by name."""
    box = kinds.Box(kinds.Colour.RED, (3, 4))
    return {
        "amount": Decimal("1.10"),
        "id": UUID(int=7),
        "url": HttpUrl("https://example.com/a"),
        "range": range(3),
        "complex": 1 + 2j,
        "span": dt.timedelta(hours=26),
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "deque": deque([1]),
        "counts": defaultdict(int, a=1),
        "pair": (1, (2, 3)),
        "big": BIG,
        "box": box,
        "colour": kinds.Colour.RED,
        "level": kinds.Level.LOW,
        "point": kinds.Point(1, box),
        "answer": kinds.Answer(city="Rome", box=box),
        "inner": kinds.Outer.Inner(1),
        "by_id": {UUID(int=7): box, (1, 2): 3},
        "clock": dt.time(1, 2, tzinfo=dt.UTC),
        "money": kinds.Money("1.50"),
        "old": kinds.Old(city="Rome", box=kinds.Old(city="Oslo")),
        "pattern": re.compile("a+"),
        "send": Send("node", {"set": {1}}),
    }


class State(TypedDict, total=False):
    held: Any
    amount: Any
    level: Any
    big: int
    same: dict[str, bool]
    told: Any


def _same(found: dict[str, Any]) -> dict[str, bool]:
    wanted = values()
    return {name: found[name] == wanted[name] and type(found[name]) is type(wanted[name]) for name in wanted}


async def fill(state: State) -> State:
    return {"held": values(), "amount": Decimal("1.10"), "level": kinds.Level.LOW, "big": BIG}


async def ask(state: State) -> State:
    return {"told": interrupt({"ask": kinds.Answer(city="Rome"), "big": BIG})}


async def look(state: State) -> State:
    channels = {name: type(state[name]).__name__ for name in ("amount", "level", "big")}
    return {"same": _same(state["held"]), "told": channels}


async def keep(state: State) -> State:
    store = get_store()
    await store.aput(("values",), "all", values())
    await store.aput(("values",), "plain", {"n": 1})
    found = await store.aget(("values",), "all")
    listed = await store.asearch(("values",), filter={"amount": Decimal("1.10")})
    return {"same": _same(found.value) | {"found": [item.key for item in listed] == ["all"]}}


async def recall(state: State) -> State:
    found = await get_store().aget(("values",), "all")
    return {"same": _same(found.value)}


async def hold(state: State) -> State:
    return {"told": "before"}


async def hold_more(state: State) -> State:
    return {"held": {"deep": [object()]}}


async def tell(state: State) -> State:
    known: dict[str, Any] = {"name": "a child knows its parent", "child": {}}
    known["child"]["parent"] = known
    get_stream_writer()(known)
    return {"told": "all"}


class Checked(BaseModel):
    """A state that refuses what is no number."""

    count: int = 0


async def count(state: Checked) -> dict[str, Any]:
    return {"count": state.count + 1}


async def spoil(state: Checked) -> dict[str, Any]:
    return {"count": "many"}


def _chain(state: Any, *nodes: Any) -> Any:
    return StateGraph(state).add_sequence(nodes).add_edge(START, nodes[0].__name__)


filling = _chain(State, fill, ask, look)
keeping = _chain(State, keep)
recalling = _chain(State, recall)
holding = _chain(State, hold, hold_more)
telling = _chain(State, tell)
checked = _chain(Checked, count)
spoiling = _chain(Checked, spoil, count)
