"""Admit: from a request to a run that is going on, is in line, or is refused.

A foreground run takes its slot first and is opened then, so that Postgres never says `running` of what has no place
to run. Where its thread is busy it waits in the queue like any other, and its slot goes back at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio

from threadkeep.base import ids, json
from threadkeep.base.json import Json
from threadkeep.base.problems import NotFound, ThreadBusy
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.assistants import Chosen
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import LiveRun
from threadkeep.runs.execution import start
from threadkeep.runs.graph_call import Job
from threadkeep.runs.request import RunSpec
from threadkeep.runs.slots import Slot
from threadkeep.tables import idempotency_keys, run_creation
from threadkeep.tables.idempotency_keys import Key
from threadkeep.tables.queue import Claimed
from threadkeep.tables.run_creation import NewRun, Opened
from threadkeep.tables.runs import Run

NOT_OPENED = Opened(run=None, thread_found=False, new_thread=False, kept=False, busy_with=None, superseded=())
SPEC_FIELDS = set(RunSpec.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A run that a client asks for."""

    spec: RunSpec
    chosen: Chosen
    thread_id: UUID | None
    """None: a thread of its own."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    multitask_strategy: str = "enqueue"
    create_thread: bool = False
    after_s: float = 0
    temporary: bool = False
    kept: bool = False
    """Its events are to be there later and elsewhere."""
    watched: bool = False
    """The client that asks reads its events."""
    user: Mapping[str, Any] | None = None
    """Who asks, for the graph; None where authentication is off."""
    run_id: UUID | None = None
    """Chosen before, with `key`."""
    key: Key | None = None
    """The Idempotency-Key of the request, which stands for the run as soon as there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A run that was let in."""

    run_id: UUID
    thread_id: UUID
    run: Run | None
    """Its row; None for a stateless one."""
    live: LiveRun | None
    """Set where it runs here already."""


async def run_stateless(engine: Engine, filters: Filters, asked: Admission) -> Admitted:
    """Run a graph without a thread: no row, no checkpoint, no statement. Overloaded where there is no slot."""
    slot = await engine.slots.take()
    job = Job(
        run_id=ids.uuid7(),
        thread_id=ids.uuid7(),
        assistant_id=asked.chosen.assistant_id,
        graph_id=asked.chosen.graph_id,
        spec=asked.chosen.applied_to(asked.spec),
        metadata=filters.stamped({**asked.chosen.metadata, **asked.metadata}),
        user=asked.user,
    )
    live = start(engine, job, slot, watched=asked.watched)
    return Admitted(run_id=job.run_id, thread_id=job.thread_id, run=None, live=live)


async def run_foreground(engine: Engine, filters: Filters, asked: Admission) -> Admitted:
    """Start a run now, or put it in line behind what goes on on its thread.

    Overloaded where there is no slot, NotFound without the thread, ThreadBusy where the strategy is `reject`.
    """
    if asked.after_s > 0:
        return await enqueue(engine, filters, asked)
    async with engine.slots.hold() as slot:
        return await _open_here(engine, filters, asked, slot)


async def _open_here(engine: Engine, filters: Filters, asked: Admission, slot: Slot) -> Admitted:
    """Open the run and start it, undivided: what is `running` in Postgres is executed, whoever has left meanwhile."""
    new, live = _new_run(engine, asked, engine.worker_id), None
    opened: Opened = NOT_OPENED
    with anyio.CancelScope(shield=True):
        opened = await engine.openings.open_run(filters, new)
        if opened.run is not None and opened.run.status == "running":
            job = Job.of(_claimed(engine, opened.run, new, opened), engine.commits)
            live = start(engine, job, slot.passed_on(), watched=asked.watched)
    run = _accepted(engine, opened, new)
    return Admitted(run_id=run.run_id, thread_id=run.thread_id, run=run, live=live)


async def enqueue(engine: Engine, filters: Filters, asked: Admission) -> Admitted:
    """Put a run in the queue, for any process that has a slot. NotFound and ThreadBusy as above."""
    new = _new_run(engine, asked, None)
    run = _accepted(engine, await engine.openings.open_run(filters, new), new)
    return Admitted(run_id=run.run_id, thread_id=run.thread_id, run=run, live=None)


async def enqueue_all(engine: Engine, filters: Filters, asked: Sequence[Admission], key: Key) -> list[Run]:
    """Put runs in the queue that each get a thread of their own, all or none; `key` stands for them together."""
    async with engine.pool.connection(filters) as conn, conn.transaction():
        found = [await enqueue_in(engine, conn, filters, one) for one in asked]
        await idempotency_keys.settle(conn, key)
    return [run for run in found if run is not None]


async def enqueue_in(engine: Engine, conn: Conn, filters: Filters, asked: Admission) -> Run | None:
    """As `enqueue`, as a part of the transaction that the caller has begun on `conn`.

    None where there is no such thread, or it is busy and the strategy is `reject`. Superseded runs are told to stop
    when the transaction commits.
    """
    opened = await run_creation.open_run_in(conn, filters, _new_run(engine, asked, None))
    return opened.run


def _new_run(engine: Engine, asked: Admission, worker_id: UUID | None) -> NewRun:
    spec = asked.chosen.applied_to(asked.spec)
    run_id = asked.run_id or ids.uuid7()
    if engine.tracing is not None:
        engine.tracing.asked_for(str(run_id))
    return NewRun(
        run_id=run_id,
        thread_id=asked.thread_id or ids.uuid7(),
        assistant_id=asked.chosen.assistant_id,
        graph_id=asked.chosen.graph_id,
        metadata=asked.metadata,
        assistant_metadata=asked.chosen.metadata,
        kwargs=json.dumps(spec.model_dump(include=SPEC_FIELDS, exclude_none=True)),
        multitask_strategy=asked.multitask_strategy,
        after_s=asked.after_s,
        temporary=asked.temporary,
        kept=asked.kept,
        told=asked.watched or asked.kept or worker_id is None,
        create_thread=asked.create_thread or asked.thread_id is None,
        thread_ttl=engine.thread_ttl,
        principal=json.dumps(asked.user) if asked.user is not None else None,
        key=asked.key,
        worker_id=worker_id,
    )


def _accepted(engine: Engine, opened: Opened, new: NewRun) -> Run:
    """The run's row, its superseded ones told to stop; or why there is none."""
    if opened.run is None and not opened.thread_found:
        raise NotFound("Thread or assistant not found.")
    if opened.run is None:
        raise ThreadBusy(
            "Thread is already running a task. Wait for it to finish or choose a different multitask strategy.",
            run_id=str(opened.busy_with),
        )
    for run_id in opened.superseded:
        if live := engine.live.get(run_id):
            action = "rollback" if new.multitask_strategy == "rollback" else "interrupt"
            live.cancel(action, f"superseded by run {new.run_id}")
    return opened.run


def _claimed(engine: Engine, run: Run, new: NewRun, opened: Opened) -> Claimed:
    return Claimed(
        run_id=run.run_id,
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        graph_id=new.graph_id,
        metadata=run.metadata,
        kwargs=Json(new.kwargs),
        principal=Json(new.principal) if new.principal else None,
        attempt=1,
        worker_id=new.worker_id or engine.worker_id,
        temporary=new.temporary,
        kept=opened.kept,
        new_thread=opened.new_thread,
    )
