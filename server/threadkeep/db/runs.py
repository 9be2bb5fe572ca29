"""Runs: the table is also the queue.

Every statement that touches `runs` is here. The states and who moves them: docs/design.md#runs. A statement that
decides by what else goes on on a thread first locks the thread's row in the same transaction, so that what it then
sees is what is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.db import rows, threads
from threadkeep.db.filters import EVERYTHING, Filters
from threadkeep.db.pool import Conn, Pool, pipeline
from threadkeep.wire import Json

RunStatus: TypeAlias = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
FinalStatus: TypeAlias = Literal["success", "error", "timeout", "interrupted"]
ThreadStatus: TypeAlias = Literal["idle", "interrupted", "error"]
CancelAction: TypeAlias = Literal["interrupt", "rollback"]
FINAL: frozenset[str] = frozenset({"success", "error", "timeout", "interrupted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A row of `runs`; its field names are the protocol's, so that it is also the JSON a client gets."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    created_at: datetime
    updated_at: datetime
    status: RunStatus
    metadata: Json
    kwargs: Json
    multitask_strategy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run that this process now executes."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: Json
    kwargs: Json
    attempt: int
    temporary: bool
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be opened."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: Mapping[str, Any]
    kwargs: bytes
    """JSON."""
    multitask_strategy: str = "enqueue"
    after_s: float = 0
    temporary: bool = False
    kept: bool = True
    """Write its events to `run_events`; a run that has to wait is kept in any case, for any process may execute it."""
    create_thread: bool = False
    worker_id: UUID | None = None
    """The process that starts it at once if its thread is free; None: it waits for a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What became of a `NewRun`."""

    run: Run | None
    """None: there is no such thread, or it is busy and the strategy is `reject`."""
    thread_found: bool
    busy_with: UUID | None
    """The run that was going on or waiting on the thread."""
    superseded: Sequence[UUID]
    """Running runs that the new one told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, and what its thread then holds."""

    status: FinalStatus
    thread_status: ThreadStatus
    values: bytes | None
    """JSON; None leaves the thread's values as they are."""
    interrupts: Mapping[str, Any]
    error: Mapping[str, Any] | None
    remove: bool = False
    """The run's row goes too: it was rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a run has answered, as far as its row and its thread's tell."""

    status: RunStatus
    error: Json | None
    values: Json | None
    interrupts: Json


