"""Graceful shutdown: drains a process that must stop.

The process immediately reports that it is not ready, and claims no more runs. For a while it still accepts requests,
because load balancers check readiness only at intervals. Runs get a grace period. The remaining runs are stopped and
returned to the queue for another process. Streams end after that, so that uvicorn can close their connections.
"""

import logging
from dataclasses import dataclass

import anyio

from threadkeep.base.signals import ProcessSignals
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.runs.execution import Executions
from threadkeep.runs.lease import Lease
from threadkeep.runs.slots import Slots
from threadkeep.settings import Settings
from threadkeep.tables import workers

log = logging.getLogger(__name__)

ADMISSION_POLL_S = 0.02
"""Seconds between two checks whether a run with a slot has started."""
REQUEUE_TIMEOUT_S = 5.0
"""Seconds for the last write. If it fails, other processes recover the runs after the lease has expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Drains the process once."""

    settings: Settings
    signals: ProcessSignals
    slots: Slots
    executions: Executions
    commits: GroupCommit
    pool: Pool
    lease: Lease

    async def drain_on_signal(self) -> None:
        """Wait for the stop signal and the shutdown delay, which still accepts requests. Then drain."""
        await self.signals.stopping.wait()
        lingered_s = min(self.settings.shutdown_delay_s, self.settings.drain_s)
        with anyio.move_on_after(lingered_s):
            await self.signals.hurried.wait()
        await self.drain(within_s=self.settings.drain_s - lingered_s)

    async def drain(self, *, within_s: float | None = None) -> None:
        """Wait up to `drain_s` seconds for the runs, and requeue the rest. A second call does nothing more."""
        self.signals.stopping.set()
        self.slots.drain()
        with anyio.move_on_after(self.settings.drain_s if within_s is None else within_s, shield=True):
            await self._ended_or_hurried()
        # Streams end after the runs, so that their clients get as many events as possible.
        self.signals.leaving.set()
        # Their graphs stop without a final write, because the runs return to the queue.
        self.executions.lose_running()
        requeued = 0
        with anyio.move_on_after(REQUEUE_TIMEOUT_S, shield=True):
            await self.commits.drain()  # before another process continues from the last checkpoint
            requeued = await retry_conflicts(self._requeue)
        if requeued:
            log.info("runs returned to the queue", extra={"run_count": requeued})

    async def _requeue(self) -> int:
        async with self.pool.connection() as conn:
            requeued = await workers.requeue_runs(conn, self.lease.worker_id)
            # Without its row, Postgres refuses any late write of this process.
            await workers.delete(conn, self.lease.worker_id)
        return requeued

    async def _ended_or_hurried(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_ended, tasks.cancel_scope)
            await self.signals.hurried.wait()
            tasks.cancel_scope.cancel()

    async def _until_ended(self, waiting: anyio.CancelScope) -> None:
        while self.executions or self.slots.running:
            if self.executions:
                await self.executions.next_ended()
            # A run has a slot but no execution yet. If it were requeued now and its client repeats the request, it would
            # run twice.
            else:
                await anyio.sleep(ADMISSION_POLL_S)
        waiting.cancel()
