"""Keep: a reader of a run's ring that writes what it reads to Postgres, in batches.

Only kept runs have one: background, resumable, or watched from elsewhere. It never lets the run outrun it by more
than the ring holds.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from threadkeep.db import events
from threadkeep.db.events import RunEvent
from threadkeep.db.listen import notify, run_topic
from threadkeep.db.pool import Pool
from threadkeep.engine.live import Event, Gap, LiveRun

LINGER_S = 0.02
"""How long an event may wait for others to be written with it."""
BATCH = 500
"""Events written at once."""


@asynccontextmanager
async def keeping(pool: Pool, live: LiveRun, *, kept: bool) -> AsyncGenerator[None]:
    """While the block runs, write the run's events; when it ends, all of them are in Postgres."""
    if not kept:
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep, pool, live, name=f"keep {live.run_id}")
        yield
        live.seal()


async def _keep(pool: Pool, live: LiveRun) -> None:
    position = live.events_before
    while True:
        batch = live.behind(position)
        for start in range(0, len(batch), BATCH):
            await _write(pool, live, batch[start : start + BATCH])
        if batch:
            position = batch[-1].position
        elif live.sealed:
            return
        else:
            await live.changed()
        if not live.sealed:
            await anyio.sleep(LINGER_S)


async def _write(pool: Pool, live: LiveRun, batch: list[Event | Gap]) -> None:
    async with pool.connection() as conn:
        await events.append(
            conn,
            live.run_id,
            [
                RunEvent(position=item.position, event=item.name, data=item.data.decode())
                for item in batch
                if isinstance(item, Event)
            ],
        )
        await notify(conn, run_topic(live.run_id))