async def open_run(pool: Pool, filters: Filters, new: NewRun) -> Opened:
    """Open a run on its thread, in one round trip: `running` where it may start here and now, else `pending`."""
    parameters = {
        "run_id": new.run_id,
        "thread_id": new.thread_id,
        "assistant_id": new.assistant_id,
        "graph_id": new.graph_id,
        "metadata": Jsonb(new.metadata),
        "mark": Jsonb({"graph_id": new.graph_id, "assistant_id": str(new.assistant_id)}),
        "kwargs": new.kwargs.decode(),
        "strategy": new.multitask_strategy,
        "after_s": new.after_s,
        "temporary": new.temporary,
        "kept": new.kept,
        "worker_id": new.worker_id,
        "match": filters.jsonb,
    }
    async with pipeline(pool) as conn:
        if new.create_thread:
            await _create_thread(conn, filters, new)
        await lock_thread(conn, new.thread_id)
        run = conn.cursor(row_factory=rows.of(Run))
        state = await conn.execute(
            """
            SELECT (SELECT run_id FROM runs
                     WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running') AND run_after <= now()
                     ORDER BY queue_position LIMIT 1) AS busy_with,
                   EXISTS (SELECT FROM threads
                            WHERE thread_id = %(thread_id)s AND metadata @> %(match)s) AS thread_found
            """,
            parameters,
        )
        await run.execute(
            """
            WITH thread AS (
                SELECT metadata FROM threads WHERE thread_id = %(thread_id)s AND metadata @> %(match)s
            ), busy AS (
                SELECT FROM runs
                 WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running') AND run_after <= now()
                 LIMIT 1
            ), start AS (
                SELECT CASE WHEN %(worker_id)s::uuid IS NOT NULL AND NOT EXISTS (SELECT FROM busy)
                            THEN 'running' ELSE 'pending' END AS status
            ), opened AS (
                INSERT INTO runs (run_id, thread_id, assistant_id, graph_id, status, metadata, kwargs,
                                  multitask_strategy, attempt, worker_id, run_after, temporary, kept, started_at)
                SELECT %(run_id)s, %(thread_id)s, %(assistant_id)s, %(graph_id)s, start.status,
                       thread.metadata || %(metadata)s, %(kwargs)s::jsonb, %(strategy)s,
                       CASE start.status WHEN 'running' THEN 1 ELSE 0 END,
                       CASE start.status WHEN 'running' THEN %(worker_id)s::uuid END,
                       now() + make_interval(secs => %(after_s)s), %(temporary)s,
                       %(kept)s OR start.status = 'pending',
                       CASE start.status WHEN 'running' THEN now() END
                  FROM thread, start
                 WHERE NOT (%(strategy)s = 'reject' AND EXISTS (SELECT FROM busy))
                RETURNING *
            ), marked AS (
                UPDATE threads
                   SET status = 'busy', metadata = metadata || %(mark)s, updated_at = now()
                 WHERE thread_id = (SELECT thread_id FROM opened)
            )
            SELECT * FROM opened
            """,
            parameters,
        )
        superseded = await _supersede(conn, new)
        await conn.execute(
            """
            SELECT pg_notify('threadkeep', 'pending') FROM runs WHERE run_id = %(run_id)s AND status = 'pending'
            """,
            parameters,
        )
    busy_with, thread_found = await state.fetchone() or (None, False)
    return Opened(
        run=await run.fetchone(),
        thread_found=thread_found,
        busy_with=busy_with,
        superseded=[row[0] for row in await superseded.fetchall() if row[1]],
    )


async def _create_thread(conn: Conn, filters: Filters, new: NewRun) -> None:
    """Make the thread where it is missing; its metadata is the run's, and satisfies the caller's own filter."""
    await conn.execute(
        """
        INSERT INTO threads (thread_id, metadata) VALUES (%(thread_id)s, %(metadata)s)
        ON CONFLICT (thread_id) DO NOTHING
        """,
        {"thread_id": new.thread_id, "metadata": Jsonb({**new.metadata, **filters.match})},
    )


async def _supersede(conn: Conn, new: NewRun) -> Any:
    """Where the strategy says so, end what waits on the thread and tell what runs to stop."""
    return await conn.execute(
        """
        WITH superseded AS (
            UPDATE runs
               SET status        = CASE status WHEN 'pending' THEN 'interrupted' ELSE status END,
                   finished_at   = CASE status WHEN 'pending' THEN now() END,
                   cancel_action = %(strategy)s,
                   cancel_reason = 'superseded by run ' || %(run_id)s::text,
                   updated_at    = now()
             WHERE thread_id = %(thread_id)s AND run_id <> %(run_id)s AND status IN ('pending', 'running')
               AND %(strategy)s IN ('interrupt', 'rollback')
               AND EXISTS (SELECT FROM runs WHERE run_id = %(run_id)s)
            RETURNING run_id, status = 'running' AS running
        )
        SELECT run_id, running, pg_notify('threadkeep', 'cancel'), pg_notify('threadkeep', 'run:' || run_id)
          FROM superseded
        """,
        {"run_id": new.run_id, "thread_id": new.thread_id, "strategy": new.multitask_strategy},
    )


async def lock_thread(conn: Conn, thread_id: UUID) -> None:
    """Hold the thread's row until the transaction ends: from here on nobody else moves its runs."""
    await conn.execute("SELECT FROM threads WHERE thread_id = %(thread_id)s FOR UPDATE", {"thread_id": thread_id})


