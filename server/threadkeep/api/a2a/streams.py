"""Streams: the events of a task, from the task itself to the status in which it has ended or asks.

The stream of a run is a pure function of its events. So all readers see the same order, in every process. A reader that
comes later gets the artifact so far, and then exactly the missing events.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from threadkeep.api.a2a.artifacts import ArtifactReader
from threadkeep.api.a2a.errors import task_not_found
from threadkeep.api.a2a.messages import Part
from threadkeep.api.a2a.tasks import (
    Fields,
    TaskIds,
    TaskReader,
    TaskView,
    answers_with_messages,
    artifact_update,
    recorded_events,
    status_update,
    task_fields,
)
from threadkeep.runs.event_log import Gap
from threadkeep.runs.service import RunHandle
from threadkeep.tables import run_events
from threadkeep.tables.run_chains import ACTIVE, ChainRun


@dataclass(slots=True, kw_only=True)
class _RunReading:
    """The position of a reader in a run of a task."""

    run: ChainRun
    artifact: ArtifactReader
    position: int = 0
    has_gap: bool = False


async def task_events(
    tasks: TaskReader, chain: list[ChainRun], view: TaskView, started: RunHandle | None = None
) -> AsyncGenerator[Fields]:
    """Yield the task, and its events until it has ended or asks. `started`: the run that this request has started.

    Ends sooner if this process stops. A2AError if the task is deleted meanwhile.
    """
    if chain[-1].state not in ACTIVE:
        yield {"task": await tasks.task_of(chain, view)}
        yield status_update(chain[-1])
        return
    reading = await _begin(tasks, chain[-1], started)
    # The first event has the artifact so far, as GetTask would show it: a new run has said nothing yet.
    parts = reading.artifact.parts or await tasks.parts(chain[:-1])
    yield {"task": task_fields(chain, parts, view)}
    async with aclosing(_run_events(tasks, reading, started)) as events:
        async for event in events:
            yield event


async def subscription_events(tasks: TaskReader, chain: list[ChainRun]) -> AsyncGenerator[Fields]:
    """Yield the same as `task_events`. If the task waits for input, wait until it continues, is canceled or has ended."""
    waiting, view = chain[-1], TaskView()
    if waiting.state != "input_required":
        async with aclosing(task_events(tasks, chain, view)) as events:
            async for event in events:
                yield event
        return
    yield {"task": await tasks.task_of(chain, view)}
    newest = await tasks.chains.moved_on(waiting)
    if newest is None:
        raise task_not_found(waiting.chain_id)
    if newest.run_id == waiting.run_id:
        if newest.state != "input_required":  # else this process stops
            yield status_update(newest)
        return
    async with aclosing(_run_events(tasks, _RunReading(run=newest, artifact=ArtifactReader()), None)) as events:
        async for event in events:
            yield event


async def _run_events(tasks: TaskReader, reading: _RunReading, started: RunHandle | None) -> AsyncGenerator[Fields]:
    """Yield the additions of a run and of later runs to the task, and the status at the end."""
    ids = TaskIds.of(reading.run)
    handle = started or tasks.chains.handle(reading.run)
    while True:
        async with aclosing(_updates(handle, reading, ids)) as updates:
            async for update in updates:
                yield update
        # The events end if the run ended, or if this process stops. Only the rows tell which.
        newest = await tasks.chains.newest(reading.run.chain_id)
        if newest is None:
            raise task_not_found(reading.run.chain_id)
        if newest.run_id != reading.run.run_id:
            reading, handle = _RunReading(run=newest, artifact=ArtifactReader()), tasks.chains.handle(newest)
            continue
        if newest.state in ACTIVE:  # this process stops
            return
        # Before the status, because a final status ends the stream.
        if parts := await _last_parts(tasks, newest, reading):
            yield artifact_update(ids, parts, append=False, last=True)
        yield status_update(newest)
        return


async def _begin(tasks: TaskReader, run: ChainRun, started: RunHandle | None) -> _RunReading:
    """Read the recorded events of the run, unless this request has started it."""
    reading = _RunReading(run=run, artifact=ArtifactReader())
    if started is not None or run.status == "pending":
        return reading
    async with tasks.chains.call.state.pool.shielded(tasks.chains.filters) as conn:
        # A fixed end: a fast run could otherwise add events forever while its past is read.
        until = await run_events.last_position(conn, run.run_id)
    pool, filters = tasks.chains.call.state.pool, tasks.chains.filters
    async with aclosing(recorded_events(pool, filters, run, until)) as events:
        async for event in events:
            reading.position = event.position
            if answers_with_messages(run):
                await reading.artifact.read_apart(event.event, event.data.encode())
    return reading


async def _updates(handle: RunHandle, reading: _RunReading, ids: TaskIds) -> AsyncGenerator[Fields]:
    """Yield the additions of a run to the artifact until it ends."""
    has_messages = answers_with_messages(reading.run)
    async with aclosing(handle.events(reading.position)) as items:
        async for item in items:
            reading.position = item.position
            if isinstance(item, Gap):
                reading.has_gap = True
            elif has_messages:
                for piece in await reading.artifact.read_apart(item.name, item.data):
                    yield artifact_update(ids, piece.parts, append=piece.append)


async def _last_parts(tasks: TaskReader, run: ChainRun, reading: _RunReading) -> list[Part]:
    """Return the whole artifact if it was not streamed: it is an output, or events are missing."""
    if answers_with_messages(run) and not reading.has_gap:
        return []
    return await tasks.parts_of_run(run)
