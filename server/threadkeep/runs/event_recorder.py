"""Keep: a reader of a run's ring that writes what it reads to Postgres, in batches.

Only kept runs have one: background, resumable, or watched from elsewhere. It never lets the run outrun it by more
than the ring holds.
"""

import logging
from uuid import UUID

import anyio

from threadkeep.postgres.listen import WATCH
from threadkeep.postgres.retry import AWAY, outlast
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import Event, Gap, LiveRun
from threadkeep.tables import runs
from threadkeep.tables.run_events import Batch, RunEvent

log = logging.getLogger(__name__)

LINGER_S = 0.2
"""The beat in which all runs' events are written, so that they go together."""
BATCH = 500
"""Events written at once."""
POLL_S = 5.0


def keep(engine: Engine, live: LiveRun) -> None:
    """From here on write the run's events, beginning with what the ring holds."""
    live.watched = True
    live.keeper = anyio.Event()
    engine.live.work(_keep(engine, live, live.keeper), name=f"keep {live.run_id}")


async def kept_all(live: LiveRun) -> None:
    """No more events will come; wait until all of them are in Postgres, where they are kept."""
    live.seal()
    if live.keeper is not None:
        await live.keeper.wait()


async def keep_watched(engine: Engine) -> None:
    """Begin to keep the runs of this process that somebody wants to follow in another one, until cancelled."""
    with engine.wakeups.on(WATCH) as signal:
        while True:
            try:
                await keep_watched_once(engine)
            except AWAY:
                log.warning("watched runs can't be read", exc_info=True)
            await signal.wait(POLL_S)


async def keep_watched_once(engine: Engine) -> None:
    """Begin to keep what is watched now."""
    unkept = [run_id for run_id, live in engine.live.all().items() if live.keeper is None and live.durable]
    if not unkept:
        return
    async with engine.pool.connection() as conn:
        watched = await runs.watched(conn, unkept)
    for run_id in watched:
        live = engine.live.get(run_id)
        if live is not None and live.keeper is None and not live.sealed:
            keep(engine, live)


async def _keep(engine: Engine, live: LiveRun, done: anyio.Event) -> None:
    try:
        await _write_all(engine, live)
    except Exception:
        log.exception("a run's events can't be kept", extra={"run_id": str(live.run_id)})
    finally:
        done.set()


async def _write_all(engine: Engine, live: LiveRun) -> None:
    position, worker_id = live.events_before, engine.worker_id
    while not live.abandoned:
        batch = live.behind(position)
        for start in range(0, len(batch), BATCH):
            part = _batch(live, worker_id, batch[start : start + BATCH])
            await outlast(lambda part=part: engine.event_commit.write(part))
        if batch:
            position = batch[-1].position
        elif live.sealed:
            return
        else:
            await live.changed()
        await _linger(live)


async def _linger(live: LiveRun) -> None:
    """Let events gather, to be written with those of the other runs; none may fall out of the ring."""
    if live.sealed or live.crowded:
        return
    live.pressed = anyio.Event()
    with anyio.move_on_after(LINGER_S - anyio.current_time() % LINGER_S):
        await live.pressed.wait()


def _batch(live: LiveRun, worker_id: UUID, items: list[Event | Gap]) -> Batch:
    found = [
        RunEvent(position=item.position, event=item.name, data=item.data.decode())
        for item in items
        if isinstance(item, Event)
    ]
    return Batch(live.run_id, worker_id, found)
