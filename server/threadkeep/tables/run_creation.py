"""Run creation: inserts runs, which start at once or wait in the queue. The multitask strategy (double texting) decides.

The thread is locked first, so its active run can't change meanwhile. Concurrent requests are inserted by one statement,
each under the row-level security of its own caller. If a thread is locked by another transaction, its run is inserted
separately and waits alone. Principals are served round robin, in the statements and in the use of separate connections.
"""

import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast
from uuid import UUID

from psycopg import AsyncCursor

from threadkeep.base import json
from threadkeep.base.fair_limiter import ANONYMOUS, FairLimiter, quarter
from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.arrays import Texts
from threadkeep.postgres.batch_writer import BatchWriter
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import CONFLICTS, retry_after_conflict
from threadkeep.postgres.tenancy import PATIENCE_S, Filters
from threadkeep.tables import idempotency_keys
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.queue import EPHEMERAL_TTL_S
from threadkeep.tables.runs import Run, RunStatus
from threadkeep.tables.threads import Ttl


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to create."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    metadata: Mapping[str, Any]
    """It overwrites the metadata of the assistant and of the thread."""
    marks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More metadata of the run, which a thread that is created for it does not get."""
    assistant_metadata: Mapping[str, Any]
    kwargs: bytes
    """JSON."""
    multitask_strategy: str = "enqueue"
    delay_s: float = 0
    ephemeral: bool = False
    ephemeral_ttl_s: float = EPHEMERAL_TTL_S
    """Seconds that a thread created for it exists after it."""
    record_events: bool = True
    """Record its events in `run_events`. A run in the queue is always recorded, because any process may execute it."""
    synchronous_commit: bool = True
    """Flush it to disk before returning, because the client learns of the run before its end."""
    create_thread: bool = False
    new_thread_only: bool = False
    """Create no run if the thread exists."""
    thread_ttl: Ttl | None = None
    """The TTL of a thread created for it."""
    principal: bytes | None = None
    """The caller's user as JSON."""
    holder: str = ANONYMOUS
    """The identity of that user, for the round robin."""
    idempotency_key: IdempotencyKey | None = None
    """The reserved Idempotency-Key of the request."""
    worker_id: UUID | None = None
    """The process that starts it at once if its thread is free. None: it waits for a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreation:
    """The result of creating a `NewRun`."""

    run: Run | None
    """None if there is no such thread, it was to be a new one, it is busy and the strategy is `reject`, or the run exists."""
    thread_found: bool
    thread_created: bool
    """The thread was created for this run and is empty."""
    record_events: bool
    """Its events must be recorded, by request or because the thread has a reader."""
    active_run_id: UUID | None
    """The run that was running or pending on the thread, or the run with this id."""
    superseded_run_ids: Sequence[UUID]
    """The running runs that the new run cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunCreationRow:
    """A row that the function `create_runs` returns (`migrations/functions/create_runs.sql`)."""

    ordinal: int
    """The number of its request, from 1."""
    thread_found: bool
    thread_created: bool
    active_run_id: UUID | None
    status: RunStatus | None
    events_recorded: bool | None
    merged_metadata: RawJson | None
    created_at: datetime | None
    superseded_run_ids: list[UUID] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """A request of the SQL function `create_runs`: the columns of `run_requests` under the same names."""

    project_id: str
    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    assistant_metadata: Mapping[str, Any]
    kwargs: RawJson
    principal: RawJson | None
    multitask_strategy: str
    delay_s: float
    ephemeral: bool
    synchronous_commit: bool
    worker_id: UUID | None
    metadata_filter: Mapping[str, Any]
    new_thread_metadata: Mapping[str, Any] | None
    """None: do not create a thread."""
    new_thread_only: bool
    ttl_strategy: str | None
    ttl_minutes: float | None
    ephemeral_s: float | None
    metadata: Mapping[str, Any]
    record_events: bool


class _RunCreationRequest(NamedTuple):
    """A run to create in a batch.

    Batches are sorted by thread, so that processes lock threads in the same order and avoid deadlocks. Runs of one thread
    keep their order of arrival.
    """

    thread_id: UUID
    number: int
    """The order of arrival."""
    arguments: bytes
    """JSON: an `Arguments`."""
    match: str | None
    """The caller's row-level security as JSON. None: all rows. In one statement, all requests have it or none has it."""
    run_id: UUID


