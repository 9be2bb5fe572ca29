"""Thread checkpoints: queries on all checkpoints of a thread that LangGraph's saver has no method for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.threads import Thread


async def copy_thread(conn: Conn, source_id: UUID, thread_id: UUID, marks: Mapping[str, Any]) -> tuple[Thread, bool]:
    """Copy a locked thread and its checkpoints, with their ids, but without its runs.

    `marks` overwrite its metadata. Returns the new thread, and whether the source was busy, so that its checkpoints may be
    newer than its row. A single statement sees one snapshot, even if a run writes meanwhile.
    """
    # A copy has no runs, so the copy of a busy thread is idle.
    cursor = await conn.execute(
        """
        WITH source AS (
            SELECT * FROM threads WHERE thread_id = %(source_id)s
        ), copied AS (
            INSERT INTO threads (thread_id, project_id, status, metadata, "values", interrupts, error,
                                 ttl_strategy, ttl_minutes, first_message)
            SELECT %(thread_id)s, project_id, CASE status WHEN 'busy' THEN 'idle' ELSE status END, metadata || %(marks)s,
                   "values", interrupts, error, ttl_strategy, ttl_minutes, first_message
              FROM source
            RETURNING *
        ), checkpoints_copied AS (
            INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
                                     metadata)
            SELECT %(to)s, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.type, c.checkpoint,
                   CASE WHEN c.metadata ? 'thread_id' -- LangGraph writes the id into it
                        THEN jsonb_set(c.metadata, '{thread_id}', to_jsonb(%(to)s::text)) ELSE c.metadata END
              FROM source JOIN checkpoints AS c ON c.thread_id = %(from)s
        ), blobs_copied AS (
            INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
            SELECT %(to)s, b.checkpoint_ns, b.channel, b.version, b.type, b.blob
              FROM source JOIN checkpoint_blobs AS b ON b.thread_id = %(from)s
        ), writes_copied AS (
            INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob,
                                           task_path)
            SELECT %(to)s, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx, w.channel, w.type, w.blob, w.task_path
              FROM source JOIN checkpoint_writes AS w ON w.thread_id = %(from)s
        )
        SELECT copied.*, source.status = 'busy' AS source_busy FROM copied, source
        """,
        {
            # LangGraph's tables have ids of threads as text, and our own have them as uuid.
            "source_id": source_id,
            "from": str(source_id),
            "thread_id": thread_id,
            "to": str(thread_id),
            "marks": Jsonb(marks),
        },
    )
    conn.note_change(thread_id)
    row: Any = await cursor.fetchone()  # the source is locked, so there is a row
    return rows.row_factory(Thread)(cursor)(row), row[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStorage:
    """The storage of a thread's checkpoints. Bytes are as Postgres stores them, after its compression."""

    thread_id: UUID
    total_bytes: int
    checkpoints: RawJson
    channel_values: RawJson
    pending_writes: RawJson


async def storage_size(conn: Conn, filters: Filters, thread_id: UUID) -> CheckpointStorage | None:
    """The storage of the thread, or None if the caller has no such thread."""
    cursor: Any = conn.cursor(row_factory=rows.row_factory(CheckpointStorage))
    await cursor.execute(
        """
        WITH thread AS (
            SELECT thread_id, thread_id::text AS text_id
              FROM threads
             WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        ), checkpoint AS (
            SELECT count(*) AS count,
                   coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0) AS bytes
              FROM checkpoints
             WHERE thread_id = (SELECT text_id FROM thread)
        ), channel AS (
            SELECT channel, count(*) AS versions, coalesce(sum(pg_column_size(blob)), 0) AS bytes
              FROM checkpoint_blobs
             WHERE thread_id = (SELECT text_id FROM thread)
             GROUP BY channel
        ), blob AS (
            SELECT coalesce(sum(versions), 0) AS count, coalesce(sum(bytes), 0) AS bytes,
                   coalesce(jsonb_object_agg(channel, jsonb_build_object('versions', versions, 'bytes', bytes)),
                            '{}') AS by_channel
              FROM channel
        ), pending AS (
            SELECT count(*) AS count, coalesce(sum(pg_column_size(blob)), 0) AS bytes
              FROM checkpoint_writes
             WHERE thread_id = (SELECT text_id FROM thread)
        )
        SELECT thread.thread_id,
               (checkpoint.bytes + blob.bytes + pending.bytes)::bigint AS total_bytes,
               to_jsonb(checkpoint) AS checkpoints, to_jsonb(blob) AS channel_values,
               to_jsonb(pending) AS pending_writes
          FROM thread, checkpoint, blob, pending
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def newest_mark(conn: Conn, filters: Filters, thread_id: UUID, key: str) -> str | None:
    """The text under `key` in the metadata of the thread's newest checkpoint. None if there is none."""
    # The ids have different types, so the tables can't be joined by USING.
    cursor = await conn.execute(
        """
        SELECT checkpoints.metadata ->> %(key)s
          FROM checkpoints JOIN threads ON threads.thread_id = %(thread_id)s
         WHERE checkpoints.thread_id = %(of_thread)s AND checkpoint_ns = '' -- without the subgraphs
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY checkpoint_id DESC -- ids begin with a time
         LIMIT 1
        """,
        {
            "key": key,
            "thread_id": thread_id,
            "of_thread": str(thread_id),
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def newest_with(conn: Conn, filters: Filters, thread_id: UUID, mark: Mapping[str, str]) -> str | None:
    """The id of the thread's newest checkpoint whose metadata contains `mark`. None if there is none."""
    cursor = await conn.execute(
        """
        SELECT checkpoint_id
          FROM checkpoints JOIN threads ON threads.thread_id = %(thread_id)s
         WHERE checkpoints.thread_id = %(of_thread)s AND checkpoint_ns = '' AND checkpoints.metadata @> %(mark)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY checkpoint_id DESC
         LIMIT 1
        """,
        {
            "mark": Jsonb(mark),
            "thread_id": thread_id,
            "of_thread": str(thread_id),
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def parent_of_run(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> str | None:
    """Return the id of the checkpoint from which a run started, or None if the thread was empty."""
    cursor = await conn.execute(
        """
        SELECT parent_checkpoint_id
          FROM checkpoints JOIN threads ON threads.thread_id = %(thread_id)s
         WHERE checkpoints.thread_id = %(of_thread)s AND checkpoint_ns = '' AND checkpoints.metadata @> %(mark)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY checkpoint_id
         LIMIT 1
        """,
        {
            "mark": Jsonb({"run_id": str(run_id)}),
            "thread_id": thread_id,
            "of_thread": str(thread_id),
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def first_id(conn: Conn, filters: Filters, thread_id: UUID) -> str | None:
    """The id of the thread's first checkpoint. None if there is none."""
    cursor = await conn.execute(
        """
        SELECT checkpoint_id
          FROM checkpoints JOIN threads ON threads.thread_id = %(thread_id)s
         WHERE checkpoints.thread_id = %(of_thread)s AND checkpoint_ns = ''
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY checkpoint_id
         LIMIT 1
        """,
        {"thread_id": thread_id, "of_thread": str(thread_id), "project": conn.project_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
