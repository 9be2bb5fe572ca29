"""Lease reaper: recovers the runs of dead processes."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from threadkeep.base.metrics import Metrics
from threadkeep.postgres.pool import Pool
from threadkeep.runs.execution import Executions
from threadkeep.runs.lease import Lease
from threadkeep.settings import Settings
from threadkeep.tables import workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReaper:
    """Duty: delete expired leases and requeue their runs."""

    pool: Pool
    executions: Executions
    lease: Lease
    settings: Settings
    metrics: Metrics
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        """`THREADKEEP_SWEEP`."""
        return self.settings.reaper_interval_s

    async def run_once(self) -> None:
        """Delete expired leases, and return runs without a lease to the queue."""
        settings, executed = self.settings, [execution.run_id for execution in self.executions]
        async with self.pool.connection() as conn:
            if self.lease.can_expire_others(settings.lease_s):
                await workers.delete_expired(conn, self.lease.worker_id, settings.lease_s)
            orphans = await workers.recover_runs(conn, settings.max_attempts)
            await workers.requeue_orphaned_runs(conn, self.lease.worker_id, executed, settings.lease_s)
        if orphans:
            self.metrics.run_recoveries.inc(len(orphans))
            log.warning("runs of dead processes recovered", extra={"run_ids": [str(run_id) for run_id in orphans]})
