"""Crons: runs on a schedule.

A row's `next_run_date` is its one tick to come. Whoever fires it holds the row and moves the date on in the same
transaction as it opens the run: a tick is fired once in the whole fleet, or not yet. Only Postgres's clock is asked
whether a tick is due.
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
"""The topic that wakes the scheduler: a tick may be nearer than it thinks."""

OnRunCompleted: TypeAlias = Literal["delete", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A row of `crons`; its field names are the protocol's, so that it is also the JSON a client gets."""

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    """None: each run gets a thread of its own."""
    end_time: datetime | None
    schedule: str
    timezone: str | None
    """None: UTC."""
    payload: RawJson
    """The body of the runs, as the client sent it."""
    next_run_date: datetime | None
    """None: `end_time` comes before the next tick."""
    metadata: RawJson
    on_run_completed: OnRunCompleted | None
    """What becomes of a run's own thread; None where the cron has one thread for all its runs."""
    enabled: bool
    created_at: datetime
    updated_at: datetime
    user_id: str | None = None
    """Of the protocol. This server has no users of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedCron(Cron):
    """A cron whose tick is fired: the row, and what no client sees of it."""

    principal: RawJson | None
    """The user of whoever said last what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronDefinition:
    """What a client says of a cron, and the tick that follows from it."""

    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    on_run_completed: OnRunCompleted | None
    payload: Mapping[str, Any]
    metadata: Mapping[str, Any]
    next_run_date: datetime | None
    principal: Mapping[str, Any] | None = None
    """Who says it: the user of its runs."""

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
    """A cron to be made."""

    assistant_id: UUID
    thread_id: UUID | None
    definition: CronDefinition
    filters: Filters
    """Of the cron itself."""
    runs: Filters
    """Of the threads that its runs may be on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueCron:
    """A cron whose tick has come."""

    cron_id: UUID
    thread_id: UUID | None
    assistant_id: UUID
    metadata_filter: RawJson
    """What whoever made it may see; its runs see no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronFilter:
    """What to look for among crons. None: any."""

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
"""(sort_by, sort_order) -> ORDER BY; the id behind it makes pages stable."""


async def database_time(conn: Conn) -> datetime:
    """Postgres's time: the one by which ticks are due."""
    cursor = await conn.execute("SELECT now()")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row[0]


async def create(conn: Conn, cron_id: UUID, new: NewCron) -> Cron | None:
    """Make a cron. None if the caller has no such thread."""
    cursor = conn.cursor(row_factory=rows.row_factory(Cron))
    await cursor.execute(
        """
        WITH thread AS (
            SELECT FROM threads
             WHERE thread_id = %(thread_id)s::uuid AND project_id = %(project)s AND metadata @> %(match)s
               FOR KEY SHARE
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
            "match": new.runs.jsonb,
            "metadata": Jsonb(new.filters.with_owner(new.definition.metadata)),
        },
    )
    cron = await cursor.fetchone()
    await notify(conn, CRONS)
    return cron


async def get(conn: Conn, filters: Filters, cron_id: UUID) -> Cron | None:
    """The cron, or None where there is none of the caller's."""
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
    """As `get`; nobody else changes or fires the cron before the transaction ends."""
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
    """Replace what a client may say of the cron; None where there is none of the caller's. Its runs then see `runs`."""
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
        definition.parameters
        | {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb, "runs": runs.jsonb},
    )
    cron = await cursor.fetchone()
    await notify(conn, CRONS)
    return cron


async def delete(conn: Conn, filters: Filters, cron_id: UUID) -> bool:
    """Delete the cron, not its runs; False where there is none of the caller's."""
    done = await conn.execute(
        "DELETE FROM crons WHERE cron_id = %(cron_id)s AND project_id = %(project)s AND metadata @> %(match)s",
        {"cron_id": cron_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return done.rowcount == 1


async def search(
    conn: Conn, filters: Filters, wanted: CronFilter, *, order: tuple[str, str], page: PageRequest
) -> list[SizedRow[Cron]]:
    """Crons that match, in `order` (a key of `ORDERS`)."""
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
    parameters = wanted.parameters | page.parameters | {"project": conn.project_id, "match": filters.jsonb}
    await cursor.execute(bounded(listing, "payload", "metadata"), parameters)
    return await cursor.fetchall()


async def count(conn: Conn, filters: Filters, wanted: CronFilter) -> int:
    """How many crons match."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM crons
         WHERE project_id = %(project)s AND metadata @> %(match)s AND metadata @> %(metadata)s
           AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s)
           AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
           AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
        """,
        wanted.parameters | {"project": conn.project_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def list_due(conn: Conn, at: datetime, graph_ids: Sequence[str]) -> Sequence[DueCron]:
    """The crons whose tick has come by `at`, whosever they are, the latest first served last.

    Those of the graphs, and those whose assistant is gone.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(DueCron))
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
    """Hold a cron whose tick is due, or None where it is not, or no longer, or another process holds it.

    The caller fires the tick and calls `advance` in the same transaction.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(ClaimedCron))
    await cursor.execute(
        """
        SELECT *
          FROM crons
         WHERE cron_id = %(cron_id)s AND enabled AND next_run_date <= now()
           FOR NO KEY UPDATE SKIP LOCKED
        """,
        {"cron_id": cron_id},
    )
    return await cursor.fetchone()


async def advance(conn: Conn, cron_id: UUID, next_run_date: datetime | None) -> None:
    """Move a claimed cron on to its next tick; None: there is none."""
    await conn.execute(
        "UPDATE crons SET next_run_date = %(next_run_date)s WHERE cron_id = %(cron_id)s",
        {"cron_id": cron_id, "next_run_date": next_run_date},
    )


async def seconds_to_next(conn: Conn, after: datetime) -> float | None:
    """Seconds until the first tick behind `after`, below 0 where it has come meanwhile; None where there is none."""
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM min(next_run_date) - now())::float
          FROM crons
         WHERE project_id = %(project)s AND enabled AND next_run_date > %(after)s
        """,
        {"project": conn.project_id, "after": after},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
