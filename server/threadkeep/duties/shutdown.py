"""Shutdown: what becomes of the runs of a process that is told to stop.

At once it says that it is not ready and claims no more runs; for a while it still takes requests, for those who send
them look at that only now and then. Runs get their time; the rest are stopped and put back in the queue for another
process. Only then do the streams end, and with them the connections that uvicorn waits for.
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
"""Between two looks whether a run that has a slot has begun."""
REQUEUE_TIMEOUT_S = 5.0
"""How long the last write may take; after it the others take the runs over by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Drains the process: once, however often it is asked to."""

    settings: Settings
    signals: ProcessSignals
    slots: Slots
    executions: Executions
    commits: GroupCommit
    pool: Pool
    lease: Lease

    async def drain_when_told(self) -> None:
        """Wait until the process is told to stop, and some more, in which requests are still taken. Then drain."""
        await self.signals.stopping.wait()
        lingered_s = min(self.settings.shutdown_delay_s, self.settings.drain_s)
        with anyio.move_on_after(lingered_s):
            await self.signals.hurried.wait()
        await self.drain(within_s=self.settings.drain_s - lingered_s)

    async def drain(self, *, within_s: float | None = None) -> None:
        """Let the runs end, within `drain_s` seconds, and put back what is left. A second call finds nothing to do."""
        self.signals.stopping.set()
        self.slots.drain()
        with anyio.move_on_after(self.settings.drain_s if within_s is None else within_s, shield=True):
            await self._ended_or_hurried()
        self.signals.leaving.set()
        self.executions.lose_running()
        put_back = 0
        with anyio.move_on_after(REQUEUE_TIMEOUT_S, shield=True):
            await self.commits.drain()  # before another process goes on from the last checkpoint
            put_back = await retry_conflicts(self._requeue)
        if put_back:
            log.info("runs were put back in the queue", extra={"run_count": put_back})

    async def _requeue(self) -> int:
        async with self.pool.connection() as conn:
            put_back = await workers.requeue_runs(conn, self.lease.worker_id)
            await workers.delete(conn, self.lease.worker_id)
        return put_back

    async def _ended_or_hurried(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_ended, tasks.cancel_scope)
            await self.signals.hurried.wait()
            tasks.cancel_scope.cancel()

    async def _until_ended(self, waiting: anyio.CancelScope) -> None:
        while self.executions or self.slots.running:
            if self.executions:
                await self.executions.next_ended()
            else:  # it has its slot, and is being opened: put back, it would run twice if its client asks again
                await anyio.sleep(ADMISSION_POLL_S)
        waiting.cancel()
