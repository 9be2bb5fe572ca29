"""Threads: what a client sees of a conversation, beside its checkpoints.

Every statement on a thread's row is here, but those that look for threads (`thread_search`), those that move a run and
its thread together (`queue`), and those that look for threads whose time is over (`thread_expiry`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """A row of `threads`; its field names are the protocol's, so that it is also the JSON a client gets."""

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: RawJson
    status: str
    config: RawJson
    values: RawJson | None
    """The state after the last run; None before the first."""
    interrupts: RawJson
    """What waits for an answer: task id -> list of `{id, value}`."""
    error: RawJson | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ttl:
    """When a thread goes: `minutes` after it was last touched, by `strategy`."""

    strategy: str
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewThread:
    """A thread to be made."""

    thread_id: UUID
    metadata: Mapping[str, Any]
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSummary:
    """What a thread's row says of its newest checkpoint while no run goes on."""

    status: Literal["idle", "interrupted"]
    values: bytes
    """JSON."""
    interrupts: Mapping[str, Any]


async def create(conn: Conn, new: NewThread) -> Thread | None:
    """Make a thread; None where the id is taken, by whomever."""
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
    return await cursor.fetchone()


async def get(conn: Conn, filters: Filters, thread_id: UUID) -> Thread | None:
    """The thread, or None where there is none of the caller's."""
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
    """The thread with its `values`, which may be large, left where they are. None as `get`."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        SELECT thread_id, created_at, updated_at, state_updated_at, metadata, status, config, NULL AS "values", interrupts,
               error
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_bounded(conn: Conn, filters: Filters, thread_id: UUID, most_bytes: int) -> tuple[Thread, int] | None:
    """The thread, and the size of its `values`, which are left out if they have more than `most_bytes`. None as `get`."""
    cursor = await conn.execute(
        """
        SELECT thread_id, created_at, updated_at, state_updated_at, metadata, status, config, interrupts, error,
               CASE WHEN pg_column_size("values") <= %(most_bytes)s THEN "values" END AS "values",
               coalesce(pg_column_size("values"), 0) AS values_bytes
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb, "most_bytes": most_bytes},
    )
    row = await cursor.fetchone()
    return (rows.row_factory(Thread)(cursor)(row), row[-1]) if row else None


async def get_ttl(conn: Conn, filters: Filters, thread_id: UUID) -> tuple[Ttl, datetime] | None:
    """What the thread's time to live is and when it ends, or None where it has none."""
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
    """Merged into its own."""
    ttl: Ttl | None = None
    """In place of its own."""
    metadata_bytes: int
    """What its metadata may have after the change."""


async def update(conn: Conn, filters: Filters, thread_id: UUID, change: Change) -> Thread | None:
    """Change the thread. None if there is none of the caller's, or its metadata would be too large.

    Whose thread it is stays: where it would not be the caller's any more, that part of `metadata` is passed over.
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
           AND (%(metadata)s::jsonb = '{}' OR octet_length((metadata || %(metadata)s)::text) <= %(metadata_bytes)s)
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
            "reserved": filters.owner_keys,
        },
    )
    return await cursor.fetchone()


async def delete(
    conn: Conn, filters: Filters, thread_ids: Sequence[UUID], *, of_assistant: UUID | None = None
) -> list[UUID]:
    """Delete those of the threads that are the caller's, with all that they have, and return their ids.

    `of_assistant` spares a thread on which another assistant has run by the time that its row is locked. The processes
    that execute their runs are told to stop. What these still write is refused.
    """
    match = (
        filters.metadata_filter
        if of_assistant is None
        else {**filters.metadata_filter, "assistant_id": str(of_assistant)}
    )
    cursor = await conn.execute(
        "SELECT delete_threads(of_project => %(project)s, thread_ids => %(thread_ids)s::uuid[], match => %(match)s)",
        {"project": conn.project_id, "thread_ids": list(thread_ids), "match": Jsonb(match)},
    )
    return [row[0] for row in await cursor.fetchall()]


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
            "SELECT FROM runs WHERE thread_id = %(thread_id)s LIMIT 1", {"thread_id": thread_id}
        )
        if await cursor.fetchone() is not None:
            return False
        return bool(await delete(conn, filters, [thread_id]))


async def update_summary(conn: Conn, thread_id: UUID, settled: ThreadSummary) -> Thread | None:
    """Make the row tell what the newest checkpoint holds; `busy` stays where a run waits for its time."""
    cursor = conn.cursor(row_factory=rows.row_factory(Thread))
    await cursor.execute(
        """
        UPDATE threads
           SET status = CASE WHEN EXISTS (SELECT FROM runs
                                           WHERE runs.thread_id = threads.thread_id
                                             AND runs.status IN ('pending', 'running'))
                             THEN 'busy' ELSE %(status)s END,
               "values" = %(values)s::json, interrupts = %(interrupts)s, error = NULL,
               updated_at = now(), state_updated_at = now()
         WHERE thread_id = %(thread_id)s
        RETURNING *
        """,
        {
            "thread_id": thread_id,
            "status": settled.status,
            "values": settled.values.decode(),
            "interrupts": Jsonb(settled.interrupts),
        },
    )
    return await cursor.fetchone()


async def active_run_id(conn: Conn, thread_id: UUID) -> UUID | None:
    """The run that executes or is due on a locked thread, or None. It holds until the lock is released.

    A statement of its own behind the lock, and not by now(): the lock may have been waited for.
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
    """Hold the thread until the transaction ends, for which the caller may take `within_s` seconds between statements.

    No run of the thread starts, ends or is created meanwhile. False if there is no such thread of the caller's.
    """
    cursor = await conn.execute(
        """
        SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true)
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
    """Hold those of the threads that are the caller's and on which no run executes or waits, and return their ids.

    `status` decides, not a look at `runs`: it is read again once the row is locked.
    """
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE thread_id = ANY(%(thread_ids)s)
           AND project_id = %(project)s AND metadata @> %(match)s AND status <> 'busy'
         ORDER BY thread_id
           FOR NO KEY UPDATE
        """,
        {"thread_ids": list(thread_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return [row[0] for row in await cursor.fetchall()]


async def other_projects(conn: Conn) -> list[str]:
    """Up to ten other projects that have threads, if this one has none. Else an empty list.

    Each `min` is one look in an index, however many threads there are.
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
