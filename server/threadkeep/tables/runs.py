"""Runs: reads and deletes rows of `runs`. `queue` and `cancels` change their states."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from psycopg import sql

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters

RunStatus: TypeAlias = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
FinalStatus: TypeAlias = Literal["success", "error", "timeout", "interrupted"]
ThreadStatus: TypeAlias = Literal["idle", "interrupted", "error"]
CancelAction: TypeAlias = Literal["interrupt", "rollback"]
FINAL: frozenset[str] = frozenset({"success", "error", "timeout", "interrupted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A row of `runs`. Its field names are the protocol's, so it is also the client's JSON."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    created_at: datetime
    updated_at: datetime
    status: RunStatus
    metadata: RawJson
    kwargs: RawJson
    multitask_strategy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """The stored result of a run, from its row and its thread's row."""

    status: RunStatus
    error: RawJson | None
    values: RawJson | None
    interrupts: RawJson


async def get(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> Run | None:
    """The run, or None if the caller has no such run on that thread."""
    cursor = conn.cursor(row_factory=rows.row_factory(Run))
    # The row factory leaves out the columns that `Run` does not have.
    await cursor.execute(
        """
        SELECT runs.*
          FROM runs JOIN threads USING (thread_id) -- the thread has the owner
         WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        """,
        {"run_id": run_id, "thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_several(conn: Conn, filters: Filters, run_ids: Sequence[UUID]) -> list[Run]:
    """The caller's existing runs among `run_ids`, in the order of the ids."""
    cursor = conn.cursor(row_factory=rows.row_factory(Run))
    await cursor.execute(
        """
        SELECT runs.*
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = ANY(%(run_ids)s) AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY array_position(%(run_ids)s, run_id)
        """,
        {"run_ids": list(run_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()


async def get_result(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> StoredResult | None:
    """The run's stored result, or None if the caller has no such run on that thread."""
    cursor = conn.cursor(row_factory=rows.row_factory(StoredResult))
    await cursor.execute(
        """
        SELECT runs.status, runs.error, threads.interrupts,
               output_of(threads."values", runs.output_keys, thread_id) AS "values" -- a run stores only its keys
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        """,
        {"run_id": run_id, "thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def status(conn: Conn, run_id: UUID) -> RunStatus | None:
    """The run's status. None if it was deleted. The caller must already have access to the run."""
    cursor = await conn.execute("SELECT status FROM runs WHERE run_id = %(run_id)s", {"run_id": run_id})
    row = await cursor.fetchone()
    return row[0] if row else None


async def set_mark(conn: Conn, filters: Filters, run_id: UUID, path: Sequence[str], value: str) -> bool:
    """Set a text in the metadata of a run that has not ended. Whether there is such a run of the caller's."""
    cursor = await conn.execute(
        """
        UPDATE runs
           SET metadata = jsonb_set(runs.metadata, %(path)s::text[], to_jsonb(%(value)s::text)) -- adds only the last key
          FROM threads
         WHERE run_id = %(run_id)s AND runs.status IN ('pending', 'running') AND threads.thread_id = runs.thread_id
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        """,
        {
            "path": list(path),
            "value": value,
            "run_id": run_id,
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    return cursor.rowcount == 1


async def remove_mark(conn: Conn, filters: Filters, run_id: UUID, path: Sequence[str]) -> dict[str, Any] | None:
    """Remove a mark from the metadata of a run that has not ended, and return the object that had it.

    None if there is no such run of the caller's.
    """
    # The rest of the object tells the caller whether this was the last mark in it.
    cursor = await conn.execute(
        """
        UPDATE runs
           SET metadata = runs.metadata #- %(path)s::text[]
          FROM threads
         WHERE run_id = %(run_id)s AND runs.status IN ('pending', 'running') AND threads.thread_id = runs.thread_id
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        RETURNING runs.metadata #> %(parent)s::text[]
        """,
        {
            "path": list(path),
            "parent": list(path[:-1]),
            "run_id": run_id,
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    row = await cursor.fetchone()
    return (row[0].load() if row[0] else {}) if row else None


async def record_events(conn: Conn, run_id: UUID) -> RunStatus | None:
    """Return the same as `status`, and record the run's events from now on in its process."""
    # A second reader sends no notification, because the process records the run already.
    cursor = await conn.execute(
        """
        WITH marked AS (
            UPDATE runs SET record_events = true
             WHERE run_id = %(run_id)s AND status = 'running' AND NOT record_events
            RETURNING pg_notify('threadkeep', 'watch') -- the topic RECORD
        )
        SELECT status, (SELECT count(*) FROM marked) FROM runs WHERE run_id = %(run_id)s
        """,
        {"run_id": run_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def runs_to_record(conn: Conn, run_ids: Sequence[UUID]) -> list[UUID]:
    """The running runs among `run_ids` whose events must be recorded."""
    cursor = await conn.execute(
        "SELECT run_id FROM runs WHERE run_id = ANY(%(run_ids)s) AND status = 'running' AND record_events",
        {"run_ids": list(run_ids)},
    )
    return [row[0] for row in await cursor.fetchall()]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPosition:
    """The position of a run among the runs of its thread."""

    run_id: UUID
    queue_position: int


async def list_positions(conn: Conn, thread_id: UUID, *, position: int | None) -> list[RunPosition]:
    """The thread's runs after a queue position, in order. `position=None`: its pending and running runs."""
    cursor = conn.cursor(row_factory=rows.row_factory(RunPosition))
    await cursor.execute(
        """
        SELECT run_id, queue_position
          FROM runs
         WHERE thread_id = %(thread_id)s
           AND CASE WHEN %(position)s::bigint IS NULL THEN status IN ('pending', 'running')
                    ELSE queue_position > %(position)s END
         ORDER BY queue_position
        """,
        {"thread_id": thread_id, "position": position},
    )
    return await cursor.fetchall()


async def last_position(conn: Conn, thread_id: UUID, *, created_before: datetime | None = None) -> int:
    """The queue position of the thread's newest run, optionally of those created before a time. 0 if there is none."""
    cursor = await conn.execute(
        """
        SELECT coalesce(max(queue_position), 0)
          FROM runs
         WHERE thread_id = %(thread_id)s AND (%(created_before)s::timestamptz IS NULL OR created_at < %(created_before)s)
        """,
        {"thread_id": thread_id, "created_before": created_before},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def delete(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> bool:
    """Delete a finished run with its events. False if the caller has no such finished run."""
    cursor = await conn.execute(
        """
        DELETE FROM runs USING threads
         WHERE runs.thread_id = threads.thread_id
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND runs.thread_id = %(thread_id)s AND run_id = %(run_id)s AND finished_at IS NOT NULL -- its events cascade
        """,
        {"run_id": run_id, "thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    # The run has no row any more, so only its thread can show to whom the change belongs.
    conn.note_change(thread_id)
    return cursor.rowcount == 1


async def search(
    conn: Conn, filters: Filters, thread_id: UUID, *, status: str | None, page: PageRequest
) -> list[SizedRow[Run]]:
    """The thread's runs with a status, or all if it is None, the newest first."""
    cursor = conn.cursor(row_factory=sized(Run))
    listing = sql.SQL(
        """
        SELECT runs.*
          FROM runs JOIN threads USING (thread_id)
         WHERE thread_id = %(thread_id)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND (%(status)s::text IS NULL OR runs.status = %(status)s)
         ORDER BY queue_position DESC -- unique, unlike a time, and an index has this order
         LIMIT %(limit)s OFFSET %(offset)s
        """
    )
    await cursor.execute(
        # Only these columns have any size. The others are small.
        bounded(listing, "kwargs", "metadata"),
        {"thread_id": thread_id, "status": status, "project": conn.project_id, "match": filters.jsonb}
        | page.parameters,
    )
    return await cursor.fetchall()
