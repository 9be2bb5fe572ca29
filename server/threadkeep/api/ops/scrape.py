"""Scrape: what is counted and what is read at this moment, as a Prometheus server takes it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import psycopg
from prometheus_client.exposition import choose_encoder
from psycopg_pool import PoolTimeout, TooManyRequests
from starlette.responses import Response

from threadkeep.base.metrics import Load, Metrics, PoolStats
from threadkeep.postgres.pool import Pool
from threadkeep.runs.isolation import AbandonedTasks
from threadkeep.runs.lease import Lease
from threadkeep.runs.slots import Slots
from threadkeep.tables import queue_depth

QUERY_S = 1.0
"""How long Postgres may take to say how much waits."""
FRESH_S = 1.0
"""How long what it said is told again: whoever asks more often costs Postgres nothing."""


@dataclass(slots=True, kw_only=True)
class Scrape:
    """Tells what is counted, and what is read when somebody asks."""

    pools: Mapping[str, Pool]
    """`api` and `runs`."""
    slots: Slots
    abandoned: AbandonedTasks
    lease: Lease
    metrics: Metrics
    guarded: bool = False
    """On the server's own port it is for known callers only."""
    _queue: tuple[int | None, float | None] = (None, None)
    _read_at: float = -math.inf
    _reading: anyio.Lock = field(default_factory=anyio.Lock)

    async def answer(self, accept: str) -> Response:
        """The exposition, in the form that `accept` asks for; made in a thread, for it may be long."""
        queued, oldest_s = await self._depth()
        slots, pools = self.slots, dict[str, PoolStats](self.pools)
        self.metrics.show(
            Load(
                slots=slots.total,
                stuck=self.abandoned.running,
                running=slots.running,
                line=slots.waiting,
                queued=queued,
                oldest_s=oldest_s,
                heartbeat_s=time.monotonic() - self.lease.renewed_at,
                pools=pools,
            )
        )
        encoder, media = choose_encoder(accept)
        body = await anyio.to_thread.run_sync(encoder, self.metrics.registry)
        return Response(body, headers={"content-type": media, "cache-control": "no-store"})

    async def _depth(self) -> tuple[int | None, float | None]:
        async with self._reading:
            if time.monotonic() - self._read_at > FRESH_S:
                self._queue, self._read_at = await self._read(), time.monotonic()
        return self._queue

    async def _read(self) -> tuple[int | None, float | None]:
        with anyio.move_on_after(QUERY_S):
            try:
                async with self.pools["api"].connection() as conn:
                    return await queue_depth.read(conn)
            except (psycopg.Error, PoolTimeout, TooManyRequests):
                pass
        return None, None
