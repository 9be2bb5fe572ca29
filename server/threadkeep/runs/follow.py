"""Follow: a run's stream and its answer, wherever and whenever it is executed.

In the executing process a reader reads the ring; elsewhere or later it reads `run_events`, woken by NOTIFY with a
slow look behind it. A reader of a run that waits here goes over to the ring when the run starts here.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.problems import NotFound
from threadkeep.postgres.listen import run_topic
from threadkeep.postgres.retry import outlast
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import Event, Followed, Gap, LiveRun
from threadkeep.runs.graph_runner import INTERRUPT, with_key
from threadkeep.tables import run_events, runs
from threadkeep.tables.run_events import PAGE, RunEvent
from threadkeep.tables.runs import FINAL, RunStatus, Stored

POLL_S = 5.0
"""How often a follower looks again though nobody woke it."""


async def follow(engine: Engine, filters: Filters, run_id: UUID, after: int | None) -> AsyncGenerator[Followed, None]:
    """The run's events behind position `after`, until it ends; `after=None`: only those from now on."""
    position = await _newest(engine, filters, run_id) if after is None else after
    while True:
        live = engine.live.get(run_id)
        if live is not None:
            live.watched = True
        source = _stored(engine, filters, run_id, position) if live is None else _ring(engine, filters, live, position)
        async with aclosing(source) as items:
            async for item in items:
                position = item.position
                yield item
        if live is None and engine.live.get(run_id) is None:
            return
        if live is not None and (live.outcome is not None or engine.stopping.is_set()):
            return


async def _newest(engine: Engine, filters: Filters, run_id: UUID) -> int:
    if live := engine.live.get(run_id):
        return live.last
    async with engine.pool.connection(filters) as conn:
        return await run_events.last(conn, run_id)


async def _ring(engine: Engine, filters: Filters, live: LiveRun, position: int) -> AsyncGenerator[Followed, None]:
    """The ring behind `position`; a gap at its beginning is filled from Postgres as far as that goes."""
    async with aclosing(live.follow(position)) as ring:
        async for item in ring:
            if isinstance(item, Gap):
                for missed in await _between(engine, filters, live.run_id, position, item.position):
                    position = missed.position
                    yield missed
                if position >= item.position:
                    continue
            position = item.position
            yield item


async def _between(engine: Engine, filters: Filters, run_id: UUID, after: int, until: int) -> list[Event]:
    found: list[Event] = []
    async with engine.pool.connection(filters) as conn:
        while after < until and (page := await run_events.read(conn, run_id, after)):
            found.extend(Event(item.position, item.event, item.data.encode()) for item in page)
            after = page[-1].position
    return [event for event in found if event.position <= until]


async def _stored(engine: Engine, filters: Filters, run_id: UUID, position: int) -> AsyncGenerator[Event, None]:
    """What Postgres holds, as it comes; ends with the run, or where this process starts to execute it."""
    with engine.wakeups.on(run_topic(run_id)) as signal:
        while True:
            status, page = await outlast(partial(_look, engine, filters, run_id, position))
            for item in page:
                position = item.position
                yield Event(item.position, item.event, item.data.encode())
            if len(page) == PAGE:
                continue
            if status is None or status in FINAL or engine.live.get(run_id) is not None:
                return
            await signal.wait(POLL_S)


async def _look(
    engine: Engine, filters: Filters, run_id: UUID, position: int
) -> tuple[RunStatus | None, list[RunEvent]]:
    """Where the run stands, then what it has said: what comes between the two is read the next time."""
    async with engine.pool.connection(filters) as conn:
        return await runs.watch(conn, run_id), await run_events.read(conn, run_id, position)


async def answer(engine: Engine, filters: Filters, thread_id: UUID, run_id: UUID) -> bytes:
    """What the run answers, once it has ended: JSON. NotFound where there is no such run, or none any more."""
    with engine.wakeups.on(run_topic(run_id)) as signal:
        while True:
            live = engine.live.get(run_id)
            if live is not None and (outcome := await live.wait()) is not None:
                return outcome.answer
            stored = await outlast(lambda: _stored_answer(engine, filters, thread_id, run_id))
            if stored is None:
                raise NotFound("Run not found")
            if stored.status in FINAL:
                return _of_stored(stored)
            if engine.live.get(run_id) is None:
                await signal.wait(POLL_S)


async def _stored_answer(engine: Engine, filters: Filters, thread_id: UUID, run_id: UUID) -> Stored | None:
    """Of a run that goes on elsewhere it is said there that somebody waits, who is then woken by its end."""
    async with engine.pool.connection(filters) as conn:
        stored = await runs.get_stored(conn, filters, thread_id, run_id)
        if stored is not None and stored.status not in FINAL and await runs.watch(conn, run_id) in FINAL:
            stored = await runs.get_stored(conn, filters, thread_id, run_id)
    return stored


def _of_stored(stored: Stored) -> bytes:
    """The answer of a run that ended before: the thread's values, its open interrupts, or the run's error."""
    if stored.status in {"error", "timeout"} and stored.error is not None:
        return json.dumps({"__error__": stored.error})
    if (found := stored.interrupts.load()) and stored.values is not None:
        values: Any = stored.values.load()
        asked = [interrupt for several in found.values() for interrupt in several]
        return json.dumps(with_key(values, INTERRUPT, asked))
    return json.dumps(stored.values)


async def ended(engine: Engine, filters: Filters, run_id: UUID) -> None:
    """Wait until the run has ended, or is gone."""
    with engine.wakeups.on(run_topic(run_id)) as signal:
        while True:
            if live := engine.live.get(run_id):
                await live.wait()
            status = await known(engine, filters, run_id)
            if status is None or status in FINAL:
                return
            await signal.wait(POLL_S)


async def known(engine: Engine, filters: Filters, run_id: UUID) -> RunStatus | None:
    """Where the run stands, as soon as Postgres can say; None: there is no such run."""
    return await outlast(lambda: _status(engine, filters, run_id))


async def _status(engine: Engine, filters: Filters, run_id: UUID) -> RunStatus | None:
    async with engine.pool.connection(filters) as conn:
        return await runs.status(conn, run_id)
