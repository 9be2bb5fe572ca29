"""Queue: claims and finishes runs. The table `runs` is the queue.

The states and transitions are in docs/design.md#runs. Each transition first locks the thread's row, and then decides in a
later statement of the same transaction (`migrations/functions/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.arrays import Texts
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables.runs import FinalStatus, ThreadStatus

EPHEMERAL_TTL_S = 8.0
"""Seconds that an ephemeral thread exists after its run by default. So clients can still read the answer again, or from
another process."""
HELD_S = 0.1
"""Seconds after which a thread that was locked by another transaction is tried again."""
OutputKeys: TypeAlias = list[str] | str | None
"""The keys of a thread's values in the run's answer. A string: the answer is the value of that key. None: all keys."""
POSITIONS_PER_ATTEMPT = 100_000
"""Positions that are skipped between two attempts. The first attempt may have streamed more events than it stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A run that this process has claimed."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: RawJson
    kwargs: RawJson
    principal: RawJson | None
    """The user that started it."""
    attempt: int
    worker_id: UUID
    """The lease under which it is executed."""
    ephemeral: bool
    record_events: bool
    thread_created: bool = False
    """Its thread was created for it and has no checkpoint yet."""
    start_position: int = 0
    """The position before this attempt's first event."""
    waited_s: float | None = None
    """Seconds that it was due in the queue. None if it was never in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinalState:
    """The final state of a run and of its thread."""

    status: FinalStatus
    thread_status: ThreadStatus
    values: bytes | None
    """JSON. None leaves the thread's values unchanged."""
    interrupts: Mapping[str, Any]
    error: Mapping[str, Any] | None
    output_keys: OutputKeys = None
    delete_run: bool = False
    """Delete the run's row, because it was rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRequest:
    """One run for the SQL function `finish_runs`. Each field is an item of an array there. JSON is bytes."""

    finished_run: UUID
    of_thread: UUID
    holder: UUID
    run_status: FinalStatus
    thread_status: ThreadStatus
    thread_values: bytes | None
    """None: the thread's values do not change."""
    thread_interrupts: bytes
    failure: bytes | None
    answer_keys: bytes
    ephemeral_ttl_s: float | None
    notify_readers: bool
    delete_run: bool


# Each argument is an array of text with a cast. `Texts` packs it once, and a group commit has other arguments before
# these.
FINISH_RUNS: Final = """
    finish_runs(
        finished_runs => %s::text[]::uuid[], of_threads => %s::text[]::uuid[], holders => %s::text[]::uuid[],
        run_statuses => %s::text[], thread_statuses => %s::text[], thread_values => %s::text[]::json[],
        thread_interrupts => %s::text[]::jsonb[], failures => %s::text[]::jsonb[], answer_keys => %s::text[]::jsonb[],
        ephemeral_ttl_s => %s::text[]::float[], notify_readers => %s::text[]::boolean[],
        delete_run => %s::text[]::boolean[], in_batch => %s)
"""
"""A call for several `FinishRequest`s. `end_columns` returns its arguments but the last."""


def end_columns(ends: Sequence[FinishRequest]) -> list[Texts]:
    """The arguments of `FINISH_RUNS`, without `in_batch`."""
    return [Texts(getattr(end, field.name) for end in ends) for field in fields(FinishRequest)]  # in the order above


async def lock_thread(conn: Conn, thread_id: UUID) -> None:
    """Lock the thread's row until the transaction ends. No other process changes its runs meanwhile."""
    # NO KEY: an insert of a run or a cron has a foreign key to the thread, and need not wait for this lock.
    await conn.execute(
        "SELECT FROM threads WHERE thread_id = %(thread_id)s FOR NO KEY UPDATE", {"thread_id": thread_id}
    )


