"""Crons: schedules that start runs.

A row's `next_run_date` is its next fire time. A process locks the row, creates the run and sets the next date in one
transaction. So only one process fires each time. Only the clock of Postgres decides whether a cron is due.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString, TypeAlias
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.listen import notify
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters

CRONS = "crons"
"""The topic that wakes the scheduler, because the next fire time may have changed."""

OnRunCompleted: TypeAlias = Literal["delete", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A row of `crons`. Its field names are the protocol's, so it is also the client's JSON."""

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    """The thread of all its runs. None: each run gets a thread of its own."""
    end_time: datetime | None
    schedule: str
    timezone: str | None
    """An IANA name. None: UTC."""
    payload: RawJson
    """The body of the runs, as the client sent it."""
    next_run_date: datetime | None
    """The next fire time. None: it would be after `end_time`."""
    metadata: RawJson
    on_run_completed: OnRunCompleted | None
    """Whether a run's own thread is deleted. None if all runs use one thread."""
    enabled: bool
    created_at: datetime
    updated_at: datetime
    user_id: str | None = None
    """A field of the protocol. This server has no users of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedCron(Cron):
    """A locked cron that is due, with the columns that clients do not see."""

    principal: RawJson | None
    """The user that created it or changed it last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronDefinition:
    """A client's definition of a cron, and its next fire time."""

    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    on_run_completed: OnRunCompleted | None
    payload: Mapping[str, Any]
    metadata: Mapping[str, Any]
    next_run_date: datetime | None
    principal: Mapping[str, Any] | None = None
    """The user of its runs, which is the caller."""

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "schedule": self.schedule,
            "timezone": self.timezone,
            "end_time": self.end_time,
            "enabled": self.enabled,
            "on_run_completed": self.on_run_completed,
            "payload": Jsonb(self.payload),
            "metadata": Jsonb(self.metadata),
            "next_run_date": self.next_run_date,
            "principal": Jsonb(self.principal) if self.principal is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCron:
    """A cron to create."""

    assistant_id: UUID
    thread_id: UUID | None
    definition: CronDefinition
    filters: Filters
    """The filters of the cron itself."""
    runs: Filters
    """The filters of the threads that its runs may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCron:
    """A cron that is due."""

    cron_id: UUID
    thread_id: UUID | None
    assistant_id: UUID
    metadata_filter: RawJson
    """The filter of its creator. It also applies to its runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronFilter:
    """Selects crons. None selects all."""

    assistant_id: UUID | None = None
    thread_id: UUID | None = None
    enabled: bool | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "assistant_id": self.assistant_id,
            "thread_id": self.thread_id,
            "enabled": self.enabled,
            "metadata": Jsonb(self.metadata or {}),
        }


ORDERS: Final[Mapping[tuple[str, str], LiteralString]] = {
    ("cron_id", "asc"): "cron_id ASC",
    ("cron_id", "desc"): "cron_id DESC",
    ("assistant_id", "asc"): "assistant_id ASC, cron_id ASC",
    ("assistant_id", "desc"): "assistant_id DESC, cron_id DESC",
    ("thread_id", "asc"): "thread_id ASC NULLS LAST, cron_id ASC",
    ("thread_id", "desc"): "thread_id DESC NULLS LAST, cron_id DESC",
    ("created_at", "asc"): "created_at ASC, cron_id ASC",
    ("created_at", "desc"): "created_at DESC, cron_id DESC",
    ("updated_at", "asc"): "updated_at ASC, cron_id ASC",
    ("updated_at", "desc"): "updated_at DESC, cron_id DESC",
    ("next_run_date", "asc"): "next_run_date ASC NULLS LAST, cron_id ASC",
    ("next_run_date", "desc"): "next_run_date DESC NULLS LAST, cron_id DESC",
    ("end_time", "asc"): "end_time ASC NULLS LAST, cron_id ASC",
    ("end_time", "desc"): "end_time DESC NULLS LAST, cron_id DESC",
}
"""(sort_by, sort_order) -> ORDER BY. The id as the last column makes pages stable."""


async def database_time(conn: Conn) -> datetime:
    """The time of Postgres, which decides whether crons are due."""
    cursor = await conn.execute("SELECT now()")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row[0]


async def create(conn: Conn, cron_id: UUID, new: NewCron) -> Cron | None:
    """Create a cron. None if the caller has no such thread."""
    cursor = conn.cursor(row_factory=rows.row_factory(Cron))
    await cursor.execute(
        """
        WITH thread AS (
            SELECT FROM threads
             WHERE thread_id = %(thread_id)s::uuid AND project_id = %(project)s AND metadata @> %(match)s
               FOR KEY SHARE -- a deletion of the thread waits until the cron is inserted, and deletes it too
        )
        INSERT INTO crons (cron_id, project_id, assistant_id, thread_id, schedule, timezone, end_time, enabled,
                           on_run_completed, payload, metadata, next_run_date, principal, metadata_filter)
        SELECT %(cron_id)s, %(project)s, %(assistant_id)s, %(thread_id)s, %(schedule)s, %(timezone)s, %(end_time)s,
               %(enabled)s, %(on_run_completed)s, %(payload)s, %(metadata)s, %(next_run_date)s, %(principal)s, %(match)s
         WHERE %(thread_id)s::uuid IS NULL OR EXISTS (SELECT FROM thread)
        RETURNING *
        """,
        new.definition.parameters
        | {"cron_id": cron_id, "assistant_id": new.assistant_id, "thread_id": new.thread_id}
        | {
            "project": conn.project_id,
            # The thread belongs to the runs, so their filter applies to it, and not that of the cron.
            "match": new.runs.jsonb,
            "metadata": Jsonb(new.filters.with_owner(new.definition.metadata)),  # replaces that of the definition
        },
    )
    cron = await cursor.fetchone()
    await notify(conn, CRONS)
    return cron