RunCreationWriter: TypeAlias = BatchWriter[_RunCreationRequest, _RunCreationRow | None]
Kind: TypeAlias = tuple[bool, bool]
"""Whether runs are flushed to disk before returning, and whether row-level security applies to them."""
MAX_BATCH_SIZE = 100
"""The most runs in one statement."""


class RunCreator:
    """Creates the runs of this process."""

    def __init__(self, pool: Pool, writers: Mapping[Kind, RunCreationWriter], places: FairLimiter) -> None:
        self._pool = pool
        self._writers = writers
        self._places = places
        """Limits the runs that are created on a connection of their own."""
        # Unique, so that a comparison of two requests ends before their arguments.
        self._numbers = itertools.count()

    async def create_run(self, filters: Filters, new: NewRun) -> RunCreation:
        """Create a run in one round trip. It is `running` if it may start here at once, else `pending`."""
        try:
            return await self._create_run(filters, new)
        except CONFLICTS:  # nothing was created, so it can be repeated
            return await retry_after_conflict(partial(self._create_run, filters, new))

    async def _create_run(self, filters: Filters, new: NewRun) -> RunCreation:
        if new.idempotency_key is not None:
            # The key is completed in the transaction of its run, and a batch has one transaction for many callers.
            async with self.transaction(filters, new.holder) as conn:
                return await create_run_in_transaction(conn, filters, new)
        restriction = self._pool.restriction(filters)
        match = None if restriction is None else restriction.match
        arguments = json.dumps(_arguments(self._pool.project_id, filters, new))
        request = _RunCreationRequest(new.thread_id, next(self._numbers), arguments, match, new.run_id)
        # A statement has one kind: it waits for the disk or not, and switches to the role of row-level security or not.
        writer = self._writers[new.synchronous_commit, match is not None]
        # None: another transaction has locked the thread. This run then waits alone.
        if (row := await writer.write(request, new.holder)) is not None:
            return _creation(new, row)
        async with self._places.hold(new.holder, PATIENCE_S), self._pool.pipeline(filters) as conn:
            cursor = await _call_alone(conn, filters, new)
        return _creation(new, await cursor.fetchone())

    @asynccontextmanager
    async def transaction(self, filters: Filters, holder: str) -> AsyncGenerator[Conn]:
        """Open a transaction that creates runs of `holder` together with other changes. QueueFull after a long wait."""
        place = self._places.hold(holder, PATIENCE_S)
        async with place, self._pool.connection(filters) as conn, conn.transaction():
            yield conn


