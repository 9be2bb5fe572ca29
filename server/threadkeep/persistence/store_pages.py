"""Store pages: reads items for the API. Their values stay JSON text, and their bytes are bounded.

The statements are those of LangGraph's store. Graphs get decoded items from `Store` itself.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, LiteralString, cast

from langgraph.store.base import GetOp, SearchOp
from psycopg import AsyncCursor, sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from threadkeep.base.json import RawJson
from threadkeep.persistence import item_values
from threadkeep.persistence.store import Store
from threadkeep.postgres.bounded_page import SizedRow, bounded, sized
from threadkeep.postgres.pool import Conn


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """A row of `store`."""

    prefix: str
    """The namespace as labels joined by periods."""
    key: str
    value: RawJson
    created_at: datetime
    updated_at: datetime
    score: float | None = None
    """The similarity to the query of a search."""

    def namespace(self, space: str | None) -> list[str]:
        """The labels, without the store prefix."""
        # LangGraph allows no period in a label.
        labels = self.prefix.split(".")
        return labels if space is None else labels[1:]


async def get(store: Store, op: GetOp) -> StoredItem | None:
    """An item, or None. `refresh_ttl` restarts its time to live."""
    labelled = store.labelled(op)
    query, params = store.get_statement(labelled)
    async with _cursor(store) as cursor:
        await cursor.execute(query, params)
        row = await cursor.fetchone()
    return None if row is None else StoredItem(prefix=".".join(labelled.namespace), **row)


async def search(store: Store, op: SearchOp, answer_bytes: int) -> list[SizedRow[StoredItem]]:
    """A page of matching items with at most `answer_bytes` bytes, or only the first. `refresh_ttl` as in `get`."""
    # LangGraph's statement would also refresh items that the byte limit leaves out. `_refresh` does not.
    listing, params = _with_names(*await store.search_statement(store.labelled(op)._replace(refresh_ttl=False)))
    async with _cursor(store) as cursor:
        cursor.row_factory = sized(StoredItem)
        await cursor.execute(bounded(listing, "value"), params | {"answer_bytes": answer_bytes})
        items = await cursor.fetchall()
        if op.refresh_ttl and items:
            await _refresh(cast("Conn", cursor.connection), [item.row for item in items])
    return items


@asynccontextmanager
async def _cursor(store: Store) -> AsyncGenerator[AsyncCursor[Any]]:
    """A cursor that returns JSON as text."""
    async with store.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
        set_json_loads(item_values.shown, cursor)
        yield cursor


def _with_names(query: str, params: Sequence[object]) -> tuple[sql.Composable, dict[str, object]]:
    """A statement with named instead of positional parameters, so that it can be part of another one."""
    numbers = count()
    statement = re.sub("%s", lambda _: f"%(param_{next(numbers)})s", query)
    return sql.SQL(cast("LiteralString", statement)), {f"param_{number}": value for number, value in enumerate(params)}


async def _refresh(conn: Conn, items: Sequence[StoredItem]) -> None:
    await conn.execute(
        """
        UPDATE store
           SET expires_at = now() + make_interval(mins => ttl_minutes)
          FROM unnest(%(prefixes)s::text[], %(keys)s::text[]) AS read (prefix, key)
         WHERE store.prefix = read.prefix AND store.key = read.key AND ttl_minutes IS NOT NULL
        """,
        {"prefixes": [item.prefix for item in items], "keys": [item.key for item in items]},
    )
