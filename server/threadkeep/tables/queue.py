"""Queue: runs from the request to their end. The table `runs` is the queue.

The states and who moves them: docs/design.md#runs. Each move holds the thread's row, and decides by a later statement in
the same transaction (`migrations/0018_gate.sql`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.json import Json
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.runs import FinalStatus, ThreadStatus

TEMPORARY_S = 300.0
"""How long a temporary thread stays after its run, so that the answer can be had from another process or once more."""
HELD_S = 0.1
"""After so long a thread that another transaction held is tried again."""
OutputKeys: TypeAlias = list[str] | str | None
"""The keys of a thread's values that are its run's answer, or the only one, whose value is; None: all of them."""
STRIDE = 100_000
"""Positions left out between two attempts: the first may have told its readers more than it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run that this process now executes."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: Json
    kwargs: Json
    principal: Json | None
    """The user of whoever asked for it."""
    attempt: int
    worker_id: UUID
    """The lease under which it is executed."""
    temporary: bool
    kept: bool
    new_thread: bool = False
    """The thread was made for it: it has no checkpoint yet."""
    events_before: int = 0
    """The position behind which this attempt's events begin."""
    waited_s: float | None = None
    """How long it had been due; None where it never waited in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, and what its thread then holds."""

    status: FinalStatus
    thread_status: ThreadStatus
    values: bytes | None
    """JSON; None leaves the thread's values as they are."""
    interrupts: Mapping[str, Any]
    error: Mapping[str, Any] | None
    output_keys: OutputKeys = None
    remove: bool = False
    """The run's row goes too: it was rolled back."""


@dataclass(frozen=True, slots=True)
class End:
    """What the function `finish_run` is to know to close a run that this process executes, and its thread."""

    run_id: UUID
    told: bytes
    """JSON: of the run and its thread."""
    values: bytes | None
    """JSON: what the thread then holds; None: what it held before."""


async def lock_thread(conn: Conn, thread_id: UUID) -> None:
    """Hold the thread's row until the transaction ends: from here on nobody else moves its runs."""
    await conn.execute(
        "SELECT FROM threads WHERE thread_id = %(thread_id)s FOR NO KEY UPDATE", {"thread_id": thread_id}
    )


async def claim(
    conn: Conn, worker_id: UUID, *, after_principal: str = "", held_back: Sequence[str] = ()
) -> Claimed | None:
    """Claim the next pending run that may start, or return None.

    It is the oldest of the principal whose turn comes after `after_principal`; those of `held_back` have no turn. A
    thread that another transaction holds is passed over, so that two workers never claim the same run. The attempt is
    counted before the graph starts, so that a run that kills its process is not tried for ever.
    """
    cursor = conn.cursor(row_factory=rows.of(Claimed))
    await cursor.execute(
        "SELECT * FROM claim_run(%(worker_id)s, %(stride)s, %(after_principal)s, %(held_back)s)",
        {
            "worker_id": worker_id,
            "stride": STRIDE,
            "after_principal": after_principal,
            "held_back": list(held_back),
        },
    )
    return await cursor.fetchone()


async def any_due(conn: Conn) -> bool:
    """Whether a pending run is due; its thread may still be busy."""
    cursor = await conn.execute("SELECT EXISTS (SELECT FROM runs WHERE status = 'pending' AND run_after <= now())")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def seconds_to_next(conn: Conn, held_back: Sequence[str] = ()) -> float | None:
    """Seconds until a run may be claimed: one that is delayed (`after_seconds`), or whose thread was held just now.

    None if there is none of either. The principals `held_back` wait for a slot, and not for a time.
    """
    cursor = await conn.execute(
        """
        SELECT CASE WHEN EXISTS (
                   SELECT FROM runs
                    WHERE status = 'pending' AND run_after <= now()
                      AND coalesce(principal ->> 'identity', '') <> ALL (%(held_back)s)
                      AND NOT EXISTS (SELECT FROM runs AS earlier
                                       WHERE earlier.thread_id = runs.thread_id
                                         AND (earlier.status = 'running'
                                              OR (earlier.status = 'pending' AND earlier.run_after <= now()
                                                  AND earlier.queue_position < runs.queue_position))))
               THEN %(held_s)s
               ELSE (SELECT extract(epoch FROM min(run_after) - now())::float
                       FROM runs
                      WHERE status = 'pending' AND run_after > now()) END
        """,
        {"held_s": HELD_S, "held_back": list(held_back)},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


def end_of(claimed: Claimed, ending: Ending, *, followed: bool) -> End:
    """How to close a run. It also wakes the next in line and, where the run is `followed`, those who do so in other
    processes."""
    told: dict[str, object] = {
        "run_id": claimed.run_id,
        "thread_id": claimed.thread_id,
        "worker_id": claimed.worker_id,
        "status": ending.status,
        "thread_status": ending.thread_status,
        "interrupts": ending.interrupts,
        "error": ending.error,
        "output_keys": ending.output_keys,
        "temporary_s": TEMPORARY_S if claimed.temporary else None,
        "followed": followed,
        "remove": ending.remove,
    }
    return End(claimed.run_id, json.dumps(told), ending.values)


async def finish(pool: Pool, end: End) -> bool:
    """Close a run in a transaction of its own, behind whoever holds its thread; False where it was no longer its
    worker's. Most ends go along with checkpoints (`persistence/group_commit.py`)."""
    async with pool.connection() as conn:
        done = await conn.execute(
            "SELECT finish_run(%(told)s::jsonb, %(values)s::json)",
            {"told": end.told.decode(), "values": None if end.values is None else end.values.decode()},
        )
        row = await done.fetchone()
    return bool(row and row[0])


async def rollback(conn: Conn, claimed: Claimed) -> bool:
    """Take back what a run wrote that this process executes, or do nothing and return False if it no longer does.

    Nothing of the run may be on its way any more (`WriteBehind.close_and_settle`).
    """
    done = await conn.execute(
        "SELECT rollback_run(%(thread_id)s, %(run_id)s, %(worker_id)s)",
        {"thread_id": claimed.thread_id, "run_id": claimed.run_id, "worker_id": claimed.worker_id},
    )
    row = await done.fetchone()
    return bool(row and row[0])


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
