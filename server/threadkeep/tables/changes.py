"""Changes: the caller's rows among those that have changed, as they are now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedThread:
    """A thread that has changed. Its field names are the protocol's."""

    thread_id: UUID
    status: str
    updated_at: datetime
    title: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRun:
    """A run that has changed. Its field names are the protocol's."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    status: str
    updated_at: datetime


async def threads_of(
    conn: Conn, filters: Filters, thread_ids: Sequence[UUID], run_ids: Sequence[UUID]
) -> list[ChangedThread]:
    """The caller's threads among these and those of the runs. A search does not find ephemeral threads, nor does this."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChangedThread))
    await cursor.execute(
        """
        SELECT thread_id, status, updated_at, title
          FROM threads
         WHERE thread_id = ANY (ARRAY(SELECT unnest(%(thread_ids)s::uuid[])
                                      UNION
                                      SELECT runs.thread_id FROM runs WHERE run_id = ANY (%(run_ids)s)))
           AND project_id = %(project)s AND metadata @> %(match)s AND ephemeral_until IS NULL
        """,
        {
            "thread_ids": list(thread_ids),
            "run_ids": list(run_ids),
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    return await cursor.fetchall()


async def runs_of(conn: Conn, filters: Filters, run_ids: Sequence[UUID]) -> list[ChangedRun]:
    """The caller's runs among these."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChangedRun))
    await cursor.execute(
        """
        SELECT run_id, runs.thread_id, assistant_id, runs.status, runs.updated_at
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = ANY (%(run_ids)s) AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        """,
        {"run_ids": list(run_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()
