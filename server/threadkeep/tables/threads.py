"""Threads: the rows of `threads`. Checkpoints are in other tables.

Other modules search threads (`thread_search`), change a run and its thread together (`queue`), and find expired threads
(`thread_expiry`). All other statements on a thread's row are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A row of `threads`. Its field names are the protocol's, so it is also the client's JSON."""

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: RawJson
    status: str
    config: RawJson = field(default_factory=lambda: RawJson(b"{}"))
    """Always empty, so it is no column. The protocol has it."""
    values: RawJson | None
    """The state after the last run. None before the first."""
    interrupts: RawJson
    """The open interrupts: task id -> list of `{id, value}`."""
    error: RawJson | None
    title: str | None
    """`title` of its metadata, or else the beginning of its first human message. At most 120 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ttl:
    """The time to live of a thread: `strategy` applies `minutes` after its last update."""

    strategy: str
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewThread:
    """A thread to create."""

    thread_id: UUID
    metadata: Mapping[str, Any]
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSummary:
    """The columns of a thread's row for its newest checkpoint, if no run is active."""

    status: Literal["idle", "interrupted"]
    values: bytes
    """JSON."""
    interrupts: Mapping[str, Any]


async def create(conn: Conn, new: NewThread) -> Thread | None:
    """Create a thread. None if the id is already used by any tenant."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        INSERT INTO threads (thread_id, project_id, metadata, ttl_strategy, ttl_minutes)
        VALUES (%(thread_id)s, %(project)s, %(metadata)s, %(strategy)s, %(minutes)s)
        ON CONFLICT (thread_id) DO NOTHING
        RETURNING *
        """,
        {
            "project": conn.project_id,
            "thread_id": new.thread_id,
            "metadata": Jsonb(new.metadata),
            "strategy": new.ttl.strategy if new.ttl else None,
            "minutes": new.ttl.minutes if new.ttl else None,
        },
    )
    conn.note_change(new.thread_id)
    return await cursor.fetchone()


