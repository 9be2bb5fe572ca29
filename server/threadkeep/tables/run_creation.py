"""Openings: from a request to a row of `runs`, which runs at once or waits in the queue.

On a locked thread, so that what is found going on there is what goes on. Runs that are asked for at once are opened in one
statement, each under row-level security of its own caller. One whose thread somebody holds waits for it alone. Principals
are served round robin: for the statements, and for the connections of openings that need one of their own.
"""

import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID

from psycopg import AsyncCursor

from threadkeep.base import json
from threadkeep.base.fair_limiter import ANONYMOUS, FairLimiter, quarter
from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.arrays import Texts
from threadkeep.postgres.batch_writer import BatchWriter
from threadkeep.postgres.pool import CHECKOUT_TIMEOUT_S, Conn, Pool
from threadkeep.postgres.retry import CONFLICTS, retry_after_conflict
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import idempotency_keys
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.queue import EPHEMERAL_TTL_S
from threadkeep.tables.runs import Run, RunStatus
from threadkeep.tables.threads import Ttl


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
    delay_s: float = 0
    ephemeral: bool = False
    ephemeral_ttl_s: float = EPHEMERAL_TTL_S
    """How long a thread that is made for it stays after it."""
    record_events: bool = True
    """Write its events to `run_events`; a run that has to wait is kept in any case, for any process may execute it."""
    synchronous_commit: bool = True
    """Somebody hears of it before its end: it is on disk when this is answered."""
    create_thread: bool = False
    thread_ttl: Ttl | None = None
    """Of a thread that is made for it."""
    principal: bytes | None = None
    """JSON: the user of whoever asks."""
    holder: str = ANONYMOUS
    """The identity of that user, by whose turn it is opened."""
    idempotency_key: IdempotencyKey | None = None
    """The Idempotency-Key by which it is asked for, reserved before."""
    worker_id: UUID | None = None
    """The process that starts it at once if its thread is free; None: it waits for a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreation:
    """What became of a `NewRun`."""

    run: Run | None
    """None: there is no such thread, or it is busy and the strategy is `reject`."""
    thread_found: bool
    thread_created: bool
    """It was made for this run: there is nothing on it yet."""
    record_events: bool
    """Its events are to be written: asked for, or somebody watches the thread."""
    active_run_id: UUID | None
    """The run that was going on or waiting on the thread."""
    superseded_run_ids: Sequence[UUID]
    """Running runs that the new one told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunCreationRow:
    """What the function `create_run` returns (`migrations/functions/create_run.sql`)."""

    thread_found: bool
    thread_created: bool
    active_run_id: UUID | None
    status: RunStatus | None
    events_recorded: bool | None
    merged_metadata: RawJson | None
    created_at: datetime | None
    superseded_run_ids: list[UUID] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _BatchRow(_RunCreationRow):
    """Of one of several runs."""

    ordinal: int
    """From 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arguments:
    """The arguments of the function `create_run`, by their names there."""

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
    """None: the thread is there, or the run is not created."""
    ttl_strategy: str | None
    ttl_minutes: float | None
    ephemeral_s: float | None
    metadata: Mapping[str, Any]
    record_events: bool


class _RunCreationRequest(NamedTuple):
    """A run to be opened with others. Sorted, those of all processes are in one order, and none waits for another that
    waits for it; those of one thread stay as they came."""

    thread_id: UUID
    number: int
    """In the order of coming."""
    arguments: bytes
    """JSON: an `_Arguments`."""
    match: str | None
    """Row-level security of the caller: JSON; None: all rows. Of one statement, all have it or none has."""


RunCreationWriter: TypeAlias = BatchWriter[_RunCreationRequest, _RunCreationRow | None]
Kind: TypeAlias = tuple[bool, bool]
"""Whether runs are to be on disk before their callers hear of them, and whether row-level security holds for them."""
JSON: Final = (Mapping, RawJson)
"""The types of arguments that are JSON."""
MAX_BATCH_SIZE = 100
"""Opened in one statement."""


class RunCreator:
    """Opens the runs of this process."""

    def __init__(self, pool: Pool, gathered: Mapping[Kind, RunCreationWriter], places: FairLimiter) -> None:
        self._pool = pool
        self._gathered = gathered
        self._places = places
        """Of openings that need a connection of their own."""
        self._numbers = itertools.count()

    async def create_run(self, filters: Filters, new: NewRun) -> RunCreation:
        """Open a run on its thread, in one round trip: `running` where it may start here and now, else `pending`."""
        try:
            return await self._create_run(filters, new)
        except CONFLICTS:  # nothing has begun yet
            return await retry_after_conflict(partial(self._create_run, filters, new))

    async def _create_run(self, filters: Filters, new: NewRun) -> RunCreation:
        if new.idempotency_key is not None:
            async with self.transaction(filters, new.holder) as conn:
                return await create_run_in_transaction(conn, filters, new)
        restriction = self._pool.restriction(filters)
        match = None if restriction is None else restriction.match
        arguments = json.dumps(_arguments(self._pool.project_id, filters, new))
        request = _RunCreationRequest(new.thread_id, next(self._numbers), arguments, match)
        writer = self._gathered[new.synchronous_commit, match is not None]
        if (answer := await writer.write(request, new.holder)) is not None:
            return _opened(new, answer)
        async with self._places.hold(new.holder, CHECKOUT_TIMEOUT_S), self._pool.pipeline(filters) as conn:
            cursor = await _call(conn, filters, new)
        return _opened(new, await cursor.fetchone())

    @asynccontextmanager
    async def transaction(self, filters: Filters, holder: str) -> AsyncGenerator[Conn]:
        """A transaction that opens runs of `holder` together with other changes. Overloaded after a long wait."""
        place = self._places.hold(holder, CHECKOUT_TIMEOUT_S)
        async with place, self._pool.connection(filters) as conn, conn.transaction():
            yield conn


@asynccontextmanager
async def open_run_creator(pool: Pool, is_alone: Callable[[str], bool] = lambda _: False) -> AsyncGenerator[RunCreator]:
    """What opens runs on `pool`, its writers running until the block ends. `is_alone` as of a `FairLimiter`."""
    places = max(1, pool.max_size // 2)
    gathered: dict[Kind, RunCreationWriter] = {
        (told, restricted): BatchWriter(partial(_open_all, pool), size=lambda _: 1, most=MAX_BATCH_SIZE)
        for told in (True, False)
        for restricted in (True, False)
    }
    async with AsyncExitStack() as stack:
        for each in gathered.values():
            await stack.enter_async_context(each.run())
        yield RunCreator(pool, gathered, FairLimiter(places, reserve=quarter(places), is_alone=is_alone))


async def _open_all(pool: Pool, requests: list[_RunCreationRequest]) -> list[_RunCreationRow | None]:
    """Of each what became of it; None where its thread is locked, and the others shall not wait for that."""
    ordered = sorted(requests)
    async with pool.connection() as conn:
        cursor = await conn.cursor(row_factory=rows.row_factory(_BatchRow)).execute(
            "SELECT * FROM create_runs(requests => %(requests)b::text[]::jsonb[], restriction => %(restriction)b::text[])",
            {
                "requests": Texts(one.arguments for one in ordered),
                "restriction": Texts(one.match for one in ordered if one.match is not None),
            },
        )
        answers = {ordered[placed.ordinal - 1].number: placed for placed in await cursor.fetchall()}
    return [answers.get(one.number) for one in requests]


async def create_run_in_transaction(conn: Conn, filters: Filters, new: NewRun) -> RunCreation:
    """As `open_run`, as a part of the transaction that the caller has begun on `conn`."""
    cursor = await _call(conn, filters, new)
    opened = _opened(new, await cursor.fetchone())
    if new.idempotency_key is not None:
        await idempotency_keys.complete(conn, new.idempotency_key, new.run_id)
    return opened


async def _call(conn: Conn, filters: Filters, new: NewRun) -> AsyncCursor[_RunCreationRow]:
    arguments = _arguments(conn.project_id, filters, new)
    named: dict[str, object] = {field.name: getattr(arguments, field.name) for field in fields(arguments)}
    cursor = conn.cursor(row_factory=rows.row_factory(_RunCreationRow))
    return await cursor.execute(
        """
        SELECT *
          FROM create_run(
            project_id => %(project_id)s, run_id => %(run_id)s, thread_id => %(thread_id)s,
            assistant_id => %(assistant_id)s, graph_id => %(graph_id)s,
            assistant_metadata => %(assistant_metadata)s::jsonb, kwargs => %(kwargs)s::jsonb,
            principal => %(principal)s::jsonb, multitask_strategy => %(multitask_strategy)s, delay_s => %(delay_s)s,
            ephemeral => %(ephemeral)s, synchronous_commit => %(synchronous_commit)s, worker_id => %(worker_id)s::uuid,
            metadata_filter => %(metadata_filter)s::jsonb, new_thread_metadata => %(new_thread_metadata)s::jsonb,
            ttl_strategy => %(ttl_strategy)s::text, ttl_minutes => %(ttl_minutes)s::float,
            ephemeral_s => %(ephemeral_s)s::float, metadata => %(metadata)s::jsonb,
            record_events => %(record_events)s)
        """,
        {
            name: json.dumps(cast("object", part)).decode() if isinstance(part, JSON) else part
            for name, part in named.items()
        },
    )


def _opened(new: NewRun, row: _RunCreationRow | None) -> RunCreation:
    answer = cast("_RunCreationRow", row)  # a function that returns no set always gives a row
    return RunCreation(
        run=_run(new, answer),
        thread_found=answer.thread_found,
        thread_created=answer.thread_created,
        record_events=bool(answer.events_recorded),
        active_run_id=answer.active_run_id,
        superseded_run_ids=answer.superseded_run_ids or (),
    )


def _run(new: NewRun, answer: _RunCreationRow) -> Run | None:
    """The row as it now is, as far as it is not what was asked for."""
    if answer.status is None or answer.merged_metadata is None or answer.created_at is None:
        return None
    return Run(
        run_id=new.run_id,
        thread_id=new.thread_id,
        assistant_id=new.assistant_id,
        created_at=answer.created_at,
        updated_at=answer.created_at,
        status=answer.status,
        metadata=answer.merged_metadata,
        kwargs=RawJson(new.kwargs),
        multitask_strategy=new.multitask_strategy,
    )


def _arguments(project_id: str, filters: Filters, new: NewRun) -> _Arguments:
    ttl = new.thread_ttl if new.create_thread else None
    return _Arguments(
        project_id=project_id,
        run_id=new.run_id,
        thread_id=new.thread_id,
        assistant_id=new.assistant_id,
        graph_id=new.graph_id,
        assistant_metadata=new.assistant_metadata,
        kwargs=RawJson(new.kwargs),
        principal=None if new.principal is None else RawJson(new.principal),
        multitask_strategy=new.multitask_strategy,
        delay_s=new.delay_s,
        ephemeral=new.ephemeral,
        synchronous_commit=new.synchronous_commit,
        worker_id=new.worker_id,
        metadata_filter=filters.metadata_filter,
        # The run's, with what satisfies the caller's own filter.
        new_thread_metadata=filters.with_owner(new.metadata) if new.create_thread else None,
        ttl_strategy=ttl and ttl.strategy,
        ttl_minutes=ttl and ttl.minutes,
        ephemeral_s=new.ephemeral_ttl_s if new.create_thread and new.ephemeral else None,
        metadata=filters.without_owner(new.metadata),  # the thread's own say whose it is
        record_events=new.record_events,
    )
