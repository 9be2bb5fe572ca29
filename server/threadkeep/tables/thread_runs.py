"""Thread runs: the runs of a followed thread, in order, with their results."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.runs import RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRun:
    """A run of a followed thread."""

    run_id: UUID
    queue_position: int
    graph_id: str
    status: RunStatus
    due: bool
    """Its `run_after` has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """The status of a run and of its thread."""

    status: RunStatus
    error: RawJson | None
    finished_at: datetime | None
    thread_status: str
    interrupts: RawJson
    """The thread's interrupts by task. They belong to the run if it is the newest."""
    newest: bool


async def list_thread_runs(conn: Conn, filters: Filters, thread_id: UUID, *, position: int) -> list[ThreadRun]:
    """The thread's runs after a queue position, in order."""
    cursor = conn.cursor(row_factory=rows.row_factory(ThreadRun))
    await cursor.execute(
        """
        SELECT run_id, queue_position, graph_id, runs.status, run_after <= now() AS due
          FROM runs JOIN threads USING (thread_id)
         WHERE thread_id = %(thread_id)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s AND queue_position > %(position)s
         ORDER BY queue_position
         LIMIT 1000 -- the reader continues after the last one
        """,
        {"thread_id": thread_id, "position": position, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()


async def get_thread_run(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID | None) -> ThreadRun | None:
    """The thread's run with this id, or without an id its first pending or running one. None if there is none."""
    cursor = conn.cursor(row_factory=rows.row_factory(ThreadRun))
    await cursor.execute(
        """
        SELECT run_id, queue_position, graph_id, runs.status, run_after <= now() AS due
          FROM runs JOIN threads USING (thread_id)
         WHERE thread_id = %(thread_id)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND CASE WHEN %(run_id)s::uuid IS NULL THEN runs.status IN ('pending', 'running')
                    ELSE run_id = %(run_id)s END
         ORDER BY queue_position
         LIMIT 1
        """,
        {"thread_id": thread_id, "run_id": run_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def record_thread_events(
    conn: Conn, filters: Filters, thread_id: UUID, seconds: float, recent_s: float
) -> int | None:
    """Record the events of the thread's runs for `seconds` seconds. None if the caller has no such thread.

    Returns the queue position before the first run that is running, pending, or ended within `recent_s` seconds. If the
    thread is interrupted, its newest run always counts as recent.
    """
    # An interrupted thread shows its newest run of any age, because that run has asked the question.
    cursor = await conn.execute(
        """
        WITH watched AS (
            UPDATE threads
               SET record_events_until = now() + make_interval(secs => %(seconds)s)
             WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
            RETURNING thread_id, status
        )
        SELECT coalesce(
                   min(queue_position) FILTER (
                       WHERE finished_at IS NULL OR finished_at > now() - make_interval(secs => %(recent_s)s)
                   ) - 1,
                   max(queue_position) - (watched.status = 'interrupted')::int, -- minus 1 selects the newest run too
                   0
               )
          FROM watched LEFT JOIN runs USING (thread_id) -- a thread without runs has a row too
         GROUP BY watched.thread_id, watched.status
        """,
        {
            "thread_id": thread_id,
            "seconds": seconds,
            "recent_s": recent_s,
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else None


async def first_active_position(conn: Conn, thread_id: UUID, run_id: UUID) -> int:
    """The queue position of the thread's first running or due run, or else of the run itself."""
    cursor = await conn.execute(
        """
        SELECT coalesce(min(queue_position) FILTER (WHERE finished_at IS NULL AND run_after <= now()),
                        max(queue_position) FILTER (WHERE run_id = %(run_id)s),
                        0)
          FROM runs
         WHERE thread_id = %(thread_id)s AND (finished_at IS NULL OR run_id = %(run_id)s)
        """,
        {"thread_id": thread_id, "run_id": run_id},
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestRun:
    """The newest run of a thread, with its parameters. The thread's interrupts come from it."""

    run_id: UUID
    assistant_id: UUID
    status: RunStatus
    kwargs: RawJson


async def newest_run(conn: Conn, filters: Filters, thread_id: UUID) -> NewestRun | None:
    """The thread's newest run. None if there is none."""
    cursor = conn.cursor(row_factory=rows.row_factory(NewestRun))
    await cursor.execute(
        """
        SELECT run_id, assistant_id, runs.status, kwargs
          FROM runs JOIN threads USING (thread_id)
         WHERE thread_id = %(thread_id)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY queue_position DESC
         LIMIT 1
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingThread:
    """The questions of a thread, and the run that asks them."""

    status: str
    interrupts: RawJson
    """By task."""
    metadata: RawJson
    run_id: UUID | None
    """The newest run. None if the thread has no run: it is a copy, or its runs were deleted."""


async def waiting_thread(conn: Conn, filters: Filters, thread_id: UUID) -> WaitingThread | None:
    """The thread's questions and its newest run at one moment. None if the caller has no such thread.

    It is one statement, because another answer may start a run between two: that run would then seem to ask the questions.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(WaitingThread))
    await cursor.execute(
        """
        SELECT status, interrupts, metadata,
               (SELECT run_id
                  FROM runs
                 WHERE runs.thread_id = threads.thread_id
                 ORDER BY queue_position DESC
                 LIMIT 1) AS run_id
          FROM threads
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def run_end(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> RunEnd | None:
    """The run's status and its thread's status. None if the run was deleted."""
    cursor = conn.cursor(row_factory=rows.row_factory(RunEnd))
    await cursor.execute(
        """
        SELECT runs.status, runs.error, runs.finished_at, threads.status AS thread_status, threads.interrupts,
               NOT EXISTS (
                   SELECT FROM runs AS later
                    WHERE later.thread_id = runs.thread_id AND later.queue_position > runs.queue_position
               ) AS newest
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
        """,
        {"run_id": run_id, "thread_id": thread_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()
