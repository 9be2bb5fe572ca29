"""Heartbeat: says that this process is alive, from a thread with a connection of its own.

A thread, so that a graph that blocks the event loop keeps its lease; a connection of its own, so that it never waits
behind user work.
"""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import psycopg

from threadkeep.db import workers
from threadkeep.db.pool import conninfo

log = logging.getLogger(__name__)

BEATS = 6
"""Heartbeats in the time of one lease."""


@contextmanager
def beating(uri: str, worker_id: UUID, lease_s: float) -> Generator[None]:
    """Keep the row of `workers` fresh while the block runs. The thread is not waited for: it ends by itself."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, worker_id, lease_s / BEATS, stop), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _beat(uri: str, worker_id: UUID, beat_s: float, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo(uri), autocommit=True) as conn:
                while not stop.wait(beat_s):
                    if not workers.renew(conn, worker_id):
                        log.error("the others took this process for dead; its runs may be executed elsewhere")
        except psycopg.OperationalError:
            log.warning("the heartbeat's connection was lost", exc_info=True)
            stop.wait(1.0)
