"""Export of metrics to Prometheus: the counters, and gauges that are read at the time of the scrape.

If several processes share a port, each of them answers for all (`base/metric_sums.py`).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import psycopg
from prometheus_client.exposition import choose_encoder
from psycopg_pool import PoolTimeout, TooManyRequests
from starlette.responses import Response

from threadkeep.base.metric_sums import Siblings, SummedRegistry, Values, values_of
from threadkeep.base.metrics import LoadSnapshot, Metrics, PoolStats
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.pool import Pool
from threadkeep.runs.isolation import AbandonedTasks
from threadkeep.runs.lease import Lease
from threadkeep.runs.slots import Slots
from threadkeep.tables import queue_depth, table_sizes

QUERY_TIMEOUT_S = 1.0
"""Seconds that Postgres may take for the queue's depth and the tables' sizes."""
CACHE_TTL_S = 1.0
"""Seconds for which these values are cached, so that frequent scrapes do not load Postgres."""


Depth: TypeAlias = tuple[int | None, float | None, Mapping[str, int]]
"""Pending runs in the queue, the age of the oldest in seconds, and rows by table. None if Postgres did not answer."""


@dataclass(slots=True, kw_only=True)
class MetricsExporter:
    """Answers a scrape with counters and current gauges."""

    pools: Mapping[str, Pool]
    """`api` and `runs`."""
    slots: Slots
    abandoned: AbandonedTasks
    lease: Lease
    metrics: Metrics
    siblings: Siblings | None = None
    """The other processes on the same port."""
    requires_authentication: bool = False
    """Whether `/metrics` on the server's own port requires authentication."""
    _depth: TtlCache[None, Depth] = field(default_factory=lambda: TtlCache(capacity=1, ttl_s=CACHE_TTL_S))

    async def respond(self, accept: str) -> Response:
        """Return the metrics in the format that `accept` asks for. They are encoded in a thread, because they may be long."""
        queued, oldest_s, table_rows = await self._depth.get_or_read(None, self._read)
        self.metrics.set_load(
            replace(self._load(), queue_depth=queued, queue_oldest_age_s=oldest_s, table_rows=table_rows)
        )
        encoder, media = choose_encoder(accept)
        body = await anyio.to_thread.run_sync(lambda: encoder(self._registry()))
        return Response(body, headers={"content-type": media, "cache-control": "no-store"})

    def values(self) -> Values:
        """Return the values of this process, for another one that answers a scrape. It may be called in any thread."""
        self.metrics.set_process_load(self._load())
        return values_of(self.metrics.registry)

    def _load(self) -> LoadSnapshot:
        slots = self.slots
        return LoadSnapshot(
            slots=slots.total,
            abandoned_tasks=self.abandoned.running,
            running=slots.running,
            admission_waiting=slots.queue_length,
            heartbeat_age_s=time.monotonic() - self.lease.renewed_at,
            pools=dict[str, PoolStats](self.pools),
        )

    def _registry(self) -> Any:
        """Return the metrics to encode. With siblings it waits for them."""
        if self.siblings is None:
            return self.metrics.registry
        return SummedRegistry(self.metrics.registry, self.siblings.others(values_of(self.metrics.registry)))

    async def _read(self) -> Depth:
        with anyio.move_on_after(QUERY_TIMEOUT_S):
            try:
                async with self.pools["api"].connection() as conn:
                    return *await queue_depth.queue_depth(conn), await table_sizes.read(conn)
            # A scrape without these gauges is better than none, above all while Postgres is down.
            except (psycopg.Error, PoolTimeout, TooManyRequests):
                pass
        return None, None, {}
