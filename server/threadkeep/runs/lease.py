"""Lease: the id under which this process executes runs, until the others take it for dead."""

import time
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

LEASE_LOST: Final = "lease"
"""The topic that wakes the duty that takes another lease."""


@dataclass(slots=True)
class Lease:
    """One at a time. A lost one is followed by another, with another id."""

    worker_id: UUID = field(default_factory=uuid4)
    is_lost: bool = False
    """The row of `worker_id` is gone."""
    renewed_at: float = field(default_factory=time.monotonic)
    """Monotonic: when the row was last renewed."""
    failed_at: float = float("-inf")
    """Monotonic: when a heartbeat last failed."""

    def can_expire_others(self, lease_s: float) -> bool:
        """Whether the silence of others is theirs: after an outage of Postgres every process looks dead."""
        return time.monotonic() - self.failed_at > lease_s

    def lose(self, worker_id: UUID) -> None:
        """The row of `worker_id` is gone. Nothing happens if that was an earlier lease."""
        if worker_id == self.worker_id:
            self.is_lost = True

    def replace(self, worker_id: UUID) -> None:
        """Go on under another id, whose row is there."""
        self.worker_id, self.is_lost = worker_id, False
