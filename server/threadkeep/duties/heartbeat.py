"""Heartbeat: renews this process's lease, from a thread with a connection of its own.

It is a thread, so that the lease survives a graph that blocks the event loop. It has its own connection, so that it never
waits for the pool. A process may be stopped for longer than its lease, by a pause, a frozen machine or a broken network.
Other processes then execute its runs, and fencing refuses its later writes. This module drops these runs and continues
with a new id. It does the same after a crash of Postgres, because checkpoints that were not on disk may be lost.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID, uuid4

import psycopg

from threadkeep.duties.lease_reaper import LeaseReaper
from threadkeep.postgres import session
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import CONFLICTS
from threadkeep.runs.execution import Executions
from threadkeep.runs.lease import LEASE_LOST, Lease
from threadkeep.tables import workers

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 6
"""Heartbeats in the time of one lease."""


@contextmanager
def heartbeat(
    uri: str, lease: Lease, lease_s: float, wakeups: NotificationHub, *, own_session: bool = True
) -> Generator[None]:
    """Renew the lease's row while the block runs. The thread ends by itself later.

    `own_session` is False behind a transaction pooler, because session settings are not possible there.
    """
    thread = _Heartbeat(uri, lease, lease_s / BEATS_PER_LEASE, wakeups)
    thread.own_session = own_session
    threading.Thread(target=thread.run, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        thread.stop.set()


class _Heartbeat:
    own_session = True

    def __init__(self, uri: str, lease: Lease, every_s: float, wakeups: NotificationHub) -> None:
        self._uri = uri
        self._lease = lease
        self._every_s = every_s
        self._wakeups = wakeups
        self._loop = asyncio.get_running_loop()
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with self._connect() as conn:
                    while not self.stop.wait(self._every_s):
                        self._renew(conn)
            except psycopg.Error:
                # After an outage all processes look dead. The reaper then waits for one lease before it judges them.
                self._lease.failed_at = time.monotonic()
                log.warning("heartbeat connection lost", exc_info=True)
                self.stop.wait(min(1.0, self._every_s))

    def _connect(self) -> psycopg.Connection:
        # Nothing is prepared, because a transaction pooler may give the next statement another session.
        conn = psycopg.connect(session.conninfo(self._uri), autocommit=True, prepare_threshold=None)
        if self.own_session:
            conn.execute(session.SET_UP, session.PARAMETERS)
        return conn

    def _renew(self, conn: psycopg.Connection) -> None:
        worker_id = self._lease.worker_id
        try:
            renewed = workers.renew(conn, worker_id)
        except CONFLICTS:  # the next heartbeat comes long before the lease expires
            return
        if renewed:
            self._lease.renewed_at = time.monotonic()
        # A process that stops has deleted its row itself.
        elif not self.stop.is_set():
            # The lease belongs to the event loop, and this is another thread.
            self._loop.call_soon_threadsafe(self._lose, worker_id)

    def _lose(self, worker_id: UUID) -> None:
        """Mark the lease as lost. Runs in the event loop."""
        self._lease.lose(worker_id)
        self._wakeups.publish(LEASE_LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReplacement:
    """Duty: after the lease is lost, drop its runs and take a new lease."""

    pool: Pool
    lease: Lease
    graph_ids: Sequence[str]
    run_slots: int
    executions: Executions
    reaper: LeaseReaper
    topic: ClassVar[str | None] = LEASE_LOST
    interval_s: float = 0.5

    async def run_once(self) -> None:
        """Replace the lease if it is lost."""
        if not self.lease.is_lost:
            return
        if run_count := self._drop_runs():
            log.error("lease lost: its runs return to the queue", extra={"runs_stopped": run_count})
        new_id = uuid4()
        async with self.pool.connection() as conn:
            await workers.create(conn, new_id, self.graph_ids, run_slots=self.run_slots)
            await workers.delete(conn, self.lease.worker_id)  # so that the reaper finds its runs
        # Only after the commit: a run that is claimed now must name a row that exists.
        self.lease.replace(new_id)
        await self.reaper.run_once()

    def _drop_runs(self) -> int:
        """Stop the runs that have a row, without writing their state. Returns their number."""
        executions = [execution for execution in self.executions if execution.is_durable]
        for execution in executions:
            self.executions.remove(execution)
            execution.lose_lease()
        return len(executions)
