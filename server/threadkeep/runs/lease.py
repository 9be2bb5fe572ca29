"""Lease: the id under which this process executes runs, until the others take it for dead."""

import time
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import anyio


@dataclass(slots=True)
class Lease:
    """One at a time; a lost one is followed by another, with another id."""

    worker_id: UUID = field(default_factory=uuid4)
    lost: anyio.Event = field(default_factory=anyio.Event)
    """Set, from the event loop, when the row of `worker_id` is gone."""
    beaten_at: float = field(default_factory=time.monotonic)
    """Monotonic: when the row was last renewed."""
    broken_at: float = float("-inf")
    """Monotonic: when a heartbeat last failed."""

    def may_judge(self, lease_s: float) -> bool:
        """Whether the silence of others is theirs: after an outage of Postgres every process looks dead."""
        return time.monotonic() - self.broken_at > lease_s

    def take(self, worker_id: UUID) -> None:
        """Go on under another id, whose row is there."""
        self.worker_id, self.lost = worker_id, anyio.Event()
