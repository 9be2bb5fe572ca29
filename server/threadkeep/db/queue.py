"""Queue: runs from the request to their end. The table `runs` is the queue.

The states and who moves them: docs/design.md#runs. A statement that decides by what else goes on on a thread first
locks the thread's row in the same transaction, so that what it then sees is what is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from threadkeep.db import rows, threads
from threadkeep.db.filters import EVERYTHING, Filters
from threadkeep.db.pool import Conn, Pool, pipeline
from threadkeep.db.runs import FinalStatus, Run, ThreadStatus
from threadkeep.db.threads import Ttl
from threadkeep.wire import Json

Results: TypeAlias = tuple[AsyncCursor[Any], AsyncCursor[Run], AsyncCursor[Any]]


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
    thread_ttl: Ttl | None = None
    """Of a thread that is made for it."""
    worker_id: UUID | None = None
    """The process that starts it at once if its thread is free; None: it waits for a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What became of a `NewRun`."""

    run: Run | None
    """None: there is no such thread, or it is busy and the strategy is `reject`."""
    thread_found: bool
    kept: bool
    """Its events are to be written: asked for, or somebody watches the thread."""
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


async def open_run(pool: Pool, filters: Filters, new: NewRun) -> Opened:
    """Open a run on its thread, in one round trip: `running` where it may start here and now, else `pending`."""
    async with pipeline(pool) as conn:
        results = await _open(conn, filters, new)
    return await _opened(results)


async def open_run_in(conn: Conn, filters: Filters, new: NewRun) -> Opened:
    """As `open_run`, as a part of the transaction that the caller has begun on `conn`."""
    async with conn.pipeline():
        results = await _open(conn, filters, new)
    return await _opened(results)


async def _open(conn: Conn, filters: Filters, new: NewRun) -> Results:
    """Send the statements; what they say of the thread, the run, and the runs it superseded, for `_opened`."""
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
    if new.create_thread:
        await _create_thread(conn, filters, new)
    await lock_thread(conn, new.thread_id)
    run = conn.cursor(row_factory=rows.of(Run))
    await run.execute(
        """
        WITH thread AS (
            SELECT metadata, watched_until FROM threads WHERE thread_id = %(thread_id)s AND metadata @> %(match)s
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
                   %(kept)s OR start.status = 'pending' OR coalesce(thread.watched_until > now(), false),
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
    state = await conn.execute(
        """
        SELECT (SELECT run_id FROM runs
                 WHERE thread_id = %(thread_id)s AND run_id <> %(run_id)s
                   AND status IN ('pending', 'running') AND run_after <= now()
                 ORDER BY queue_position LIMIT 1) AS busy_with,
               EXISTS (SELECT FROM threads
                        WHERE thread_id = %(thread_id)s AND metadata @> %(match)s) AS thread_found,
               (SELECT kept FROM runs WHERE run_id = %(run_id)s) AS kept
        """,
        parameters,
    )
    superseded = await _supersede(conn, new)
    await conn.execute(
        """
        SELECT pg_notify('threadkeep', topic)
          FROM runs
          JOIN threads USING (thread_id)
         CROSS JOIN LATERAL (VALUES ('pending', runs.status = 'pending'),
                                    ('thread:' || thread_id, watched_until > now())) AS told (topic, applies)
         WHERE run_id = %(run_id)s AND applies
        """,
        parameters,
    )
    return state, run, superseded


async def _opened(results: Results) -> Opened:
    state, run, superseded = results
    busy_with, thread_found, kept = await state.fetchone() or (None, False, None)
    return Opened(
        run=await run.fetchone(),
        thread_found=thread_found,
        kept=bool(kept),
        busy_with=busy_with,
        superseded=[row[0] for row in await superseded.fetchall() if row[1]],
    )


async def _create_thread(conn: Conn, filters: Filters, new: NewRun) -> None:
    """Make the thread where it is missing; its metadata is the run's, and satisfies the caller's own filter."""
    await conn.execute(
        """
        INSERT INTO threads (thread_id, metadata, ttl_strategy, ttl_minutes)
        VALUES (%(thread_id)s, %(metadata)s, %(strategy)s, %(minutes)s)
        ON CONFLICT (thread_id) DO NOTHING
        """,
        {
            "thread_id": new.thread_id,
            "metadata": Jsonb({**new.metadata, **filters.match}),
            "strategy": new.thread_ttl and new.thread_ttl.strategy,
            "minutes": new.thread_ttl and new.thread_ttl.minutes,
        },
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


async def any_due(conn: Conn) -> bool:
    """Whether a pending run is due; its thread may still be busy."""
    cursor = await conn.execute("SELECT EXISTS (SELECT FROM runs WHERE status = 'pending' AND run_after <= now())")
    row = await cursor.fetchone()
    return bool(row and row[0])


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


async def watch(conn: Conn, filters: Filters, thread_id: UUID, seconds: float) -> bool:
    """Have the thread's runs keep their events for so long; False where there is none of the caller's."""
    done = await conn.execute(
        """
        UPDATE threads
           SET watched_until = now() + make_interval(secs => %(seconds)s)
         WHERE thread_id = %(thread_id)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "seconds": seconds, "match": filters.jsonb},
    )
    return done.rowcount == 1
