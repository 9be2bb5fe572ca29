"""Engine: what a process needs to execute runs, opened by the lifespan and handed down as one parameter."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import anyio
from anyio.abc import TaskGroup
from langgraph.checkpoint.base import BaseCheckpointSaver

from threadkeep.db.listen import Wakeups
from threadkeep.db.pool import Pool
from threadkeep.db.store import Store
from threadkeep.db.threads import Ttl
from threadkeep.engine.live import LiveRuns
from threadkeep.engine.slots import Slots
from threadkeep.engine.webhook_policy import Policy
from threadkeep.graphs import LoadedGraph
from threadkeep.settings import Settings

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
    wakeups: Wakeups
    tasks: TaskGroup
    """The owner of every run: a request that goes away does not take its run along."""
    webhooks: Policy = field(default_factory=Policy)
    expiry: Expiry = field(default_factory=Expiry)
    thread_ttl: Ttl | None = None
    """Of a new thread for which the client gives none."""
    stopping: anyio.Event = field(default_factory=anyio.Event)
    """Set when the process is told to stop."""
    live: LiveRuns = field(default_factory=LiveRuns)
    worker_id: UUID = field(default_factory=uuid4)
