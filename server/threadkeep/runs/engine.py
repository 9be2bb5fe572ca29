"""Engine: what a process needs to execute runs, opened by the lifespan and handed down as one parameter."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import anyio

from threadkeep.base.metrics import Metrics
from threadkeep.base.tracing import Tracing
from threadkeep.graphs import LoadedGraph
from threadkeep.persistence.checkpointer import Checkpoints
from threadkeep.persistence.group_commit import GroupCommit
from threadkeep.persistence.store import Store
from threadkeep.postgres.listen import Wakeups
from threadkeep.postgres.pool import Pool
from threadkeep.runs.abandoned_tasks import Stuck
from threadkeep.runs.event_commit import EventCommit
from threadkeep.runs.event_log import LiveRuns
from threadkeep.runs.lease import Lease
from threadkeep.runs.slots import Slots
from threadkeep.runs.webhook_policy import Policy
from threadkeep.settings import Settings
from threadkeep.tables.run_creation import Openings
from threadkeep.tables.threads import Ttl

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """How threads whose time to live is over are ended: `limit` of them every `every_s` seconds."""

    every_s: float = 10
    limit: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The parts that runs share in one process."""

    settings: Settings
    graphs: Mapping[str, LoadedGraph]
    pool: Pool
    """Of our own tables."""
    saver: Checkpoints
    store: Store
    slots: Slots
    openings: Openings
    commits: GroupCommit
    """Of checkpoints and of the ends of runs."""
    event_commit: EventCommit
    wakeups: Wakeups
    metrics: Metrics = field(default_factory=Metrics)
    tracing: Tracing | None = None
    """None: no spans are made."""
    webhooks: Policy = field(default_factory=Policy)
    expiry: Expiry = field(default_factory=Expiry)
    thread_ttl: Ttl | None = None
    """Of a new thread for which the client gives none."""
    stopping: anyio.Event = field(default_factory=anyio.Event)
    """Set when the process is told to stop."""
    hurried: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is told so again."""
    leaving: anyio.Event = field(default_factory=anyio.Event)
    """Set when the runs have had their time: what is still open is ended now, unfinished."""
    live: LiveRuns = field(default_factory=LiveRuns)
    stuck: Stuck = field(default_factory=Stuck)
    lease: Lease = field(default_factory=Lease)

    @property
    def worker_id(self) -> UUID:
        """What this process's runs are held by now."""
        return self.lease.worker_id
