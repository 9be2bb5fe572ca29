"""Heartbeat: says that this process is alive, from a thread with a connection of its own.

A thread, so that a graph that blocks the event loop keeps its lease; a connection of its own, so that it never waits
behind user work. A process that was stopped for longer than its lease (a pause, a frozen machine, a cut network) goes
on as if nothing had happened, while others execute its runs: Postgres refuses what it still writes for them, and here
it lets go of them and goes on under a new id. The same where Postgres crashed: what it had not yet on disk is gone, and
with it perhaps a checkpoint that a run builds on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from uuid import uuid4

import anyio
import psycopg

from threadkeep.duties.lease_reaper import sweep_once
from threadkeep.postgres.pool import conninfo
from threadkeep.postgres.retry import AWAY
from threadkeep.runs.engine import Engine
from threadkeep.runs.lease import Lease
from threadkeep.tables import workers

log = logging.getLogger(__name__)

BEATS = 6
"""Heartbeats in the time of one lease."""
RETRY_S = 0.5


@contextmanager
def beating(uri: str, lease: Lease, lease_s: float) -> Generator[None]:
    """Keep the lease's row fresh while the block runs. The thread is not waited for: it ends by itself."""
    beat = _Beat(uri, lease, lease_s / BEATS)
    threading.Thread(target=beat.go_on, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        beat.stop.set()


class _Beat:
    def __init__(self, uri: str, lease: Lease, every_s: float) -> None:
        self._uri = uri
        self._lease = lease
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self.stop = threading.Event()

    def go_on(self) -> None:
        while not self.stop.is_set():
            try:
                with psycopg.connect(conninfo(self._uri), autocommit=True) as conn:
                    while not self.stop.wait(self._every_s):
                        self._renew(conn)
            except psycopg.Error:
                self._lease.broken_at = time.monotonic()
                log.warning("the heartbeat's connection was lost", exc_info=True)
                self.stop.wait(min(1.0, self._every_s))

    def _renew(self, conn: psycopg.Connection) -> None:
        worker_id, lost = self._lease.worker_id, self._lease.lost
        if workers.renew(conn, worker_id):
            self._lease.beaten_at = time.monotonic()
        elif not self.stop.is_set():
            self._loop.call_soon_threadsafe(lost.set)


async def replace_lost(engine: Engine) -> None:
    """Whenever the lease is lost, let go of the runs that were held by it and take another; until cancelled."""
    while True:
        await engine.lease.lost.wait()
        log.error("the lease is lost: its runs are put back in the queue", extra={"lost_runs": _let_go(engine)})
        await _take_another(engine)


def _let_go(engine: Engine) -> int:
    """Stop the runs that have a row, without a word in Postgres; how many."""
    lost = [live for live in engine.live.all().values() if live.durable]
    for live in lost:
        engine.live.remove(live)
        live.lose()
    return len(lost)


async def _take_another(engine: Engine) -> None:
    fresh = uuid4()
    while engine.worker_id != fresh:
        try:
            async with engine.pool.connection() as conn:
                await workers.create(conn, fresh)
                await workers.delete(conn, engine.worker_id)  # so that the sweep finds its runs
            engine.lease.take(fresh)
            await sweep_once(engine)
        except AWAY:
            await anyio.sleep(RETRY_S)
