"""Queue: runs from the request to their end. The table `runs` is the queue.

The states and who moves them: docs/design.md#runs. Each move holds the thread's row, and decides by a later statement in
the same transaction (`migrations/functions/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
"""How long a temporary thread stays after its run, so that the answer can be had from another process or once more, unless
the operator says otherwise."""
HELD_S = 0.1
"""After so long a thread that another transaction held is tried again."""
OutputKeys: TypeAlias = list[str] | str | None
"""The keys of a thread's values that are its run's answer, or the only one, whose value is; None: all of them."""
POSITIONS_PER_ATTEMPT = 100_000
"""Positions left out between two attempts: the first may have told its readers more than it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A run that this process now executes."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: RawJson
    kwargs: RawJson
    principal: RawJson | None
    """The user of whoever asked for it."""
    attempt: int
    worker_id: UUID
    """The lease under which it is executed."""
    ephemeral: bool
    record_events: bool
    thread_created: bool = False
    """The thread was made for it: it has no checkpoint yet."""
    start_position: int = 0
    """The position behind which this attempt's events begin."""
    waited_s: float | None = None
    """How long it had been due; None where it never waited in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinalState:
    """How a run ended, and what its thread then holds."""

    status: FinalStatus
    thread_status: ThreadStatus
    values: bytes | None
    """JSON; None leaves the thread's values as they are."""
    interrupts: Mapping[str, Any]
    error: Mapping[str, Any] | None
    output_keys: OutputKeys = None
    delete_run: bool = False
    """The run's row goes too: it was rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRequest:
    """The arguments of the function `finish_run`, by their names there; JSON as bytes."""

    finished_run: UUID
    of_thread: UUID
    holder: UUID
    run_status: FinalStatus
    thread_status: ThreadStatus
    thread_values: bytes | None
    """None: what the thread held before."""
    thread_interrupts: bytes
    failure: bytes | None
    answer_keys: bytes
    ephemeral_ttl_s: float | None
    notify_readers: bool
    delete_run: bool


FINISH_RUNS: Final = """
    finish_runs(
        finished_runs => %s::text[]::uuid[], of_threads => %s::text[]::uuid[], holders => %s::text[]::uuid[],
        run_statuses => %s::text[], thread_statuses => %s::text[], thread_values => %s::text[]::json[],
        thread_interrupts => %s::text[]::jsonb[], failures => %s::text[]::jsonb[], answer_keys => %s::text[]::jsonb[],
        ephemeral_ttl_s => %s::text[]::float[], notify_readers => %s::text[]::boolean[],
        delete_run => %s::text[]::boolean[])
"""
"""A call with the columns of several `FinishRequest`s (`end_columns`)."""


def end_columns(ends: Sequence[FinishRequest]) -> list[Texts]:
    """The arguments of `FINISH_RUNS`."""
    return [Texts(getattr(end, field.name) for end in ends) for field in fields(FinishRequest)]


async def lock_thread(conn: Conn, thread_id: UUID) -> None:
    """Hold the thread's row until the transaction ends: from here on nobody else moves its runs."""
    await conn.execute(
        "SELECT FROM threads WHERE thread_id = %(thread_id)s FOR NO KEY UPDATE", {"thread_id": thread_id}
    )


async def claim(
    conn: Conn, worker_id: UUID, graph_ids: Sequence[str], *, after_principal: str = "", held_back: Sequence[str] = ()
) -> ClaimedRun | None:
    """Claim the next pending run that may start, or return None: of this project, and of the graphs that it names.

    It is the oldest of the principal whose turn comes after `after_principal`; those of `held_back` have no turn. A
    thread that another transaction holds is passed over, so that two workers never claim the same run. The attempt is
    counted before the graph starts, so that a run that kills its process is not tried for ever.
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
    return await cursor.fetchone()


async def has_due_run(conn: Conn, graph_ids: Sequence[str]) -> bool:
    """Whether a pending run of one of the graphs is due; its thread may still be busy."""
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
    """Seconds until a run may be claimed: one that is delayed (`after_seconds`), or whose thread was held just now.

    None if there is none of either. The principals `held_back` wait for a slot, and not for a time.
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
    """How to close a run, whose thread stays for `ephemeral_ttl_s` seconds if it is temporary. It also wakes the next in
    line and, where the run is `followed`, those who do so in other processes."""
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
    """Close a run in a transaction of its own, behind whoever holds its thread; False where it was no longer its
    worker's. Most ends go along with checkpoints (`persistence/group_commit.py`)."""
    arguments = {name: part.decode() if isinstance(part, bytes) else part for name, part in asdict(end).items()}
    async with pool.connection() as conn:
        done = await conn.execute(
            """
            SELECT finish_run(
                finished_run => %(finished_run)s, of_thread => %(of_thread)s, holder => %(holder)s,
                run_status => %(run_status)s, thread_status => %(thread_status)s,
                thread_values => %(thread_values)s::json, thread_interrupts => %(thread_interrupts)s::jsonb,
                failure => %(failure)s::jsonb, answer_keys => %(answer_keys)s::jsonb,
                ephemeral_ttl_s => %(ephemeral_ttl_s)s::float, notify_readers => %(notify_readers)s,
                delete_run => %(delete_run)s)
            """,
            arguments,
        )
        row = await done.fetchone()
    return bool(row and row[0])


async def rollback(conn: Conn, claimed: ClaimedRun) -> bool:
    """Take back what a run wrote that this process executes, or do nothing and return False if it no longer does.

    Nothing of the run may be on its way any more (`WriteBehind.close_and_settle`).
    """
    done = await conn.execute(
        "SELECT rollback_run(%(thread_id)s, %(run_id)s, %(worker_id)s)",
        {"thread_id": claimed.thread_id, "run_id": claimed.run_id, "worker_id": claimed.worker_id},
    )
    row = await done.fetchone()
    return bool(row and row[0])


async def record_thread_events(conn: Conn, filters: Filters, thread_id: UUID, seconds: float) -> bool:
    """Have the thread's runs keep their events for so long; False where there is none of the caller's."""
    done = await conn.execute(
        """
        UPDATE threads
           SET record_events_until = now() + make_interval(secs => %(seconds)s)
         WHERE thread_id = %(thread_id)s AND project_id = %(project)s AND metadata @> %(match)s
        """,
        {"thread_id": thread_id, "seconds": seconds, "project": conn.project_id, "match": filters.jsonb},
    )
    return done.rowcount == 1
