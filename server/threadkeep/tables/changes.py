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
    """The caller's threads among these and those of the runs. A search does not find ephemeral threads, nor does this.

    `OFFSET 0` has Postgres look up the few rows by their keys first. Otherwise it may read all rows of the project, because it
    knows little about a table that grows quickly.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(ChangedThread))
    await cursor.execute(
        """
        SELECT thread_id, status, updated_at, title
          FROM (SELECT thread_id, status, updated_at, title, project_id, metadata, ephemeral_until
                  FROM threads
                 WHERE thread_id = ANY (ARRAY(SELECT unnest(%(thread_ids)s::uuid[])
                                              UNION
                                              SELECT runs.thread_id FROM runs WHERE run_id = ANY (%(run_ids)s)))
                OFFSET 0) AS changed
         WHERE project_id = %(project)s AND metadata @> %(match)s AND ephemeral_until IS NULL
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
    """The caller's runs among these. `OFFSET 0` as in `threads_of`."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChangedRun))
    await cursor.execute(
        """
        SELECT run_id, thread_id, assistant_id, status, updated_at
          FROM (SELECT run_id, thread_id, assistant_id, status, updated_at
                  FROM runs
                 WHERE run_id = ANY (%(run_ids)s)
                OFFSET 0) AS changed
         WHERE EXISTS (SELECT
                         FROM threads
                        WHERE threads.thread_id = changed.thread_id AND project_id = %(project)s
                          AND metadata @> %(match)s
                       OFFSET 0)
        """,
        {"run_ids": list(run_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()
