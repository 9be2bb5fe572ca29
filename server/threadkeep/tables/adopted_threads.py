"""Adopted threads: rows that `threadkeep adopt` makes from threads of another server or saver.

Their metadata says where they come from. So a second call finds them, and clients find them by their old id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn

OWNER_KEY: Final = "owner"
"""The key of metadata with the thread's owner (`auth.ownership`)."""
SOURCE_KEY: Final = "adopted_from"
"""The key of metadata with the kind of the source."""
ORIGINAL_KEY: Final = "original_thread_id"
"""The key of metadata with the thread's id at the source."""
CHECKPOINT_KEY: Final = "adopted_checkpoint_id"
"""The key of metadata with the newest checkpoint that was taken over."""
IDLE_MS: Final = 600_000
"""The longest wait for the source inside the transaction of a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedThread:
    """A thread to adopt."""

    thread_id: UUID
    project_id: str
    metadata: Mapping[str, Any]
    created_at: datetime | None
    """None: now."""
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadHere:
    """A thread that exists here with the id of a thread of the source."""

    project_id: str
    owner: str | None
    adopted_from: str | None
    """None: it was not adopted."""
    adopted_checkpoint_id: str | None
    newest_checkpoint_id: str | None


async def find(conn: Conn, thread_id: UUID) -> ThreadHere | None:
    """The thread with this id, of any project and owner."""
    cursor = conn.cursor(row_factory=rows.row_factory(ThreadHere))
    # Without a project, because an id is unique in the whole database.
    await cursor.execute(
        """
        SELECT project_id, metadata ->> %(owner_key)s AS owner, metadata ->> %(source_key)s AS adopted_from,
               metadata ->> %(checkpoint_key)s AS adopted_checkpoint_id,
               (SELECT checkpoint_id
                  FROM checkpoints
                 WHERE checkpoints.thread_id = %(text_id)s AND checkpoint_ns = ''
                 ORDER BY checkpoint_id DESC
                 LIMIT 1) AS newest_checkpoint_id
          FROM threads
         WHERE thread_id = %(thread_id)s
        """,
        {
            "thread_id": thread_id,
            "text_id": str(thread_id),
            "owner_key": OWNER_KEY,
            "source_key": SOURCE_KEY,
            "checkpoint_key": CHECKPOINT_KEY,
        },
    )
    return await cursor.fetchone()


async def allow_long_copy(conn: Conn) -> None:
    """Lift the time limits of statements until the transaction ends, because a thread may be large."""
    # Local to the transaction, because the connection goes back to a pool.
    await conn.execute(
        """
        SELECT set_config('statement_timeout', '0', true),
               set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true)
        """,
        {"idle_ms": str(IDLE_MS)},
    )


async def create(conn: Conn, thread: AdoptedThread) -> bool:
    """Create the thread without a state. False if the id is already used."""
    # `set_times` notes the change, because it is the last statement on the row.
    cursor = await conn.execute(
        """
        INSERT INTO threads (thread_id, project_id, metadata)
        VALUES (%(thread_id)s, %(project)s, %(metadata)s)
        ON CONFLICT (thread_id) DO NOTHING
        """,
        {"thread_id": thread.thread_id, "project": thread.project_id, "metadata": Jsonb(dict(thread.metadata))},
    )
    return cursor.rowcount == 1


async def forget_checkpoints(conn: Conn, thread: AdoptedThread) -> None:
    """Delete the checkpoints of a locked thread, which are about to be copied again, and note the new newest one."""
    # LangGraph's tables have no foreign keys, so no row goes with another one.
    await conn.execute(
        """
        WITH old_checkpoints AS (DELETE FROM checkpoints WHERE thread_id = %(text_id)s),
             old_blobs AS (DELETE FROM checkpoint_blobs WHERE thread_id = %(text_id)s),
             old_writes AS (DELETE FROM checkpoint_writes WHERE thread_id = %(text_id)s)
        UPDATE threads SET metadata = metadata || %(metadata)s WHERE thread_id = %(thread_id)s
        """,
        {
            "thread_id": thread.thread_id,
            "text_id": str(thread.thread_id),
            "metadata": Jsonb({CHECKPOINT_KEY: thread.metadata[CHECKPOINT_KEY]}),
        },
    )


async def set_times(conn: Conn, thread: AdoptedThread) -> None:
    """Set the times of the thread to those at the source. It is the last statement on the row."""
    # Last, because the other statements set `updated_at` to the present.
    await conn.execute(
        """
        UPDATE threads
           SET created_at = coalesce(%(created_at)s, created_at), updated_at = coalesce(%(updated_at)s, updated_at),
               state_updated_at = coalesce(%(updated_at)s, state_updated_at)
         WHERE thread_id = %(thread_id)s
        """,
        {"thread_id": thread.thread_id, "created_at": thread.created_at, "updated_at": thread.updated_at},
    )
    conn.note_change(thread.thread_id)


async def has_runs(conn: Conn, thread_id: UUID) -> bool:
    """Whether the thread has had a run here."""
    cursor = await conn.execute("SELECT FROM runs WHERE thread_id = %(thread_id)s LIMIT 1", {"thread_id": thread_id})
    return await cursor.fetchone() is not None


async def has_checkpoints(conn: Conn, thread_id: UUID) -> bool:
    """Whether checkpoints of this thread exist, although its row may not."""
    cursor = await conn.execute(
        "SELECT FROM checkpoints WHERE thread_id = %(thread_id)s LIMIT 1", {"thread_id": str(thread_id)}
    )
    return await cursor.fetchone() is not None
