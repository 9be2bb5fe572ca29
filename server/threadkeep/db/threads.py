"""Threads: what a client sees of a conversation, beside its checkpoints.

Every statement on `threads` alone is here; those that move a run and its thread together are in `runs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.db import rows
from threadkeep.db.filters import Filters
from threadkeep.db.pool import Conn
from threadkeep.wire import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A row of `threads`; its field names are the protocol's, so that it is also the JSON a client gets."""

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: Json
    status: str
    config: Json
    values: Json | None
    """The state after the last run; None before the first."""
    interrupts: Json
    """What waits for an answer: task id -> list of `{id, value}`."""
    error: Json | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ttl:
    """When a thread goes: `minutes` after it was last touched, by `strategy`."""

    strategy: str
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing, and how many there are in all."""

    items: list[Thread]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for among threads. None: any."""

    ids: Sequence[UUID] | None = None
    metadata: Mapping[str, Any] | None = None
    values: Mapping[str, Any] | None = None
    status: str | None = None

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "ids": None if self.ids is None else list(self.ids),
            "metadata": Jsonb(self.metadata or {}),
            "values": None if self.values is None else Jsonb(self.values),
            "status": self.status,
        }


ORDERS: Final[Mapping[tuple[str, str], LiteralString]] = {
    ("thread_id", "asc"): "thread_id ASC",
    ("thread_id", "desc"): "thread_id DESC",
    ("status", "asc"): "status ASC, thread_id ASC",
    ("status", "desc"): "status DESC, thread_id DESC",
    ("created_at", "asc"): "created_at ASC, thread_id ASC",
    ("created_at", "desc"): "created_at DESC, thread_id DESC",
    ("updated_at", "asc"): "updated_at ASC, thread_id ASC",
    ("updated_at", "desc"): "updated_at DESC, thread_id DESC",
    ("state_updated_at", "asc"): "state_updated_at ASC, thread_id ASC",
    ("state_updated_at", "desc"): "state_updated_at DESC, thread_id DESC",
}
"""(sort_by, sort_order) -> ORDER BY; the id behind it makes pages stable."""


async def create(conn: Conn, thread_id: UUID, metadata: Mapping[str, Any], ttl: Ttl | None = None) -> Thread | None:
    """Make a thread; None where the id is taken, by whomever."""
    cursor = conn.cursor(row_factory=rows.of(Thread))
    await cursor.execute(
        """
        INSERT INTO threads (thread_id, metadata, ttl_strategy, ttl_minutes)
        VALUES (%(thread_id)s, %(metadata)s, %(strategy)s, %(minutes)s)
        ON CONFLICT (thread_id) DO NOTHING
        RETURNING *
        """,
        {
            "thread_id": thread_id,
            "metadata": Jsonb(metadata),
            "strategy": ttl.strategy if ttl else None,
            "minutes": ttl.minutes if ttl else None,
        },
    )
    return await cursor.fetchone()


async def get(conn: Conn, filters: Filters, thread_id: UUID) -> Thread | None:
    """The thread, or None where there is none of the caller's."""
    cursor = conn.cursor(row_factory=rows.of(Thread))
    await cursor.execute(
        "SELECT * FROM threads WHERE thread_id = %(thread_id)s AND metadata @> %(match)s",
        {"thread_id": thread_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_ttl(conn: Conn, filters: Filters, thread_id: UUID) -> tuple[Ttl, datetime] | None:
    """What the thread's time to live is and when it ends, or None where it has none."""
    cursor = await conn.execute(
        """
        SELECT ttl_strategy, ttl_minutes, updated_at + make_interval(secs => ttl_minutes * 60)
          FROM threads
         WHERE thread_id = %(thread_id)s AND metadata @> %(match)s AND ttl_minutes IS NOT NULL
        """,
        {"thread_id": thread_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return (Ttl(strategy=row[0], minutes=row[1]), row[2]) if row else None


async def update(
    conn: Conn, filters: Filters, thread_id: UUID, metadata: Mapping[str, Any], ttl: Ttl | None = None
) -> Thread | None:
    """Merge `metadata` into the thread's; a `ttl` replaces its own. None where there is none of the caller's."""
    cursor = conn.cursor(row_factory=rows.of(Thread))
    await cursor.execute(
        """
        UPDATE threads
           SET metadata     = metadata || %(metadata)s,
               ttl_strategy = coalesce(%(strategy)s, ttl_strategy),
               ttl_minutes  = coalesce(%(minutes)s, ttl_minutes),
               updated_at   = now()
         WHERE thread_id = %(thread_id)s AND metadata @> %(match)s
        RETURNING *
        """,
        {
            "thread_id": thread_id,
            "metadata": Jsonb(metadata),
            "strategy": ttl.strategy if ttl else None,
            "minutes": ttl.minutes if ttl else None,
            "match": filters.jsonb,
        },
    )
    return await cursor.fetchone()


async def delete(conn: Conn, filters: Filters, thread_ids: Sequence[UUID]) -> list[UUID]:
    """Delete threads with their runs, events and checkpoints, all or nothing; which of them there were."""
    cursor = await conn.execute(
        """
        WITH gone AS (
            DELETE FROM threads
             WHERE thread_id = ANY(%(thread_ids)s) AND metadata @> %(match)s
            RETURNING thread_id
        ), checkpoints_gone AS (
            DELETE FROM checkpoints WHERE thread_id IN (SELECT thread_id::text FROM gone)
        ), blobs_gone AS (
            DELETE FROM checkpoint_blobs WHERE thread_id IN (SELECT thread_id::text FROM gone)
        ), writes_gone AS (
            DELETE FROM checkpoint_writes WHERE thread_id IN (SELECT thread_id::text FROM gone)
        )
        SELECT thread_id FROM gone
        """,
        {"thread_ids": list(thread_ids), "match": filters.jsonb},
    )
    return [row[0] for row in await cursor.fetchall()]


async def search(
    conn: Conn, filters: Filters, wanted: Search, *, order: tuple[str, str], limit: int, offset: int
) -> Page:
    """Threads that match, in `order` (a key of `ORDERS`), and the number of all that match."""
    matching = await count(conn, filters, wanted)
    cursor = conn.cursor(row_factory=rows.of(Thread))
    query = sql.SQL(
        """
        SELECT *
          FROM threads
         WHERE metadata @> %(match)s
           AND metadata @> %(metadata)s
           AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s))
           AND (%(values)s::jsonb IS NULL OR "values" @> %(values)s)
           AND (%(status)s::text IS NULL OR status = %(status)s)
         ORDER BY {order}
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(order=sql.SQL(ORDERS[order]))
    await cursor.execute(query, wanted.parameters | {"match": filters.jsonb, "limit": limit, "offset": offset})
    return Page(items=await cursor.fetchall(), total=matching)


async def count(conn: Conn, filters: Filters, wanted: Search) -> int:
    """How many threads match."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM threads
         WHERE metadata @> %(match)s
           AND metadata @> %(metadata)s
           AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s))
           AND (%(values)s::jsonb IS NULL OR "values" @> %(values)s)
           AND (%(status)s::text IS NULL OR status = %(status)s)
        """,
        wanted.parameters | {"match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0