async def get(conn: Conn, filters: Filters, cron_id: UUID) -> Cron | None:
    """The cron, or None if the caller has no such cron."""
    cursor = conn.cursor(row_factory=rows.row_factory(Cron))
    await cursor.execute(
        """
        SELECT *
          FROM crons
         WHERE cron_id = %(cron_id)s
           AND project_id = %(project)s
           AND metadata @> %(match)s
        """,
        {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def lock(conn: Conn, filters: Filters, cron_id: UUID) -> Cron | None:
    """Return the same as `get`, and lock the cron until the transaction ends."""
    cursor = conn.cursor(row_factory=rows.row_factory(Cron))
    await cursor.execute(
        """
        SELECT *
          FROM crons
         WHERE cron_id = %(cron_id)s
           AND project_id = %(project)s
           AND metadata @> %(match)s
           FOR NO KEY UPDATE
        """,
        {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def update(
    conn: Conn, filters: Filters, cron_id: UUID, definition: CronDefinition, *, runs: Filters
) -> Cron | None:
    """Replace the cron's definition and the filters of its runs. None if the caller has no such cron."""
    cursor = conn.cursor(row_factory=rows.row_factory(Cron))
    await cursor.execute(
        """
        UPDATE crons
           SET schedule = %(schedule)s, timezone = %(timezone)s, end_time = %(end_time)s, enabled = %(enabled)s,
               on_run_completed = %(on_run_completed)s, payload = %(payload)s,
               metadata = %(metadata)s, next_run_date = %(next_run_date)s,
               principal = coalesce(%(principal)s, principal), metadata_filter = %(runs)s, updated_at = now()
         WHERE cron_id = %(cron_id)s AND project_id = %(project)s AND metadata @> %(match)s
        RETURNING *
        """,
        # Without authentication a change has no user. The cron then keeps the one that it has.
        definition.parameters
        | {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb, "runs": runs.jsonb},
    )
    cron = await cursor.fetchone()
    await notify(conn, CRONS)
    return cron


async def delete(conn: Conn, filters: Filters, cron_id: UUID) -> bool:
    """Delete the cron, but not its runs. False if the caller has no such cron."""
    cursor = await conn.execute(
        # The scheduler gets no notification. At worst it wakes once and finds no cron that is due.
        "DELETE FROM crons WHERE cron_id = %(cron_id)s AND project_id = %(project)s AND metadata @> %(match)s",
        {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return cursor.rowcount == 1


async def search(
    conn: Conn, filters: Filters, selection: CronFilter, *, order: tuple[str, str], page: PageRequest
) -> list[SizedRow[Cron]]:
    """The matching crons, in `order` (a key of `ORDERS`)."""
    cursor = conn.cursor(row_factory=sized(Cron))
    listing = sql.SQL(
        """
        SELECT *
          FROM crons
         WHERE project_id = %(project)s AND metadata @> %(match)s AND metadata @> %(metadata)s
           AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s)
           AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
           AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
         ORDER BY {order}
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(order=sql.SQL(ORDERS[order]))
    parameters = selection.parameters | page.parameters | {"project": conn.project_id, "match": filters.jsonb}
    await cursor.execute(bounded(listing, "payload", "metadata"), parameters)
    return await cursor.fetchall()


async def count(conn: Conn, filters: Filters, selection: CronFilter) -> int:
    """The number of matching crons."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM crons
         WHERE project_id = %(project)s AND metadata @> %(match)s AND metadata @> %(metadata)s
           AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s)
           AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
           AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
        """,
        selection.parameters | {"project": conn.project_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def list_due(conn: Conn, at: datetime, graph_ids: Sequence[str]) -> Sequence[DueCron]:
    """The crons of all principals that are due at `at`, the longest due first.

    It contains the crons of the graphs, and crons whose assistant was deleted.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(DueCron))
    # Any process advances a cron whose assistant is gone, so that it is not due for ever.
    await cursor.execute(
        """
        SELECT cron_id, thread_id, assistant_id, metadata_filter
          FROM crons LEFT JOIN assistants USING (project_id, assistant_id)
         WHERE project_id = %(project)s AND enabled AND next_run_date <= %(at)s
           AND (graph_id IS NULL OR graph_id = ANY(%(graph_ids)s))
         ORDER BY next_run_date
        """,
        {"project": conn.project_id, "at": at, "graph_ids": list(graph_ids)},
    )
    return await cursor.fetchall()


async def claim(conn: Conn, cron_id: UUID) -> ClaimedCron | None:
    """Lock a due cron. None if it is not due, or another process has locked it.

    The caller creates the run and calls `advance` in the same transaction.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(ClaimedCron))
    await cursor.execute(
        """
        SELECT *
          FROM crons
         WHERE cron_id = %(cron_id)s AND enabled AND next_run_date <= now() -- it may have been fired since
           FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"cron_id": cron_id},
    )
    return await cursor.fetchone()


async def advance(conn: Conn, cron_id: UUID, next_run_date: datetime | None) -> None:
    """Set the next fire time of a claimed cron. None: there is none."""
    await conn.execute(
        "UPDATE crons SET next_run_date = %(next_run_date)s WHERE cron_id = %(cron_id)s",
        {"cron_id": cron_id, "next_run_date": next_run_date},
    )


async def seconds_to_next(conn: Conn, since: datetime) -> float | None:
    """Seconds until the first fire time after `since`, negative if it has passed. None if there is none."""
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM min(next_run_date) - now())::float
          FROM crons
         WHERE project_id = %(project)s AND enabled AND next_run_date > %(since)s -- not those that just failed
        """,
        {"project": conn.project_id, "since": since},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
