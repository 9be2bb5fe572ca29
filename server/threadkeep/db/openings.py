"""Openings: from a request to a row of `runs`, which runs at once or waits in the queue.

One transaction on a locked thread, so that what it finds going on there is what goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from threadkeep.db import idempotency, rows
from threadkeep.db.filters import Filters
from threadkeep.db.idempotency import Key
from threadkeep.db.pool import Conn, Pool, defer_flush, pipeline
from threadkeep.db.queue import TEMPORARY_S, lock_thread
from threadkeep.db.runs import Run
from threadkeep.db.threads import Ttl

SUPERSEDING = frozenset({"interrupt", "rollback"})
"""Strategies that end what goes on on the thread."""

Results: TypeAlias = tuple[AsyncCursor[Any], AsyncCursor[Run], AsyncCursor[Any] | None]
"""What the statements of one opening say: of the thread, of the run, of the runs it superseded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be opened."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: Mapping[str, Any]
    """Over that of the assistant and of the thread."""
    assistant_metadata: Mapping[str, Any]
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
    principal: bytes | None = None
    """JSON: the user of whoever asks."""
    key: Key | None = None
    """The Idempotency-Key by which it is asked for, reserved before."""
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
        "metadata": Jsonb(filters.unreserved(new.metadata)),  # the thread's own say whose it is
        "assistant_metadata": Jsonb(new.assistant_metadata),
        "mark": Jsonb({"graph_id": new.graph_id, "assistant_id": str(new.assistant_id)}),
        "kwargs": new.kwargs.decode(),
        "principal": new.principal.decode() if new.principal else None,
        "strategy": new.multitask_strategy,
        "after_s": new.after_s,
        "temporary": new.temporary,
        "kept": new.kept,
        "worker_id": new.worker_id,
        "match": filters.jsonb,
    }
    if new.create_thread:
        await _create_thread(conn, filters, new)
    if new.worker_id is not None:  # nobody is told of the run before its end, which is on disk
        await defer_flush(conn)
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
                              principal, multitask_strategy, attempt, worker_id, run_after, temporary, kept, started_at)
            SELECT %(run_id)s, %(thread_id)s, %(assistant_id)s, %(graph_id)s, start.status,
                   %(assistant_metadata)s || thread.metadata || %(metadata)s || %(mark)s, %(kwargs)s::jsonb,
                   %(principal)s::jsonb, %(strategy)s,
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
    if new.key is not None:
        await idempotency.settle(conn, new.key, new.run_id)
    state = await conn.execute(
        """
        SELECT EXISTS (SELECT FROM threads WHERE thread_id = %(thread_id)s AND metadata @> %(match)s) AS thread_found,
               (SELECT other.run_id FROM runs AS other
                 WHERE other.thread_id = %(thread_id)s AND other.run_id <> %(run_id)s
                   AND other.status IN ('pending', 'running') AND other.run_after <= now()
                 ORDER BY other.queue_position LIMIT 1) AS busy_with,
               run.kept,
               CASE WHEN run.status = 'pending' THEN pg_notify('threadkeep', 'pending') END,
               CASE WHEN thread.watched_until > now() THEN pg_notify('threadkeep', 'thread:' || run.thread_id) END
          FROM (VALUES (1)) AS always
          LEFT JOIN runs AS run ON run.run_id = %(run_id)s
          LEFT JOIN threads AS thread ON thread.thread_id = run.thread_id
        """,
        parameters,
    )
    if new.multitask_strategy not in SUPERSEDING:
        return state, run, None
    return state, run, await _supersede(conn, new)


async def _opened(results: Results) -> Opened:
    state, run, superseded = results
    thread_found, busy_with, kept, *_ = await state.fetchone() or (False, None, None)
    told = await superseded.fetchall() if superseded else []
    return Opened(
        run=await run.fetchone(),
        thread_found=thread_found,
        kept=bool(kept),
        busy_with=busy_with,
        superseded=[run_id for run_id, running, *_ in told if running],
    )


async def _create_thread(conn: Conn, filters: Filters, new: NewRun) -> None:
    """Make the thread where it is missing; its metadata is the run's, and satisfies the caller's own filter."""
    await conn.execute(
        """
        INSERT INTO threads (thread_id, metadata, ttl_strategy, ttl_minutes, temporary_until)
        VALUES (%(thread_id)s, %(metadata)s, %(strategy)s, %(minutes)s,
                now() + make_interval(secs => %(temporary_s)s))
        ON CONFLICT (thread_id) DO NOTHING
        """,
        {
            "thread_id": new.thread_id,
            "metadata": Jsonb(filters.stamped(new.metadata)),
            "strategy": new.thread_ttl and new.thread_ttl.strategy,
            "minutes": new.thread_ttl and new.thread_ttl.minutes,
            "temporary_s": TEMPORARY_S if new.temporary else None,
        },
    )


async def _supersede(conn: Conn, new: NewRun) -> Any:
    """End what waits on the thread, and tell what runs to stop."""
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
               AND EXISTS (SELECT FROM runs WHERE run_id = %(run_id)s)
            RETURNING run_id, status = 'running' AS running
        )
        SELECT run_id, running, pg_notify('threadkeep', 'cancel'), pg_notify('threadkeep', 'run:' || run_id)
          FROM superseded
        """,
        {"run_id": new.run_id, "thread_id": new.thread_id, "strategy": new.multitask_strategy},
    )
