"""Quotas: how much one principal may have at once, and how long the queue may be.

Requests, streams and foreground runs are counted in the process that answers them; what waits in the queue is counted
in Postgres, for the whole fleet, at most once a second. Nobody known is nobody to count: without authentication only
the queue is bounded.
"""

import time
from functools import partial
from typing import Self

from threadkeep.auth.presence import Presence
from threadkeep.base.problems import Overloaded, TooMany
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.pool import Pool
from threadkeep.runs.execution import Executions
from threadkeep.settings import Settings
from threadkeep.tables import queue_length
from threadkeep.tables.queue_length import Backlog

COUNT_S = 1.0
"""How long a count of the queue is believed."""
REMEMBERED = 10_000
"""Principals whose requests are counted; of more than these, those who are back at none are forgotten."""
QUEUE_RETRY_S = 5


class Quotas:
    """The counts of one process."""

    def __init__(self, settings: Settings, pool: Pool, executions: Executions, presence: Presence) -> None:
        self._settings = settings
        self._presence = presence
        self._pool = pool
        self._executions = executions
        self._left: dict[str, tuple[float, float]] = {}
        """Requests that a principal may still make, as of a time."""
        self._streams: dict[str, int] = {}
        self._starting: dict[str, int] = {}
        """Foreground runs that are being started."""
        self._backlogs: TtlCache[str | None, Backlog] = TtlCache(capacity=REMEMBERED, ttl_s=COUNT_S)

    def request(self, identity: str, *, has_others: bool | None = None) -> None:
        """Count one request, `has_others` as `Presence.saw`; TooMany where the principal has made too many within a minute.

        What is not used adds up to a minute's share, so that a burst is as good as a steady stream.
        """
        self._presence.saw(identity, has_others=has_others)
        share = self._settings.principal_requests
        if share == 0:
            return
        now = time.monotonic()
        left, at = self._left.get(identity, (float(share), now))
        left = min(float(share), left + (now - at) * share / 60)
        if left < 1:
            wait_s = max(1, round((1 - left) * 60 / share))
            raise TooMany(f"more than {share} requests within a minute", retry_after_s=wait_s)
        if len(self._left) >= REMEMBERED:
            self._forget(now)
        self._left[identity] = (left - 1, now)

    def _forget(self, now: float) -> None:
        """Those who have had nothing to do for a minute have their whole share again."""
        self._left = {identity: (left, at) for identity, (left, at) in self._left.items() if now - at < 60}

    def stream(self, identity: str) -> "Counted":
        """Count an answer that may take long, until it is ended. TooMany if the principal has too many open."""
        cap = self._settings.principal_streams
        if cap and self._streams.get(identity, 0) >= cap:
            raise TooMany(f"{cap} streams and waits are open already")
        return Counted(self._streams, identity)

    def foreground(self, identity: str) -> "Counted":
        """Count a foreground run while it is being started. TooMany if too many of the principal's go on."""
        cap = self._settings.principal_runs
        if cap and self._starting.get(identity, 0) + self._executions.count_of(identity) >= cap:
            raise TooMany(f"{cap} runs go on already")
        return Counted(self._starting, identity)

    async def enqueue(self, identity: str | None, runs: int) -> None:
        """Count runs that are to wait in the queue. Overloaded if it is full, TooMany beyond the principal's share."""
        settings = self._settings
        share = settings.principal_waiting if identity is not None else 0
        if not settings.max_queued and not share:
            return
        backlog = await self._backlogs.get_or_read(identity, partial(self._count_queue, identity))
        if settings.max_queued and backlog.pending + runs > settings.max_queued:
            raise Overloaded("the queue is full", retry_after_s=QUEUE_RETRY_S)
        if share and backlog.own + runs > share:
            raise TooMany(f"{backlog.own} runs wait already; at most {share} may", retry_after_s=QUEUE_RETRY_S)
        backlog.pending += runs
        backlog.own += runs

    async def _count_queue(self, identity: str | None) -> Backlog:
        async with self._pool.connection() as conn:  # the server's own: the runs of other principals count, too
            return await queue_length.count(conn, identity, at_most=self._settings.max_queued)


class Counted:
    """One of a principal's, counted from now until `end`, or until the end of a block."""

    __slots__ = ("_counts", "_identity")

    def __init__(self, counts: dict[str, int], identity: str) -> None:
        self._counts = counts
        self._identity = identity
        counts[identity] = counts.get(identity, 0) + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()

    def end(self) -> None:
        """Count it no longer. To be called once."""
        left = self._counts[self._identity] - 1
        if left:
            self._counts[self._identity] = left
        else:
            del self._counts[self._identity]
