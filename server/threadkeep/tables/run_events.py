"""Run events: the recorded events of runs, by position.

The process that executes the run appends them in batches. Later readers, and readers in other processes, read them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.arrays import Ints, Texts
from threadkeep.postgres.pool import Conn

PAGE_SIZE = 500
"""The most events in one read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One event of a run's stream. `position` counts from 1. `data` is one line of JSON."""

    position: int
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class RunEventBatch:
    """Events of a run that `worker_id` executes."""

    run_id: UUID
    worker_id: UUID
    events: Sequence[RunEvent]


async def append(conn: Conn, batches: Sequence[RunEventBatch]) -> None:
    """Write the batches of different runs, and wake their readers in other processes.

    An existing position does not change. Events of a deleted run, or of a run that another worker owns, are dropped. The
    flush is deferred, because the flush of the run's result covers them.
    """
    # The arrays have one item for each event, and the place says to which batch it belongs.
    numbered = [(place, event) for place, batch in enumerate(batches, 1) for event in batch.events]
    await conn.execute(
        """
        WITH run AS (
            SELECT runs.run_id, batch.place
              FROM unnest(%(run_ids)b::uuid[], %(worker_ids)b::uuid[]) WITH ORDINALITY AS batch(run_id, worker_id, place)
              JOIN runs ON runs.run_id = batch.run_id AND runs.worker_id = batch.worker_id
             ORDER BY runs.run_id -- all transactions lock runs in this order
               FOR KEY SHARE OF runs -- a transaction that takes the run away locks it FOR UPDATE
        ), added AS (
            INSERT INTO run_events (run_id, position, event, data)
            SELECT run.run_id, item.position, item.event, item.data
              FROM unnest(%(places)b, %(positions)b, %(events)b, string_to_array(%(lines)s, E'\n'))
                   AS item(place, position, event, data)
              JOIN run ON run.place = item.place
            ON CONFLICT DO NOTHING -- a retry after a lost reply
        )
        SELECT pg_notify('threadkeep', 'run:' || run_id), set_config('synchronous_commit', 'off', true) FROM run
        """,
        {
            "run_ids": Texts(batch.run_id for batch in batches),
            "worker_ids": Texts(batch.worker_id for batch in batches),
            "places": Ints(place for place, _ in numbered),
            "positions": Ints(event.position for _, event in numbered),
            "events": Texts(event.event for _, event in numbered),
            "lines": "\n".join(event.data for _, event in numbered),  # an array of text is escaped by Python, at length
        },
    )


async def last_position(conn: Conn, run_id: UUID) -> int:
    """The position of the newest event, even if it was deleted. 0 if there is none."""
    # Deleted events count too, so that no position is used twice.
    cursor = await conn.execute(
        """
        SELECT coalesce((SELECT max(position) FROM run_events WHERE run_id = %(run_id)s),
                        (SELECT deleted_events_until FROM runs WHERE run_id = %(run_id)s), 0)
        """,
        {"run_id": run_id},
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def read(conn: Conn, run_id: UUID, position: int) -> list[RunEvent]:
    """Up to `PAGE_SIZE` events after `position`, in order."""
    cursor = conn.cursor(row_factory=rows.row_factory(RunEvent))
    await cursor.execute(
        """
        SELECT position, event, data
          FROM run_events
         WHERE run_id = %(run_id)s AND position > %(position)s
         ORDER BY position
         LIMIT %(page)s
        """,
        {"run_id": run_id, "position": position, "page": PAGE_SIZE},
    )
    return await cursor.fetchall()


async def deleted_until(conn: Conn, run_id: UUID) -> int:
    """The position up to which the events of a run were deleted. 0 if none were."""
    cursor = await conn.execute("SELECT deleted_events_until FROM runs WHERE run_id = %(run_id)s", {"run_id": run_id})
    row = await cursor.fetchone()
    return (row and row[0]) or 0


async def delete_old(conn: Conn, *, age_s: float, limit: int) -> int:
    """Delete the events of up to `limit` runs that finished `age_s` seconds ago or earlier. Returns the number of runs.

    A run that another transaction has locked is skipped, so processes never wait for each other.
    """
    cursor = await conn.execute(
        """
        WITH old AS (
            SELECT run_id
              FROM runs
             WHERE project_id = %(project)s AND finished_at < now() - make_interval(secs => %(age_s)s)
               AND record_events AND deleted_events_until IS NULL
             ORDER BY finished_at
             LIMIT %(limit)s
               FOR NO KEY UPDATE SKIP LOCKED
        ), deleted AS (
            DELETE FROM run_events USING old WHERE run_events.run_id = old.run_id RETURNING run_events.run_id, position
        ), last_position AS (
            SELECT run_id, max(position) AS position FROM deleted GROUP BY run_id
        )
        UPDATE runs
           SET deleted_events_until = coalesce(last_position.position, 0) -- 0 marks a run without events as done
          FROM old LEFT JOIN last_position USING (run_id)
         WHERE runs.run_id = old.run_id
        """,
        {"project": conn.project_id, "age_s": age_s, "limit": limit},
    )
    return cursor.rowcount