async def claim(conn: Conn, worker_id: UUID) -> Claimed | None:
    """Take the oldest pending run whose thread is free and whose turn it is, or None where there is none.

    Two workers never take the same run: its row is locked, and locked rows are skipped. The attempt is counted
    before the graph starts, so that a run that kills its process is not tried for ever.
    """
    cursor = conn.cursor(row_factory=rows.of(Claimed))
    await cursor.execute(
        """
        UPDATE runs
           SET status = 'running', worker_id = %(worker_id)s, attempt = attempt + 1, started_at = now(),
               updated_at = now()
         WHERE run_id = (
            SELECT run_id
              FROM runs AS candidate
             WHERE status = 'pending' AND run_after <= now()
               AND NOT EXISTS (
                SELECT FROM runs AS earlier
                 WHERE earlier.thread_id = candidate.thread_id
                   AND (earlier.status = 'running'
                        OR (earlier.status = 'pending' AND earlier.run_after <= now()
                            AND earlier.queue_position < candidate.queue_position))
               )
             ORDER BY queue_position
             LIMIT 1
               FOR UPDATE SKIP LOCKED
         )
        RETURNING *
        """,
        {"worker_id": worker_id},
    )
    return await cursor.fetchone()


async def seconds_to_next(conn: Conn) -> float | None:
    """Seconds until the next delayed run is due (`after_seconds`), or None where there is none."""
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM min(run_after) - now())::float
          FROM runs
         WHERE status = 'pending' AND run_after > now()
        """
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def finish(pool: Pool, claimed: Claimed, worker_id: UUID, ending: Ending) -> bool:
    """Close a run that this process executes, and its thread; False where the run was no longer its own.

    One round trip; it also wakes the next in line, and whoever follows the run in another process.
    """
    parameters = {
        "run_id": claimed.run_id,
        "thread_id": claimed.thread_id,
        "worker_id": worker_id,
        "status": ending.status,
        "thread_status": ending.thread_status,
        "values": ending.values.decode() if ending.values is not None else None,
        "interrupts": Jsonb(ending.interrupts),
        "error": Jsonb(ending.error) if ending.error is not None else None,
        "followed": f"run:{claimed.run_id}",
        "kept": claimed.kept,
    }
    async with pipeline(pool) as conn:
        await lock_thread(conn, claimed.thread_id)
        done = await conn.execute(
            """
            WITH closed AS (
                UPDATE runs
                   SET status = %(status)s, error = %(error)s, finished_at = now(), updated_at = now(), worker_id = NULL
                 WHERE run_id = %(run_id)s AND status = 'running' AND worker_id = %(worker_id)s
                RETURNING thread_id
            )
            UPDATE threads
               SET status = CASE WHEN EXISTS (SELECT FROM runs
                                               WHERE runs.thread_id = threads.thread_id AND runs.status = 'pending')
                                 THEN 'busy' ELSE %(thread_status)s END,
                   "values" = coalesce(%(values)s::jsonb, "values"),
                   interrupts = %(interrupts)s, error = %(error)s, updated_at = now(), state_updated_at = now()
              FROM closed
             WHERE threads.thread_id = closed.thread_id
            """,
            parameters,
        )
        await conn.execute(
            """
            SELECT pg_notify('threadkeep', 'pending')
             WHERE EXISTS (SELECT FROM runs WHERE thread_id = %(thread_id)s AND status = 'pending')
            """,
            parameters,
        )
        await conn.execute("SELECT pg_notify('threadkeep', %(followed)s) WHERE %(kept)s", parameters)
        if ending.remove:
            await conn.execute("DELETE FROM runs WHERE run_id = %(run_id)s AND finished_at IS NOT NULL", parameters)
        if claimed.temporary:
            await threads.delete(conn, EVERYTHING, [claimed.thread_id])
    return done.rowcount == 1


async def put_back(conn: Conn, worker_id: UUID) -> int:
    """Return this process's running runs to the queue, the attempt not counted: it is stopping. How many."""
    done = await conn.execute(
        """
        UPDATE runs
           SET status = 'pending', worker_id = NULL, attempt = greatest(attempt - 1, 0), kept = true, updated_at = now()
         WHERE worker_id = %(worker_id)s AND status = 'running'
        """,
        {"worker_id": worker_id},
    )
    if done.rowcount:
        await conn.execute("SELECT pg_notify('threadkeep', 'pending')")
    return done.rowcount


