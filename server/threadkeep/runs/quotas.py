"""Quotas: how much one principal may have at once, and how long the queue may be.

Requests, new threads, streams and foreground runs are counted in the process that answers them. What waits in the queue
is counted in Postgres, for the whole fleet, at most once a second. Crons and assistants are counted in the transaction
that creates one more, items by the store itself (`persistence/store.py`). Nobody known is nobody to count: without
authentication only the queue is bounded.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Self

from threadkeep.auth.presence import Presence
from threadkeep.base.problems import QueueFull, TooManyRequests
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.runs.execution import Executions
from threadkeep.settings import Settings
from threadkeep.tables import principal_rows, queue_length
from threadkeep.tables.principal_rows import CappedTable
from threadkeep.tables.queue_length import PendingCounts

COUNT_TTL_S = 1.0
"""How long a count of the queue is believed."""
MAX_PRINCIPALS = 10_000
"""Principals whose requests are counted; of more than these, those who are back at none are forgotten."""
QUEUE_RETRY_S = 5
ROWS_RETRY_S = 60
"""Only a deletion makes room for a further row."""


class Quotas:
    """The counts of one process."""

    def __init__(self, settings: Settings, pool: Pool, executions: Executions, presence: Presence) -> None:
        self._settings = settings
        self._presence = presence
        self._pool = pool
        self._executions = executions
        self._requests = MinuteShares(settings.max_requests_per_principal, "requests")
        self._new_threads = MinuteShares(settings.max_new_threads_per_principal, "threads created")
        self._streams: dict[str, int] = {}
        self._starting: dict[str, int] = {}
        """Foreground runs that are being started."""
        self._backlogs: TtlCache[str | None, PendingCounts] = TtlCache(capacity=MAX_PRINCIPALS, ttl_s=COUNT_TTL_S)

    def count_request(self, identity: str, *, has_others: bool | None = None) -> None:
        """Count one request, `has_others` as `Presence.saw`. TooManyRequests if the principal has made too many within a minute."""
        self._presence.saw(identity, has_others=has_others)
        self._requests.take(identity)

    def request_share(self, identity: str | None) -> "ShareLeft | None":
        """What is left of the principal's requests of a minute. None if they are not counted."""
        return None if identity is None else self._requests.left(identity)

    def refuse_thread(self, identity: str | None) -> None:
        """TooManyRequests if the principal has created too many threads within a minute to create one more."""
        if identity is not None:
            self._new_threads.refuse_if_spent(identity)

    def count_thread(self, identity: str | None) -> None:
        """Count a thread that was created for the principal."""
        if identity is not None:
            self._new_threads.charge(identity)

    async def hold_row(self, conn: Conn, table: CappedTable, identity: str | None) -> None:
        """Count the principal's rows of a table, of which the caller's transaction creates one more. TooManyRequests.

        No other transaction creates one for the principal until this one ends.
        """
        cap = {
            "crons": self._settings.max_crons_per_principal,
            "assistants": self._settings.max_assistants_per_principal,
        }[table]
        if identity is None or not cap:
            return
        if await principal_rows.lock_and_count(conn, table, identity) >= cap:
            raise TooManyRequests(f"at most {cap} {table}; delete some first", retry_after_s=ROWS_RETRY_S)

    def hold_stream(self, identity: str) -> "Counted":
        """Count an answer that may take long, until it is ended. TooManyRequests if the principal has too many open."""
        cap = self._settings.max_streams_per_principal
        if cap and self._streams.get(identity, 0) >= cap:
            raise TooManyRequests(f"{cap} streams and waits are open already")
        return Counted(self._streams, identity)

    def hold_run(self, identity: str) -> "Counted":
        """Count a foreground run while it is being started. TooManyRequests if too many of the principal's go on."""
        cap = self._settings.max_runs_per_principal
        if cap and self._starting.get(identity, 0) + self._executions.count_of(identity) >= cap:
            raise TooManyRequests(f"{cap} runs go on already")
        return Counted(self._starting, identity)

    async def check_queue(self, identity: str | None, runs: int) -> None:
        """Count runs that are to wait in the queue. Overloaded if it is full, TooManyRequests beyond the principal's share."""
        settings = self._settings
        share = settings.max_queued_per_principal if identity is not None else 0
        if not settings.max_queued and not share:
            return
        backlog = await self._backlogs.get_or_read(identity, partial(self._count_queue, identity))
        if settings.max_queued and backlog.total + runs > settings.max_queued:
            raise QueueFull("the queue is full", retry_after_s=QUEUE_RETRY_S)
        if share and backlog.principal + runs > share:
            raise TooManyRequests(
                f"{backlog.principal} runs wait already; at most {share} may", retry_after_s=QUEUE_RETRY_S
            )
        backlog.total += runs
        backlog.principal += runs

    async def _count_queue(self, identity: str | None) -> PendingCounts:
        async with self._pool.connection() as conn:  # the server's own: the runs of other principals count, too
            return await queue_length.count_pending(conn, identity, at_most=self._settings.max_queued)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLeft:
    """What a principal may still have within a minute."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until the whole share is there again."""


class MinuteShares:
    """Token buckets: what each principal may still have within a minute. The unused part is kept, up to a whole share."""

    def __init__(self, share: int, counted: str) -> None:
        """`counted` names what is counted, for the refusal. A share of 0 is any number."""
        self._share = share
        self._counted = counted
        self._left: dict[str, tuple[float, float]] = {}
        """What a principal may still have, as of a time."""

    def left(self, identity: str) -> ShareLeft | None:
        """What the principal may still have. None if the share is any number."""
        if not self._share:
            return None
        left = self._left_now(identity, time.monotonic())
        reset_s = round((self._share - left) * 60 / self._share, 3)
        return ShareLeft(limit=self._share, remaining=max(0, int(left)), reset_s=reset_s)

    def take(self, identity: str) -> None:
        """Count one more. TooManyRequests if there is none left."""
        left = self.refuse_if_spent(identity)
        if left is not None:
            self._record(identity, left - 1, time.monotonic())

    def refuse_if_spent(self, identity: str) -> float | None:
        """How many the principal may still have now; None: any number. TooManyRequests if there is none left."""
        if not self._share:
            return None
        left = self._left_now(identity, time.monotonic())
        if left < 1:
            wait_s = max(1, round((1 - left) * 60 / self._share))
            raise TooManyRequests(f"more than {self._share} {self._counted} within a minute", retry_after_s=wait_s)
        return left

    def charge(self, identity: str) -> None:
        """Count one more, even if there is none left."""
        if self._share:
            now = time.monotonic()
            self._record(identity, self._left_now(identity, now) - 1, now)

    def _record(self, identity: str, left: float, now: float) -> None:
        if len(self._left) >= MAX_PRINCIPALS:  # after a minute without any a principal has its whole share again
            self._left = {other: (left, at) for other, (left, at) in self._left.items() if now - at < 60}
        self._left[identity] = (left, now)

    def _left_now(self, identity: str, now: float) -> float:
        left, at = self._left.get(identity, (self._share, now))
        return min(self._share, left + (now - at) * self._share / 60)