async def claim(
    conn: Conn, worker_id: UUID, graph_ids: Sequence[str], *, after_principal: str = "", held_back: Sequence[str] = ()
) -> ClaimedRun | None:
    """Claim the next pending run of this project and these graphs that may start, or return None.

    It is the oldest run of the next principal after `after_principal`. Principals in `held_back` are skipped. A thread
    that another transaction has locked is skipped, so two workers never claim the same run. The attempt is counted before
    the graph starts, so a run that kills its process is not tried forever.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(ClaimedRun))
    await cursor.execute(
        """
        SELECT *
          FROM claim_run(claimer => %(worker_id)s, of_project => %(project)s, served_graphs => %(graph_ids)s,
                         positions_per_attempt => %(stride)s, after_principal => %(after_principal)s,
                         held_back => %(held_back)s)
        """,
        {
            "worker_id": worker_id,
            "project": conn.project_id,
            "graph_ids": list(graph_ids),
            "stride": POSITIONS_PER_ATTEMPT,
            "after_principal": after_principal,
            "held_back": list(held_back),
        },
    )
    if (claimed := await cursor.fetchone()) is not None:
        conn.note_change(claimed.thread_id, claimed.run_id)
    return claimed


async def has_due_run(conn: Conn, graph_ids: Sequence[str]) -> bool:
    """Whether a pending run of one of the graphs is due. Its thread may still be busy."""
    cursor = await conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM runs
             WHERE project_id = %(project)s AND status = 'pending' AND run_after <= now()
               AND graph_id = ANY(%(graph_ids)s))
        """,
        {"project": conn.project_id, "graph_ids": list(graph_ids)},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def seconds_to_next(conn: Conn, graph_ids: Sequence[str], held_back: Sequence[str] = ()) -> float | None:
    """Seconds until a run may be claimed that is delayed (`after_seconds`), or whose thread is locked now.

    None if there is no such run. Runs of the principals `held_back` do not count, because they wait for a slot.
    """
    cursor = await conn.execute(
        """
        SELECT seconds_to_next_run(of_project => %(project)s, served_graphs => %(graph_ids)s, held_back => %(held_back)s,
                                   held_s => %(held_s)s)
        """,
        {
            "project": conn.project_id,
            "graph_ids": list(graph_ids),
            "held_back": list(held_back),
            "held_s": HELD_S,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


def finish_request(
    claimed: ClaimedRun, ending: RunFinalState, *, followed: bool, ephemeral_ttl_s: float = EPHEMERAL_TTL_S
) -> FinishRequest:
    """The arguments that finish a run. An ephemeral thread exists for `ephemeral_ttl_s` more seconds.

    Finishing also wakes the next run of the thread and, if the run is `followed`, its readers in other processes.
    """
    return FinishRequest(
        finished_run=claimed.run_id,
        of_thread=claimed.thread_id,
        holder=claimed.worker_id,
        run_status=ending.status,
        thread_status=ending.thread_status,
        thread_values=ending.values,
        thread_interrupts=json.dumps(ending.interrupts),
        failure=None if ending.error is None else json.dumps(ending.error),
        answer_keys=json.dumps(ending.output_keys),
        ephemeral_ttl_s=ephemeral_ttl_s if claimed.ephemeral else None,
        notify_readers=followed,
        delete_run=ending.delete_run,
    )


async def finish(pool: Pool, end: FinishRequest) -> bool:
    """Finish a run in a transaction of its own. False if another process owns the run.

    It waits for the lock of the thread. Most runs are finished together with checkpoints (`persistence/group_commit.py`).
    """
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT (" + FINISH_RUNS + " ->> %s)::boolean", [*end_columns([end]), False, str(end.finished_run)]
        )
        row = await cursor.fetchone()
        # Also if the end was refused: a stream reads the row itself, and so sees its true state.
        conn.note_change(end.of_thread, end.finished_run)
    return bool(row and row[0])


async def rollback(conn: Conn, claimed: ClaimedRun) -> bool:
    """Undo the checkpoints of a run of this process. False, without a change, if another process owns the run.

    The run must have no unfinished writes (`WriteBehind.close_and_settle`).
    """
    cursor = await conn.execute(
        "SELECT rollback_run(%(thread_id)s, %(run_id)s, %(worker_id)s)",
        {"thread_id": claimed.thread_id, "run_id": claimed.run_id, "worker_id": claimed.worker_id},
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def record_thread_events(conn: Conn, filters: Filters, thread_id: UUID, seconds: float) -> bool:
    """Record the events of the thread's runs for `seconds` seconds. False if the caller has no such thread."""
    cursor = await conn.execute(
        """
        UPDATE threads
           SET record_events_until = now() + make_interval(secs => %(seconds)s)
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "seconds": seconds, "project": conn.project_id, "match": filters.jsonb},
    )
    return cursor.rowcount == 1