async def get(conn: Conn, filters: Filters, thread_id: UUID) -> Thread | None:
    """The thread, or None if the caller has no such thread."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        SELECT *
          FROM threads
         WHERE thread_id = %(thread_id)s
           AND project_id = %(project)s
           AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_without_values(conn: Conn, filters: Filters, thread_id: UUID) -> Thread | None:
    """The thread without its `values`, because they may be large. None as in `get`."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        SELECT thread_id, created_at, updated_at, state_updated_at, metadata, status, NULL AS "values", interrupts,
               error, title
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_bounded(conn: Conn, filters: Filters, thread_id: UUID, most_bytes: int) -> tuple[Thread, int] | None:
    """The thread and the bytes of its `values`. Values above `most_bytes` are None. None as in `get`."""
    cursor = await conn.execute(
        """
        SELECT thread_id, created_at, updated_at, state_updated_at, metadata, status, interrupts, error, title,
               CASE WHEN pg_column_size("values") <= %(most_bytes)s THEN "values" END AS "values", -- not read for it
               coalesce(pg_column_size("values"), 0) AS values_bytes
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb, "most_bytes": most_bytes},
    )
    row = await cursor.fetchone()
    return (rows.row_factory(Thread)(cursor)(row), row[-1]) if row else None


async def get_ttl(conn: Conn, filters: Filters, thread_id: UUID) -> tuple[Ttl, datetime] | None:
    """The thread's time to live and its end, or None if it has none."""
    cursor = await conn.execute(
        """
        SELECT ttl_strategy, ttl_minutes, updated_at + make_interval(secs => ttl_minutes * 60)
          FROM threads
         WHERE thread_id = %(thread_id)s
           AND project_id = %(project)s AND metadata @> %(match)s AND ttl_minutes IS NOT NULL
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return (Ttl(strategy=row[0], minutes=row[1]), row[2]) if row else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a thread's row."""

    metadata: Mapping[str, Any]
    """It is merged into the thread's metadata."""
    ttl: Ttl | None = None
    """It replaces the thread's time to live."""
    metadata_bytes: int
    """The most bytes in its metadata after the change."""


async def update(conn: Conn, filters: Filters, thread_id: UUID, change: Change) -> Thread | None:
    """Change the thread. None if the caller has no such thread, or its metadata would be too large.

    The owner does not change. If the thread would no longer match the caller's filters, the owner keys in `metadata` are
    ignored.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        UPDATE threads
           SET metadata     = CASE WHEN metadata || %(metadata)s @> %(match)s THEN metadata || %(metadata)s
                                   ELSE metadata || (%(metadata)s::jsonb - %(reserved)s::text[]) END,
               ttl_strategy = coalesce(%(strategy)s, ttl_strategy),
               ttl_minutes  = coalesce(%(minutes)s, ttl_minutes),
               updated_at   = now()
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
           AND (%(metadata)s::jsonb = '{}' -- the limit may have been lowered since
                OR octet_length((metadata || %(metadata)s)::text) <= %(metadata_bytes)s)
        RETURNING *
        """,
        {
            "thread_id": thread_id,
            "metadata": Jsonb(change.metadata),
            "metadata_bytes": change.metadata_bytes,
            "strategy": change.ttl.strategy if change.ttl else None,
            "minutes": change.ttl.minutes if change.ttl else None,
            "project": conn.project_id,
            "match": filters.jsonb,
            # A change of the owner is left out, and the rest of the change applies.
            "reserved": filters.owner_keys,
        },
    )
    conn.note_change(thread_id)
    return await cursor.fetchone()


async def delete(
    conn: Conn, filters: Filters, thread_ids: Sequence[UUID], *, of_assistant: UUID | None = None
) -> list[UUID]:
    """Delete the caller's threads among `thread_ids` with all their rows, and return their ids.

    `of_assistant` skips threads whose last run was another assistant's, checked after the row is locked. The processes that
    execute their runs get a notification, and later writes of these runs are refused.
    """
    match = (
        filters.metadata_filter
        if of_assistant is None
        # Each run writes its assistant into the metadata of its thread.
        else {**filters.metadata_filter, "assistant_id": str(of_assistant)}
    )
    # Read before the deletion, because a stream decides by the metadata whose thread it was.
    owners = dict[UUID, str]() if conn.changes is None else await _metadata(conn, filters, thread_ids)
    cursor = await conn.execute(
        "SELECT delete_threads(of_project => %(project)s, thread_ids => %(thread_ids)s::uuid[], match => %(match)s)",
        {"project": conn.project_id, "thread_ids": list(thread_ids), "match": Jsonb(match)},
    )
    deleted = [row[0] for row in await cursor.fetchall()]
    for thread_id in deleted:
        if thread_id in owners:  # an ephemeral thread is in no list, so its deletion is no news
            conn.note_change(thread_id, deleted_metadata=owners[thread_id])
    return deleted


async def _metadata(conn: Conn, filters: Filters, thread_ids: Sequence[UUID]) -> Mapping[UUID, str]:
    """The metadata of threads that a search may find, as JSON. Ephemeral threads are not among them."""
    cursor = await conn.execute(
        """
        SELECT thread_id, metadata::text
          FROM threads
         WHERE thread_id = ANY(%(thread_ids)s) AND project_id = %(project)s AND metadata @> %(match)s
           AND ephemeral_until IS NULL
        """,
        {"thread_ids": list(thread_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def delete_without_runs(conn: Conn, filters: Filters, thread_id: UUID, mark: Mapping[str, Any]) -> bool:
    """Delete the thread if it has no run and its metadata contains `mark`. Whether it was deleted."""
    async with conn.transaction():
        cursor = await conn.execute(
            """
            SELECT
              FROM threads
             WHERE thread_id = %(thread_id)s AND project_id = %(project)s
               AND metadata @> %(match)s AND metadata @> %(mark)s
               FOR NO KEY UPDATE
            """,
            {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb, "mark": Jsonb(mark)},
        )
        if await cursor.fetchone() is None:
            return False
        cursor = await conn.execute(
            # A statement after the lock, which also sees a run that was created during the wait for it.
            "SELECT FROM runs WHERE thread_id = %(thread_id)s LIMIT 1",
            {"thread_id": thread_id},
        )
        if await cursor.fetchone() is not None:
            return False
        return bool(await delete(conn, filters, [thread_id]))


async def update_summary(conn: Conn, thread_id: UUID, summary: ThreadSummary) -> Thread | None:
    """Update the row from the newest checkpoint. The status stays `busy` if a delayed run is pending."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        UPDATE threads
           SET status = CASE WHEN EXISTS (SELECT FROM runs
                                           WHERE runs.thread_id = threads.thread_id
                                             AND runs.status IN ('pending', 'running'))
                             THEN 'busy' ELSE %(status)s END,
               "values" = %(values)s::json, interrupts = %(interrupts)s, error = NULL,
               first_message = coalesce(first_message, first_human_message_of_text(%(values)s::json)),
               updated_at = now(), state_updated_at = now()
         WHERE thread_id = %(thread_id)s
        RETURNING *
        """,
        {
            "thread_id": thread_id,
            "status": summary.status,
            "values": summary.values.decode(),  # psycopg would send bytes as bytea
            "interrupts": Jsonb(summary.interrupts),
        },
    )
    conn.note_change(thread_id)
    return await cursor.fetchone()


async def active_run_id(conn: Conn, thread_id: UUID) -> UUID | None:
    """The running or due run of a locked thread, or None. The result is valid until the lock is released.

    It is a separate statement after the lock and does not use now(), because the lock may have taken time.
    """
    cursor = await conn.execute(
        """
        SELECT run_id
          FROM runs
         WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running') AND run_after <= clock_timestamp()
         ORDER BY queue_position
         LIMIT 1
        """,
        {"thread_id": thread_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def lock(conn: Conn, filters: Filters, thread_id: UUID, *, within_s: float) -> bool:
    """Lock the thread until the transaction ends. The caller may take `within_s` seconds between statements.

    No run of the thread starts, ends or is created meanwhile. False if the caller has no such thread.
    """
    cursor = await conn.execute(
        """
        SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true) -- no round trip of its own
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
           FOR NO KEY UPDATE
        """,
        {
            "thread_id": thread_id,
            "project": conn.project_id,
            "match": filters.jsonb,
            "idle_ms": str(round(within_s * 1000)),
        },
    )
    return await cursor.fetchone() is not None


async def lock_idle(conn: Conn, filters: Filters, thread_ids: Sequence[UUID]) -> list[UUID]:
    """Lock the caller's threads among `thread_ids` that have no running or pending run, and return their ids.

    The condition uses `status` and not `runs`, because Postgres checks the row again after it locks it.
    """
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE thread_id = ANY(%(thread_ids)s)
           AND project_id = %(project)s AND metadata @> %(match)s AND status <> 'busy'
         ORDER BY thread_id -- all transactions lock threads in this order, so none wait in a circle
           FOR NO KEY UPDATE
        """,
        {"thread_ids": list(thread_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return [row[0] for row in await cursor.fetchall()]


async def other_projects(conn: Conn) -> list[str]:
    """Up to ten other projects that have threads, if this one has none. Else an empty list.

    Each `min` is one index lookup, independent of the number of threads.
    """
    cursor = await conn.execute(
        """
        WITH RECURSIVE project AS (
            (SELECT min(project_id) AS name FROM threads)
            UNION ALL
            SELECT (SELECT min(project_id) FROM threads WHERE project_id > project.name)
              FROM project
             WHERE project.name IS NOT NULL
        )
        SELECT name
          FROM project
         WHERE name IS NOT NULL
           AND (SELECT min(project_id) FROM threads WHERE project_id >= %(project)s) IS DISTINCT FROM %(project)s::text
         LIMIT 10
        """,
        {"project": conn.project_id},
    )
    return [row[0] for row in await cursor.fetchall()]