async def take_over(conn: Conn, max_attempts: int) -> Sequence[UUID]:
    """Put the runs of dead processes back in the queue, or end those that were tried often enough; which."""
    cursor = await conn.execute(
        """
        WITH orphans AS (
            SELECT run_id, thread_id, attempt
              FROM runs
             WHERE status = 'running'
               AND NOT EXISTS (SELECT FROM workers WHERE workers.worker_id = runs.worker_id)
               FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE runs
               SET status      = CASE WHEN orphans.attempt >= %(max_attempts)s THEN 'error' ELSE 'pending' END,
                   finished_at = CASE WHEN orphans.attempt >= %(max_attempts)s THEN now() END,
                   error       = CASE WHEN orphans.attempt >= %(max_attempts)s THEN %(error)s END,
                   worker_id   = NULL,
                   kept        = true,
                   updated_at  = now()
              FROM orphans
             WHERE runs.run_id = orphans.run_id
            RETURNING runs.run_id, runs.thread_id, runs.status
        ), failed AS (
            UPDATE threads
               SET status = CASE WHEN EXISTS (SELECT FROM runs WHERE runs.thread_id = threads.thread_id
                                                AND runs.status = 'pending') THEN 'busy' ELSE 'error' END,
                   error = %(error)s, updated_at = now()
             WHERE thread_id IN (SELECT thread_id FROM moved WHERE status = 'error')
        )
        SELECT run_id, pg_notify('threadkeep', 'pending'), pg_notify('threadkeep', 'run:' || run_id) FROM moved
        """,
        {
            "max_attempts": max_attempts,
            "error": Jsonb({"error": "WorkerDied", "message": "the process died each time that it ran this"}),
        },
    )
    return [row[0] for row in await cursor.fetchall()]


async def get(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> Run | None:
    """The run, or None where there is none of the caller's on that thread."""
    cursor = conn.cursor(row_factory=rows.of(Run))
    await cursor.execute(
        """
        SELECT runs.*
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s AND threads.metadata @> %(match)s
        """,
        {"run_id": run_id, "thread_id": thread_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def get_stored(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> Stored | None:
    """What the run has answered, or None where there is none of the caller's on that thread."""
    cursor = conn.cursor(row_factory=rows.of(Stored))
    await cursor.execute(
        """
        SELECT runs.status, runs.error, threads."values", threads.interrupts
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s AND threads.metadata @> %(match)s
        """,
        {"run_id": run_id, "thread_id": thread_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def status(conn: Conn, run_id: UUID) -> RunStatus | None:
    """Where the run stands, for whoever follows it already; None where it is gone."""
    cursor = await conn.execute("SELECT status FROM runs WHERE run_id = %(run_id)s", {"run_id": run_id})
    row = await cursor.fetchone()
    return row[0] if row else None


async def cancels(conn: Conn, worker_id: UUID) -> Sequence[tuple[UUID, CancelAction, str]]:
    """The running runs of this process that are to stop: id, action, reason."""
    cursor = await conn.execute(
        """
        SELECT run_id, cancel_action, coalesce(cancel_reason, 'cancelled')
          FROM runs
         WHERE worker_id = %(worker_id)s AND status = 'running' AND cancel_action IS NOT NULL
        """,
        {"worker_id": worker_id},
    )
    return await cursor.fetchall()


async def any_due(conn: Conn) -> bool:
    """Whether a pending run is due; its thread may still be busy."""
    cursor = await conn.execute("SELECT EXISTS (SELECT FROM runs WHERE status = 'pending' AND run_after <= now())")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def delete(conn: Conn, filters: Filters, thread_id: UUID, run_id: UUID) -> bool:
    """Forget a run that has ended, with its events; False where there is none such of the caller's."""
    done = await conn.execute(
        """
        DELETE FROM runs USING threads
         WHERE runs.thread_id = threads.thread_id AND threads.metadata @> %(match)s
           AND runs.thread_id = %(thread_id)s AND run_id = %(run_id)s AND finished_at IS NOT NULL
        """,
        {"run_id": run_id, "thread_id": thread_id, "match": filters.jsonb},
    )
    return done.rowcount == 1