@asynccontextmanager
async def open_run_creator(pool: Pool, is_alone: Callable[[str], bool] = lambda _: False) -> AsyncGenerator[RunCreator]:
    """Yield a creator of runs on `pool`. Its writers stop when the block ends. `is_alone` as in `FairLimiter`."""
    # Runs that wait for a locked thread keep a connection. The other half stays free for all other requests.
    places = max(1, pool.max_size // 2)
    writers: dict[Kind, RunCreationWriter] = {
        (flushed, restricted): BatchWriter(partial(_create_all, pool), size=lambda _: 1, most=MAX_BATCH_SIZE)
        for flushed in (True, False)
        for restricted in (True, False)
    }
    async with AsyncExitStack() as stack:
        for writer in writers.values():
            await stack.enter_async_context(writer.run())
        yield RunCreator(pool, writers, FairLimiter(places, reserve=quarter(places), is_alone=is_alone))


async def _create_all(pool: Pool, requests: list[_RunCreationRequest]) -> list[_RunCreationRow | None]:
    """Create a batch of runs and return their rows. None if the thread is locked, so that other runs do not wait for it."""
    # By thread id, so that two processes lock the threads in the same order.
    ordered = sorted(requests)
    restriction = [request.match for request in ordered if request.match is not None]
    # Without filters: the function itself switches to the role of row-level security, for the caller of each run.
    async with pool.connection() as conn:
        cursor = await _call(conn, [request.arguments for request in ordered], restriction, skip_locked=True)
        rows_by_number = {ordered[row.ordinal - 1].number: row for row in await cursor.fetchall()}
        # Also for refused runs. A stream reads the rows themselves, so a note too many costs one lookup.
        for request in ordered:
            conn.note_change(request.thread_id, request.run_id)
    # The batch writer expects the results in the order of its callers, not in that of the threads.
    return [rows_by_number.get(request.number) for request in requests]


async def _call(
    conn: Conn, requests: Iterable[bytes], restriction: Iterable[str], *, skip_locked: bool
) -> AsyncCursor[_RunCreationRow]:
    return await conn.cursor(row_factory=rows.row_factory(_RunCreationRow)).execute(
        """
        SELECT *
          FROM create_runs(requests => %(requests)b::text[]::jsonb[], restriction => %(restriction)b::text[],
                           skip_locked => %(skip_locked)s)
        """,
        {"requests": Texts(requests), "restriction": Texts(restriction), "skip_locked": skip_locked},
    )


async def create_run_in_transaction(conn: Conn, filters: Filters, new: NewRun) -> RunCreation:
    """Create a run in the caller's transaction on `conn`. Also completes its idempotency key."""
    cursor = await _call_alone(conn, filters, new)
    creation = _creation(new, await cursor.fetchone())
    if new.idempotency_key is not None:
        await idempotency_keys.complete(conn, new.idempotency_key, new.run_id)
    return creation


async def _call_alone(conn: Conn, filters: Filters, new: NewRun) -> AsyncCursor[_RunCreationRow]:
    """Create a run, and wait for its thread. The connection has the caller's row-level security."""
    conn.note_change(new.thread_id, new.run_id)
    return await _call(conn, [json.dumps(_arguments(conn.project_id, filters, new))], (), skip_locked=False)


def _creation(new: NewRun, answer: _RunCreationRow | None) -> RunCreation:
    row = cast("_RunCreationRow", answer)  # without `skip_locked` no request is left out
    return RunCreation(
        run=_run(new, row),
        thread_found=row.thread_found,
        thread_created=row.thread_created,
        record_events=bool(row.events_recorded),
        active_run_id=row.active_run_id,
        superseded_run_ids=row.superseded_run_ids or (),
    )


def _run(new: NewRun, answer: _RunCreationRow) -> Run | None:
    """The run's row, or None if it was not created."""
    # They are NULL together. The type checker needs all three.
    if answer.status is None or answer.merged_metadata is None or answer.created_at is None:
        return None
    return Run(
        run_id=new.run_id,
        thread_id=new.thread_id,
        assistant_id=new.assistant_id,
        created_at=answer.created_at,
        updated_at=answer.created_at,  # a new row has one time
        status=answer.status,
        metadata=answer.merged_metadata,
        kwargs=RawJson(new.kwargs),
        multitask_strategy=new.multitask_strategy,
    )


def _arguments(project_id: str, filters: Filters, new: NewRun) -> Arguments:
    ttl = new.thread_ttl if new.create_thread else None
    return Arguments(
        project_id=project_id,
        run_id=new.run_id,
        thread_id=new.thread_id,
        assistant_id=new.assistant_id,
        graph_id=new.graph_id,
        assistant_metadata=new.assistant_metadata,
        kwargs=RawJson(new.kwargs),  # it is JSON already
        principal=None if new.principal is None else RawJson(new.principal),
        multitask_strategy=new.multitask_strategy,
        delay_s=new.delay_s,
        ephemeral=new.ephemeral,
        synchronous_commit=new.synchronous_commit,
        worker_id=new.worker_id,
        metadata_filter=filters.metadata_filter,
        # The run's metadata, with the owner keys that the caller's filter requires.
        new_thread_metadata=filters.with_owner(new.metadata) if new.create_thread else None,
        new_thread_only=new.new_thread_only,
        ttl_strategy=ttl and ttl.strategy,  # an existing thread keeps its own
        ttl_minutes=ttl and ttl.minutes,
        ephemeral_s=new.ephemeral_ttl_s if new.create_thread and new.ephemeral else None,
        metadata=filters.without_owner({**new.metadata, **new.marks}),  # the thread's metadata has the owner keys
        record_events=new.record_events,
    )
