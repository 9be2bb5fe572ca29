"""Engine: what a process needs to execute runs, opened by the lifespan and handed down as one parameter."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import anyio
from langgraph.checkpoint.base import BaseCheckpointSaver

from threadkeep.db.event_commit import EventCommit
from threadkeep.db.group_commit import GroupCommit
from threadkeep.db.listen import Wakeups
from threadkeep.db.openings import Openings
from threadkeep.db.pool import Pool
from threadkeep.db.store import Store
from threadkeep.db.threads import Ttl
from threadkeep.engine.lease import Lease
from threadkeep.engine.live import LiveRuns
from threadkeep.engine.slots import Slots
from threadkeep.engine.stuck import Stuck
from threadkeep.engine.webhook_policy import Policy
from threadkeep.graphs import LoadedGraph
from threadkeep.metrics import Metrics
from threadkeep.settings import Settings
from threadkeep.tracing import Tracing

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
    saver: BaseCheckpointSaver[str]
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
