"""Store items: takes over the items of another store, below the owner's store prefix if owners have one.

An item that exists here is never overwritten. If the project's store has an index, the vectors are computed anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

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


async def adopt_items(target: Target, items: Sequence[SourceItem]) -> None:
    """Take over items in one transaction, and report the result."""
    written: list[tuple[SourceItem, str]] = []
    async with target.pool.connection() as conn, conn.transaction():
        for item in items:
            try:
                owner = target.owner_of(item.owner)
            except LeftOut as reason:
                target.report.skip("store items", item.name, str(reason))
                continue
            labels = (*filter(None, [target.store_prefix(owner)]), *item.namespace)
            prefix = ".".join(labels)
            if await _adopt_item(target, conn, item, prefix, owner):
                written.append((item, prefix))
    if target.store.index_config is not None and not target.options.dry_run:
        await target.store.abatch([_put(item, prefix) for item, prefix in written])


def _put(item: SourceItem, prefix: str) -> PutOp:
    return PutOp(tuple(prefix.split(".")), item.key, json.loads(item.value))


async def _adopt_item(target: Target, conn: Conn, item: SourceItem, prefix: str, owner: str | None) -> bool:
    """Whether the item was new here."""
    state = None if target.is_empty else await _state(conn, item, prefix)
    if state == "same":
        target.report.here["store items"] += 1
        return False
    if state == "other":
        target.report.skip("store items", item.name, "an item with this key exists here with another value")
        return False
    if not target.options.dry_run:
        await _insert(conn, item, prefix, owner if target.store_prefix(owner) else None)
    target.report.taken["store items"] += 1
    return True


async def _state(conn: Conn, item: SourceItem, prefix: str) -> str | None:
    """Whether an item with this key has the `same` value here, or an `other` one. None: there is none."""
    cursor = await conn.execute(
        """
        SELECT CASE WHEN value - %(exact_key)s::text = %(value)s::jsonb THEN 'same' ELSE 'other' END
          FROM store
         WHERE prefix = %(prefix)s AND key = %(key)s
        """,
        {"prefix": prefix, "key": item.key, "value": item.value, "exact_key": KEY},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def _insert(conn: Conn, item: SourceItem, prefix: str, principal: str | None) -> None:
    """Insert the item, unless a client has just created it. It counts for the principal."""
    if principal is not None:
        await conn.execute("SELECT change_store_items(%(principal)s, NULL)", {"principal": principal})
    await conn.execute(
        """
        INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes, principal)
        VALUES (%(prefix)s, %(key)s, %(value)s::jsonb, coalesce(%(created_at)s, now()), coalesce(%(updated_at)s, now()),
                %(expires_at)s, %(ttl_minutes)s, %(principal)s)
        ON CONFLICT (prefix, key) DO NOTHING
        """,
        {
            "prefix": prefix,
            "key": item.key,
            "value": item.value,
            "created_at": item.created_at,
            "updated_at": item.updated_at,
            "expires_at": item.expires_at,
            "ttl_minutes": item.ttl_minutes,
            "principal": principal,
        },
    )


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
