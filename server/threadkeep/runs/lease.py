"""Lease: the id under which this process executes runs, valid until other processes consider it dead (fencing)."""

import time
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

LEASE_LOST: Final = "lease"
"""The topic that wakes the heartbeat, which takes a new lease."""


@dataclass(slots=True)
class Lease:
    """The current lease of this process. A lost lease is replaced by one with a new id."""

    worker_id: UUID = field(default_factory=uuid4)
    is_lost: bool = False
    """The row of `worker_id` was deleted."""
    renewed_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the last renewal of the row."""
    failed_at: float = float("-inf")
    """Monotonic time of the last failed heartbeat."""

    def can_expire_others(self, lease_s: float) -> bool:
        """Whether missing heartbeats prove that a process is dead. After an outage of Postgres they do not."""
        return time.monotonic() - self.failed_at > lease_s

    def lose(self, worker_id: UUID) -> None:
        """Mark the lease as lost, because the row of `worker_id` was deleted. Does nothing for an earlier lease."""
        if worker_id == self.worker_id:
            self.is_lost = True

    def replace(self, worker_id: UUID) -> None:
        """Continue with a new id whose row exists."""
        # The heartbeat reads `worker_id` in its own thread, so it must already have a row.
        self.worker_id, self.is_lost = worker_id, False
