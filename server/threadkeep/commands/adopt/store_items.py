"""Store items: takes over the items of another store, below the owner's store prefix if owners have one.

An item that exists here is never overwritten. If the project's store has an index, the vectors are computed anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import psycopg
from langgraph.store.base import PutOp

from threadkeep.auth.ownership import DIGEST_LABEL, LABEL
from threadkeep.base import json
from threadkeep.commands.adopt import postgres_source
from threadkeep.commands.adopt.postgres_source import SourceConn
from threadkeep.commands.adopt.target import LeftOut, Target
from threadkeep.persistence.item_values import KEY
from threadkeep.postgres.pool import Conn
from threadkeep.progress import Step

PAGE: Final = 50
"""Items that are read and written together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceItem:
    """An item at the source."""

    namespace: tuple[str, ...]
    key: str
    value: str
    """JSON as text, so that no number changes."""
    owner: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    ttl_minutes: int | None = None

    @property
    def name(self) -> str:
        """The item in words."""
        return "/".join((*self.namespace, self.key))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PlacedItem:
    """An item and its place here."""

    source: SourceItem
    labels: tuple[str, ...]
    principal: str | None
    """The identity that it counts for."""

    @property
    def place(self) -> tuple[str, str]:
        """The prefix and the key, by which there is one item."""
        return ".".join(self.labels), self.source.key


async def adopt_items(target: Target, items: Sequence[SourceItem]) -> None:
    """Take over items with their vectors, and report the result."""
    placed = _placed(target, items)
    while placed:
        # Two namespaces of the source may be one here. The first item of a place decides.
        firsts: dict[tuple[str, str], _PlacedItem] = {}
        for item in placed:
            firsts.setdefault(item.place, item)
        await _adopt_distinct(target, list(firsts.values()))
        placed = [item for item in placed if firsts[item.place] is not item]


async def _adopt_distinct(target: Target, items: Sequence[_PlacedItem]) -> None:
    """Take over items of different places in one transaction."""
    while True:
        states = await _states(target, items)
        new = [item for item in items if item not in states]
        if target.options.dry_run or await _insert_all(target, new):
            break  # else a client has just created one of them
    report = target.report
    report.taken["store items"] += len(new)
    for item, is_same in states.items():
        if is_same:
            report.here["store items"] += 1
        else:
            report.skip("store items", item.source.name, "an item with this key exists here with another value")


def _placed(target: Target, items: Sequence[SourceItem]) -> list[_PlacedItem]:
    """The items that have an owner if they need one, in the order in which clients put theirs."""
    placed: list[_PlacedItem] = []
    for item in items:
        try:
            owner = target.owner_of(item.owner)
        except LeftOut as reason:
            target.report.skip("store items", item.name, str(reason))
            continue
        space = target.store_prefix(owner)
        labels = (*filter(None, [space]), *item.namespace)
        placed.append(_PlacedItem(source=item, labels=labels, principal=owner if space else None))
    return sorted(placed, key=lambda item: (item.labels, item.source.key))


async def _states(target: Target, items: Sequence[_PlacedItem]) -> dict[_PlacedItem, bool]:
    """The items whose key exists here, and whether the value here is the same."""
    if target.is_empty:
        return {}
    async with target.pool.connection() as conn:
        states = {item: await _state(conn, item) for item in items}
    return {item: is_same for item, is_same in states.items() if is_same is not None}


async def _state(conn: Conn, item: _PlacedItem) -> bool | None:
    """Whether the item here has the same value. None: there is none."""
    cursor = await conn.execute(
        """
        SELECT value - %(exact_key)s::text = %(value)s::jsonb
          FROM store
         WHERE prefix = %(prefix)s AND key = %(key)s
        """,
        {"prefix": item.place[0], "key": item.source.key, "value": item.source.value, "exact_key": KEY},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def _insert_all(target: Target, items: Sequence[_PlacedItem]) -> bool:
    """Insert the items with their vectors. False if one of them exists by now, and then nothing is inserted.

    A vector belongs to one value. So the vector of an item must not meet a value that a client has put meanwhile.
    """
    puts = [PutOp(item.labels, item.source.key, json.loads(item.source.value)) for item in items]
    vectors = await target.store.vector_statement(puts)
    async with target.pool.connection() as conn, conn.transaction():
        for item in items:
            if not await _insert(conn, item):
                raise psycopg.Rollback
        if vectors is not None:
            await conn.execute(*vectors)
        return True
    return False


async def _insert(conn: Conn, item: _PlacedItem) -> bool:
    """Insert the item, which counts for its principal. False if it exists."""
    if item.principal is not None:
        await conn.execute("SELECT change_store_items(%(principal)s, NULL)", {"principal": item.principal})
    cursor = await conn.execute(
        """
        INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes, principal)
        VALUES (%(prefix)s, %(key)s, %(value)s::jsonb, coalesce(%(created_at)s, now()), coalesce(%(updated_at)s, now()),
                %(expires_at)s, %(ttl_minutes)s, %(principal)s)
        ON CONFLICT (prefix, key) DO NOTHING
        """,
        {
            "prefix": item.place[0],
            "key": item.source.key,
            "value": item.source.value,
            "created_at": item.source.created_at,
            "updated_at": item.source.updated_at,
            "expires_at": item.source.expires_at,
            "ttl_minutes": item.source.ttl_minutes,
            "principal": item.principal,
        },
    )
    return cursor.rowcount == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The owner of an item at the source, and its namespace without the owner."""

    owner: str | None
    prefix: str
    """The labels with periods between them."""


PlaceOf: TypeAlias = Callable[[str], Place]
"""Finds the place of an item by its prefix at the source."""


def _unowned(prefix: str) -> Place:
    return Place(owner=None, prefix=prefix)


async def adopt_table(
    target: Target, source: SourceConn, step: Step, *, same: bool = False, place: PlaceOf = _unowned
) -> None:
    """Take over the table of LangGraph's PostgresStore. Nothing is to do if it is this server's own table (`same`)."""
    columns = await postgres_source.columns(source, "store")
    if not columns or (same and target.store_prefix(target.options.owner) is None):
        return
    if "ttl_minutes" not in columns:
        target.report.skip("store items", "all", "the table is of an older store: call its setup() first")
        return
    # A cursor of the server, because all items together may be larger than the memory.
    async with source.transaction(), source.cursor("adopted_items") as cursor:
        await cursor.execute(
            """
            SELECT prefix, key, (CASE jsonb_typeof(value) WHEN 'object' THEN value - %(exact_key)s::text ELSE value END)::text
                   AS value, created_at, updated_at, expires_at, ttl_minutes
              FROM store
             WHERE (expires_at IS NULL OR expires_at > now())
               AND NOT (%(same)s AND (starts_with(prefix, %(label)s) OR starts_with(prefix, %(digest_label)s)))
            """,
            {"same": same, "label": LABEL, "digest_label": DIGEST_LABEL, "exact_key": KEY},
        )
        while rows := await cursor.fetchmany(PAGE):
            await adopt_items(target, [_item(row, place) for row in rows])
            step(0, f"{target.report.taken['store items']:,} store items")


def _item(row: Mapping[str, Any], place: PlaceOf) -> SourceItem:
    fields = {name: value for name, value in row.items() if name != "prefix"}
    at = place(row["prefix"])
    return SourceItem(namespace=tuple(at.prefix.split(".")), owner=at.owner, **fields)
