"""Quotas: the limits for each principal (rate limits among them), and the limit of the queue.

Requests, new threads, streams and foreground runs are counted in the process that serves them. Pending runs are counted
in Postgres for all processes, at most once a second. Crons and assistants are counted in the transaction that creates
one. The store counts its items (`persistence/store.py`). Without authentication there are no principals, so only the
queue has a limit.
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
from threadkeep.tables import principal_rows, queue_depth
from threadkeep.tables.principal_rows import CappedTable
from threadkeep.tables.queue_depth import PendingCounts

COUNT_TTL_S = 1.0
"""Seconds for which a count of the queue is used."""
MAX_PRINCIPALS = 10_000
"""Principals whose requests are counted. Beyond this number, principals without recent requests are dropped."""
QUEUE_RETRY_S = 5
ROWS_RETRY_S = 60
"""Long, because only a deletion makes room for another row."""


class Quotas:
    """Counts the use of one process and refuses requests above the limits."""

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
        """Count one request. TooManyRequests if the principal sent too many within a minute.

        `has_others` is passed to `Presence.saw`.
        """
        self._presence.saw(identity, has_others=has_others)
        self._requests.take(identity)

    def request_share(self, identity: str | None) -> "ShareLeft | None":
        """The principal's remaining requests in this minute. None if they are not counted."""
        return None if identity is None else self._requests.remaining(identity)

    def refuse_thread(self, identity: str | None) -> None:
        """TooManyRequests if the principal may create no more threads in this minute."""
        if identity is not None:
            self._new_threads.refuse_if_spent(identity)

    def count_thread(self, identity: str | None) -> None:
        """Count a new thread of the principal."""
        if identity is not None:
            self._new_threads.charge(identity)

    async def hold_row(self, conn: Conn, table: CappedTable, identity: str | None) -> None:
        """TooManyRequests if the principal may have no more rows in a table. The caller's transaction adds one.

        Until it ends, other transactions that add a row for the principal wait.
        """
        cap = {
            "crons": self._settings.max_crons_per_principal,
            "assistants": self._settings.max_assistants_per_principal,
        }[table]
        if identity is None or not cap:
            return
        if await principal_rows.lock_and_count(conn, table, identity) >= cap:
            raise TooManyRequests(f"at most {cap} {table} are allowed: delete some first", retry_after_s=ROWS_RETRY_S)

    def hold_stream(self, identity: str) -> "Counted":
        """Count a long response until it ends. TooManyRequests if the principal has too many open."""
        cap = self._settings.max_streams_per_principal
        if cap and self._streams.get(identity, 0) >= cap:
            raise TooManyRequests(f"you have {cap} open streams and waits: close one first")
        return Counted(self._streams, identity)

    def hold_run(self, identity: str) -> "Counted":
        """Count a foreground run while it is being started. TooManyRequests if the principal has too many."""
        cap = self._settings.max_runs_per_principal
        if cap and self._starting.get(identity, 0) + self._executions.count_of(identity) >= cap:
            raise TooManyRequests(f"you have {cap} unfinished runs: wait for one to end")
        return Counted(self._starting, identity)

    async def check_queue(self, identity: str | None, runs: int) -> None:
        """Count new runs in the queue. QueueFull if it is full, TooManyRequests above the principal's limit."""
        settings = self._settings
        share = settings.max_queued_per_principal if identity is not None else 0
        if not settings.max_queued and not share:
            return
        backlog = await self._backlogs.get_or_read(identity, partial(self._count_queue, identity))
        if settings.max_queued and backlog.total + runs > settings.max_queued:
            raise QueueFull("the queue is full", retry_after_s=QUEUE_RETRY_S)
        if share and backlog.principal + runs > share:
            raise TooManyRequests(
                f"you have {backlog.principal} runs in the queue: at most {share} are allowed",
                retry_after_s=QUEUE_RETRY_S,
            )
        # The cached count itself changes, so that requests within its second count too.
        backlog.total += runs
        backlog.principal += runs

    async def _count_queue(self, identity: str | None) -> PendingCounts:
        async with self._pool.connection() as conn:  # without filters, because the runs of other principals count too
            return await queue_depth.count_pending(conn, identity, at_most=self._settings.max_queued)


class Counted:
    """One use by a principal, counted from now until `end` or the end of a `with` block."""

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
        """Stop counting it. Call this once."""
        count = self._counts[self._identity] - 1
        if count:
            self._counts[self._identity] = count
        else:
            del self._counts[self._identity]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLeft:
    """The remaining share of a principal in this minute."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until the whole share is available again."""


class MinuteShares:
    """A token bucket for each principal, which refills within a minute up to a whole share."""

    def __init__(self, share: int, counted: str) -> None:
        """Create empty counts. `counted` names the counted things in the error text. A share of 0 is unlimited."""
        self._share = share
        self._counted = counted
        self._left: dict[str, tuple[float, float]] = {}
        """The remaining tokens of a principal, and the monotonic time of that count."""

    def remaining(self, identity: str) -> ShareLeft | None:
        """The remaining share of the principal. None if the share is unlimited."""
        if not self._share:
            return None
        tokens = self._left_now(identity, time.monotonic())
        reset_s = round((self._share - tokens) * 60 / self._share, 3)
        return ShareLeft(limit=self._share, remaining=max(0, int(tokens)), reset_s=reset_s)

    def take(self, identity: str) -> None:
        """Take one token. TooManyRequests if there is none."""
        if self._share:
            now = time.monotonic()
            tokens = self._left_now(identity, now)
            if tokens < 1:
                raise self._refusal(tokens)
            self._record(identity, tokens - 1, now)

    def refuse_if_spent(self, identity: str) -> None:
        """TooManyRequests if the principal has no token."""
        if self._share and identity in self._left:
            tokens = self._left_now(identity, time.monotonic())
            if tokens < 1:
                raise self._refusal(tokens)

    def charge(self, identity: str) -> None:
        """Take one token, even if there is none."""
        if self._share:
            now = time.monotonic()
            # It may fall below zero, because the thread was already created. The principal then waits longer.
            self._record(identity, self._left_now(identity, now) - 1, now)

    def _record(self, identity: str, tokens: float, now: float) -> None:
        if (
            len(self._left) >= MAX_PRINCIPALS and identity not in self._left
        ):  # after a minute without use a bucket is full again
            self._left = {other: (tokens, at) for other, (tokens, at) in self._left.items() if now - at < 60}
        self._left[identity] = (tokens, now)

    def _left_now(self, identity: str, now: float) -> float:
        counted = self._left.get(identity)
        if counted is None:
            return self._share
        tokens = counted[0] + (now - counted[1]) * self._share / 60
        return min(self._share, tokens)

    def _refusal(self, tokens: float) -> TooManyRequests:
        wait_s = max(1, round((1 - tokens) * 60 / self._share))
        return TooManyRequests(
            f"more than {self._share} {self._counted} within a minute: slow down", retry_after_s=wait_s
        )
