"""Quotas: how much one principal may have at once, and how long the queue may be.

Requests, streams and foreground runs are counted in the process that answers them; what waits in the queue is counted
in Postgres, for the whole fleet, at most once a second. Nobody known is nobody to count: without authentication only
the queue is bounded.
"""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from threadkeep.base.problems import Overloaded, TooMany
from threadkeep.postgres.pool import Pool
from threadkeep.runs.event_log import LiveRuns
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

    def __init__(self, settings: Settings, pool: Pool, live: LiveRuns) -> None:
        self._settings = settings
        self._pool = pool
        self._live = live
        self._left: dict[str, tuple[float, float]] = {}
        """Requests that a principal may still make, as of a time."""
        self._streams: dict[str, int] = {}
        self._opening: dict[str, int] = {}
        """Foreground runs that are asked for, and answered."""
        self._backlogs: dict[str | None, tuple[float, Backlog]] = {}

    def request(self, identity: str) -> None:
        """Count one request; TooMany where the principal has made too many within a minute.

        What is not used adds up to a minute's share, so that a burst is as good as a steady stream.
        """
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

    @contextmanager
    def stream(self, identity: str) -> Generator[None]:
        """Count an answer that may take long, while the block runs; TooMany where the principal has too many open."""
        with _counted(self._streams, identity, self._settings.principal_streams, "streams and waits are open"):
            yield

    @contextmanager
    def foreground(self, identity: str) -> Generator[None]:
        """Count a run that somebody waits for, while the block runs; TooMany where too many of the principal's go on."""
        cap = self._settings.principal_runs
        if cap and sum(live.identity == identity for live in self._live.all().values()) >= cap:
            raise TooMany(f"{cap} runs go on already")
        with _counted(self._opening, identity, cap, "runs go on"):
            yield

    @contextmanager
    def held(self, identity: str, *, is_run: bool) -> Generator[ExitStack]:
        """`stream`, and `foreground` where the answer is a run's; for longer than the block where it is taken over."""
        with ExitStack() as held:
            held.enter_context(self.stream(identity))
            if is_run:
                held.enter_context(self.foreground(identity))
            yield held

    async def enqueue(self, identity: str | None, runs: int) -> None:
        """Count runs that are to wait in the queue; Overloaded where it is full, TooMany beyond the principal's share."""
        settings = self._settings
        share = settings.principal_waiting if identity is not None else 0
        if not settings.max_queued and not share:
            return
        found = await self._backlog(identity, settings.max_queued)
        if settings.max_queued and found.pending + runs > settings.max_queued:
            raise Overloaded("the queue is full", retry_after_s=QUEUE_RETRY_S)
        if share and found.own + runs > share:
            raise TooMany(f"{found.own} runs wait already; at most {share} may", retry_after_s=QUEUE_RETRY_S)
        found.pending += runs
        found.own += runs

    async def _backlog(self, identity: str | None, at_most: int) -> Backlog:
        now = time.monotonic()
        at, found = self._backlogs.get(identity, (-COUNT_S, None))
        if found is not None and now - at < COUNT_S:
            return found
        async with self._pool.connection() as conn:  # the server's own: the runs of other principals count, too
            found = await queue_length.count(conn, identity, at_most=at_most)
        if len(self._backlogs) >= REMEMBERED:
            self._backlogs.clear()
        self._backlogs[identity] = (now, found)
        return found


@contextmanager
def _counted(counts: dict[str, int], identity: str, cap: int, what: str) -> Generator[None]:
    number = counts.get(identity, 0)
    if cap and number >= cap:
        raise TooMany(f"{cap} {what} already")
    counts[identity] = number + 1
    try:
        yield
    finally:
        if counts[identity] == 1:
            del counts[identity]
        else:
            counts[identity] -= 1
