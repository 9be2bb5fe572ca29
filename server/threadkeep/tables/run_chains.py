"""Run chains: the runs of a task of MCP or A2A. A question that is answered makes a second run of the same task.

The id of a chain is that of its first run. Its state is that of its newest run (`migrations/functions/run_chains.sql`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.listen import notify, thread_topic
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import queue, task_pushes
from threadkeep.tables.runs import Run

ChainState: TypeAlias = Literal["submitted", "working", "input_required", "completed", "failed", "canceled"]
ACTIVE: Final[frozenset[ChainState]] = frozenset({"submitted", "working"})
ENDED: Final[frozenset[ChainState]] = frozenset({"completed", "failed", "canceled"})
CANCELED_WAITING: Final = "the task was canceled while it waited"
"""The `cancel_reason` of a run whose question takes no answer any more. The SQL function `chain_state` knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRun(Run):
    """A run of a chain."""

    chain_id: UUID
    graph_id: str
    queue_position: int
    error: RawJson | None
    output_keys: RawJson | None
    state: ChainState
    """The state of the chain if this is its newest run."""
    interrupts: RawJson
    """The open interrupts of its thread, by task. They are this run's if the state is `input_required`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFilter:
    """Selects chains. None: any."""

    source: str
    """The surface that made them."""
    assistant_id: UUID
    thread_id: UUID | None = None
    state: ChainState | None = None
    updated_from: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPosition:
    """The place of a chain in a listing, which the next page continues after."""

    updated_at: datetime
    run_id: UUID


async def thread_of(conn: Conn, chain_id: UUID) -> UUID | None:
    """Return the thread of any owner's chain, so that the caller can be authorized, or None."""
    cursor = await conn.execute(
        "SELECT thread_id FROM runs WHERE chain_id = %(chain_id)s AND project_id = %(project)s LIMIT 1",
        {"chain_id": chain_id, "project": conn.project_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def chain_of_message(conn: Conn, thread_id: UUID, assistant_id: UUID, message_id: str) -> UUID | None:
    """Return the assistant's chain with a run that this message has started on the thread, of any owner.

    None if there is no such run.
    """
    cursor = await conn.execute(
        """
        SELECT chain_id
          FROM runs
         WHERE thread_id = %(thread_id)s AND metadata -> 'chain' ->> 'message_id' = %(message_id)s
           AND chain_id IS NOT NULL AND project_id = %(project)s AND assistant_id = %(assistant_id)s
         LIMIT 1
        """,
        {
            "thread_id": thread_id,
            "message_id": message_id,
            "assistant_id": assistant_id,
            "project": conn.project_id,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def has_message(conn: Conn, thread_id: UUID, client_id: str) -> bool:
    """Whether a run on the thread, of any owner, was started by a message with this id, whatever its content was."""
    cursor = await conn.execute(
        """
        SELECT EXISTS (SELECT FROM runs
                        WHERE thread_id = %(thread_id)s AND chain_id IS NOT NULL AND project_id = %(project)s
                          AND starts_with(metadata -> 'chain' ->> 'message_id', %(beginning)s))
        """,
        # The mark has the digest of the content after the id (`SentMessage.key`).
        {"thread_id": thread_id, "project": conn.project_id, "beginning": f"{client_id} "},
    )
    row = await cursor.fetchone()
    return row is not None and row[0]


async def newest_run(conn: Conn, filters: Filters, chain_id: UUID) -> ChainRun | None:
    """The newest run of a chain. None if the caller has no such chain."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChainRun))
    await cursor.execute(
        """
        SELECT runs.*, threads.interrupts, chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) AS state
          FROM runs JOIN threads USING (thread_id)
         WHERE chain_id = %(chain_id)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY queue_position DESC
         LIMIT 1
        """,
        {"chain_id": chain_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


async def runs_of(conn: Conn, filters: Filters, chain_ids: Sequence[UUID]) -> list[ChainRun]:
    """All runs of the chains that the caller has, the oldest first."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChainRun))
    await cursor.execute(
        """
        SELECT runs.*, threads.interrupts, chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) AS state
          FROM runs JOIN threads USING (thread_id)
         WHERE chain_id = ANY(%(chain_ids)s) AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY queue_position
        """,
        {"chain_ids": list(chain_ids), "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()


async def sizes(conn: Conn, chain_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the size of the inputs of chains' runs in bytes. The caller must already have access to them."""
    cursor = await conn.execute(
        """
        SELECT chain_id, sum(octet_length(kwargs::text))
          FROM runs
         WHERE chain_id = ANY(%(chain_ids)s)
         GROUP BY chain_id
        """,
        {"chain_ids": list(chain_ids)},
    )
    return {row[0]: int(row[1]) for row in await cursor.fetchall()}


async def search(
    conn: Conn, filters: Filters, chains: ChainFilter, *, after: ChainPosition | None, limit: int
) -> list[ChainRun]:
    """The newest runs of the caller's chains, the latest change first, at most `limit` of them."""
    cursor = conn.cursor(row_factory=rows.row_factory(ChainRun))
    await cursor.execute(
        """
        SELECT runs.*, threads.interrupts, chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) AS state
          FROM runs JOIN threads USING (thread_id)
         WHERE runs.project_id = %(project)s AND runs.assistant_id = %(assistant_id)s AND chain_id IS NOT NULL
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND runs.metadata ->> 'source' = %(source)s
           AND (%(thread_id)s::uuid IS NULL OR runs.thread_id = %(thread_id)s)
           AND (%(updated_from)s::timestamptz IS NULL OR runs.updated_at >= %(updated_from)s)
           AND (%(after_time)s::timestamptz IS NULL
                OR (runs.updated_at, runs.run_id) < (%(after_time)s, %(after_run)s::uuid)) -- the order of the listing
           AND NOT EXISTS (SELECT FROM runs AS later -- only the newest run of a chain
                            WHERE later.chain_id = runs.chain_id AND later.queue_position > runs.queue_position)
           AND (%(state)s::text IS NULL OR chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) = %(state)s)
         ORDER BY runs.updated_at DESC, runs.run_id DESC
         LIMIT %(limit)s
        """,
        _parameters(conn, filters, chains)
        | {
            "after_time": after and after.updated_at,
            "after_run": after and after.run_id,
            "limit": limit,
        },
        # As in `thread_search`: each condition may be absent, so a plan for any conditions would be bad.
        prepare=False,
    )
    return await cursor.fetchall()


async def count(conn: Conn, filters: Filters, chains: ChainFilter) -> int:
    """The number of the caller's chains."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM runs JOIN threads USING (thread_id)
         WHERE runs.project_id = %(project)s AND runs.assistant_id = %(assistant_id)s AND chain_id IS NOT NULL
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND runs.metadata ->> 'source' = %(source)s
           AND (%(thread_id)s::uuid IS NULL OR runs.thread_id = %(thread_id)s)
           AND (%(updated_from)s::timestamptz IS NULL OR runs.updated_at >= %(updated_from)s)
           AND NOT EXISTS (SELECT FROM runs AS later
                            WHERE later.chain_id = runs.chain_id AND later.queue_position > runs.queue_position)
           AND (%(state)s::text IS NULL OR chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) = %(state)s)
        """,
        _parameters(conn, filters, chains),
        prepare=False,
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def cancel_waiting(conn: Conn, filters: Filters, run: ChainRun) -> bool:
    """Cancel a chain whose newest run waits for an answer. False if it does not wait any more.

    The thread is locked until the transaction ends, so no answer starts meanwhile.
    """
    await queue.lock_thread(conn, run.thread_id)
    # clock_timestamp(), because now() is the time before the wait for the lock.
    cursor = await conn.execute(
        """
        UPDATE runs
           SET cancel_action = 'interrupt', cancel_reason = %(reason)s, updated_at = clock_timestamp()
          FROM threads
         WHERE runs.run_id = %(run_id)s AND threads.thread_id = runs.thread_id
           AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
           AND chain_state(runs.status, cancel_reason, runs.thread_id, queue_position, threads.interrupts) = 'input_required'
           AND NOT EXISTS (SELECT FROM runs AS later
                            WHERE later.chain_id = runs.chain_id AND later.queue_position > runs.queue_position)
        """,
        {
            "run_id": run.run_id,
            "reason": CANCELED_WAITING,
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
    if cursor.rowcount:
        # The run ended long ago, so the trigger of its end does not fire again.
        await task_pushes.enqueue(conn, run.run_id)
        await notify(conn, thread_topic(run.thread_id))
    return cursor.rowcount == 1


def _parameters(conn: Conn, filters: Filters, chains: ChainFilter) -> dict[str, object]:
    return {
        "project": conn.project_id,
        "match": filters.jsonb,
        "source": chains.source,
        "assistant_id": chains.assistant_id,
        "thread_id": chains.thread_id,
        "state": chains.state,
        "updated_from": chains.updated_from,
    }
