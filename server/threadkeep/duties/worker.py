"""Worker: claims pending runs from the queue when a slot is free.

It takes the slot before the run. So no process claims a run that it can't execute.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from threadkeep.auth.presence import Presence
from threadkeep.base.fair_limiter import ANONYMOUS
from threadkeep.base.metrics import Metrics
from threadkeep.base.signals import ProcessSignals
from threadkeep.postgres.listen import RUN_CANCELLED, RUN_PENDING, NotificationHub
from threadkeep.postgres.pool import Pool
from threadkeep.runs.execution import Executions
from threadkeep.runs.executor import Executor
from threadkeep.runs.lease import Lease
from threadkeep.runs.slots import Slots
from threadkeep.tables import cancels, queue, queue_depth
from threadkeep.tables.queue import ClaimedRun

log = logging.getLogger(__name__)

MAX_UNSERVED = 20
"""The most graphs that are reported. It bounds the number of labels of the metric."""


@dataclass(slots=True, kw_only=True)
class Worker:
    """Duty: execute pending runs, round robin over principals."""

    pool: Pool
    graph_ids: Sequence[str]
    """The graphs that this process serves. It claims no runs of other graphs."""
    slots: Slots
    executor: Executor
    lease: Lease
    presence: Presence
    signals: ProcessSignals
    metrics: Metrics
    wakeups: NotificationHub
    topic: ClassVar[str | None] = RUN_PENDING
    interval_s: float = 5.0
    served: str = ANONYMOUS
    """The principal of the last claimed run."""
    held_back: Sequence[str] = ()
    """The principals that are skipped because they hold too many slots of this process."""

    async def run_once(self) -> float | None:
        """Claim runs until none is due. Returns the seconds until the next delayed run is due."""
        while await self.claim_one() or any(self.slots.is_free(holder) for holder in self.held_back):
            pass
        if self.held_back:
            # No notification comes for a run that stays in the queue because of its principal.
            self.slots.tell_of_release(partial(self.wakeups.publish, RUN_PENDING))
        async with self.pool.connection() as conn:
            return await queue.seconds_to_next(conn, self.graph_ids, self.held_back)

    async def claim_one(self) -> bool:
        """Start one pending run. False if there is none to start, or the process is stopping."""
        self.held_back = ()
        async with self.pool.connection() as conn:
            # A look without a slot, because an idle worker must not keep a slot from requests.
            if self.signals.stopping.is_set() or not await queue.has_due_run(conn, self.graph_ids):
                return False
        async with self.slots.acquire_unbounded() as slot:
            # The wait for the slot may have been long.
            claimed = None if self.signals.stopping.is_set() else await self._claim()
            if claimed is None:
                return False
            self.served = _holder(claimed)
            if claimed.principal:  # a process of the role `worker` gets no requests that would show who is active
                self.presence.saw(self.served)
            slot.assign(self.served)
            # A recovered run has also waited for its dead process, which is not the queue's time.
            if claimed.waited_s is not None and claimed.attempt == 1:
                self.metrics.queue_wait.observe(claimed.waited_s)
            self.executor.start_claimed(claimed, slot.transfer(), read_by_caller=True)
        return True

    async def _claim(self) -> ClaimedRun | None:
        """Claim a run. Shielded, because a cancellation would leave a claimed run `running` without an execution."""
        self.held_back = self.slots.held_back()
        async with self.pool.shielded() as conn:
            return await queue.claim(
                conn, self.lease.worker_id, self.graph_ids, after_principal=self.served, held_back=self.held_back
            )


def _holder(claimed: ClaimedRun) -> str:
    """The principal of the run."""
    return claimed.principal.load()["identity"] if claimed.principal else ANONYMOUS


@dataclass(slots=True, kw_only=True)
class UnservedRuns:
    """Duty: report runs that stay in the queue because no live process serves their graph."""

    pool: Pool
    metrics: Metrics
    topic: ClassVar[str | None] = None
    interval_s: float = 10.0
    reported: frozenset[str] = frozenset()
    """The graphs that were already logged."""

    async def run_once(self) -> None:
        """Count these runs. Each graph is logged once until it is served again."""
        async with self.pool.connection() as conn:
            unserved = await queue_depth.unserved(conn, limit=MAX_UNSERVED)
        self.metrics.show_unserved(unserved)
        for graph_id in sorted(unserved.keys() - self.reported):
            fields = {"graph_id": graph_id, "runs": unserved[graph_id]}
            log.warning("runs wait for a graph that no live process serves", extra=fields)
        self.reported = frozenset(unserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRuns:
    """Duty: stop runs of this process that were cancelled in another process, or whose thread was deleted."""

    pool: Pool
    executions: Executions
    lease: Lease
    topic: ClassVar[str | None] = RUN_CANCELLED
    interval_s: float = 5.0

    async def run_once(self) -> None:
        """Stop the runs with a cancel request."""
        durable = [execution.run_id for execution in self.executions if execution.is_durable]
        if not durable:
            return
        async with self.pool.connection() as conn:
            requests = await cancels.cancel_requests(conn, self.lease.worker_id, durable)
        for run_id, action, reason in requests:
            if execution := self.executions.get(run_id):
                execution.cancel(action, reason)
