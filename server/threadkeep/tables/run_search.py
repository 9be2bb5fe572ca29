"""Run search: which runs there are on the threads of a caller, the newest first.

Ids of runs begin with the time at which they were made (RFC 9562, version 7), so the primary key has the order of a
listing, and no run pays for an index of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.statement_timeout import search_connection
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.runs import RunStatus

CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""By which the clock of a process that makes an id may differ from that of Postgres."""
STATUS_CONDITIONS: Final[Mapping[RunStatus | None, LiteralString]] = {
    None: "true",
    "pending": "runs.status = 'pending'",
    "running": "runs.status = 'running'",
    "success": "runs.status = 'success'",
    "error": "runs.status = 'error'",
    "timeout": "runs.status = 'timeout'",
    "interrupted": "runs.status = 'interrupted'",
}
"""In the text of the statement, because the indexes of pending and running runs are partial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMatch:
    """A run and its times, without its input."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    status: RunStatus
    metadata: RawJson
    multitask_strategy: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """When its last attempt began."""
    finished_at: datetime | None
    queue_wait_s: float | None
    """Seconds from when it was due until its last attempt began, or until now. null: it never began, or is not due yet."""
    duration_s: float | None
    """Seconds since its last attempt began, until its end or until now. null: it has not begun."""
    attempt: int
    """How often it was begun."""
    error: RawJson | None
    """The error of the run, with the details that `THREADKEEP_EXPOSE_ERRORS` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """The conditions of a search. None: any value."""

    status: RunStatus | None = None
    assistant_id: UUID | None = None
    graph_id: str | None = None
    thread_id: UUID | None = None
    metadata: Mapping[str, Any] | None = None
    created_after: datetime | None = None
    """Exclusive, as `created_before` is."""
    created_before: datetime | None = None

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "assistant_id": self.assistant_id,
            "graph_id": self.graph_id,
            "thread_id": self.thread_id,
            "metadata": Jsonb(self.metadata or {}),
            "created_after": self.created_after,
            "created_before": self.created_before,
            # Without a time all ids are in the range, so the primary key can be read in any case.
            "first_id": _id_at(self.created_after, -CLOCKS_DIFFER) or UUID(int=0),
            "last_id": _id_at(self.created_before, CLOCKS_DIFFER) or UUID(int=2**128 - 1),
        }


def _id_at(time: datetime | None, margin: timedelta) -> UUID | None:
    """Return the lowest id of a time, or None if ids can't represent the time."""
    if time is None:
        return None
    millisecond = int(time.timestamp() * 1000) + int(margin.total_seconds() * 1000)
    # A client may name the year 1 or 9999, and an id has 48 bits for its time.
    return UUID(int=min(max(millisecond, 0), 2**48 - 1) << 80)


async def search(
    pool: Pool, filters: Filters, search: RunFilter, page: PageRequest, *, timeout_s: float
) -> list[SizedRow[RunMatch]]:
    """The runs that match, the newest first. SearchTimeout as `search_connection`."""
    listing = sql.SQL(
        """
        SELECT runs.run_id, runs.thread_id, runs.assistant_id, runs.graph_id, runs.status, runs.metadata,
               runs.multitask_strategy, runs.created_at, runs.updated_at, runs.started_at, runs.finished_at,
               CASE WHEN runs.started_at IS NOT NULL OR runs.status = 'pending' AND runs.run_after <= clock_timestamp()
                    THEN greatest(extract(epoch FROM coalesce(runs.started_at, clock_timestamp()) - runs.run_after), 0)::float
               END AS queue_wait_s,
               CASE WHEN runs.status <> 'pending'
                    THEN extract(epoch FROM coalesce(runs.finished_at, clock_timestamp()) - runs.started_at)::float
               END AS duration_s,
               runs.attempt, runs.error
          FROM runs JOIN threads USING (thread_id)
         WHERE runs.project_id = %(project)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND {status}
           AND runs.run_id >= %(first_id)s AND runs.run_id <= %(last_id)s -- limits the part of the index that is read
           AND (%(assistant_id)s::uuid IS NULL OR runs.assistant_id = %(assistant_id)s)
           AND (%(graph_id)s::text IS NULL OR runs.graph_id = %(graph_id)s)
           AND (%(thread_id)s::uuid IS NULL OR runs.thread_id = %(thread_id)s)
           AND (%(created_after)s::timestamptz IS NULL OR runs.created_at > %(created_after)s) -- decides exactly
           AND (%(created_before)s::timestamptz IS NULL OR runs.created_at < %(created_before)s)
           AND runs.metadata @> %(metadata)s
         ORDER BY runs.run_id DESC
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(status=sql.SQL(STATUS_CONDITIONS[search.status]))
    async with search_connection(pool, filters, timeout_s) as conn:
        cursor = conn.cursor(row_factory=sized(RunMatch))
        parameters = search.parameters | page.parameters | {"project": conn.project_id, "match": filters.jsonb}
        # A plan for any conditions would read every run, because each condition may be absent.
        await cursor.execute(bounded(listing, "metadata", "error"), parameters, prepare=False)
    return await cursor.fetchall()
