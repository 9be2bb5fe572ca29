"""Metrics: what one application counts, in a registry of its own.

Whoever counts gets `Metrics` as a parameter. Labels are bounded: graphs, routes of the table, status classes, pools.
Each child is looked up once, so that counting costs a microsecond or two.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

OUTCOMES = ("success", "error", "timeout", "interrupted", "lost")
"""How runs end; `lost`: the end could not be written, or the process stopped before."""
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
UNMATCHED = "none"
"""The route of what no route of the table answered; its method is not told, for a client may make one up."""

ANSWER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
RUN_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
WAIT_S = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 600.0)
LAG_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
COMMIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
BATCH = (1, 2, 5, 10, 25, 50, 100, 250, 1000)


class PoolStats(Protocol):
    """What is asked of a pool of connections."""

    def get_stats(self) -> dict[str, int]: ...


class RouteMetrics:
    """Of one route."""

    def __init__(self, requests: Counter, seconds: Histogram, method: str, route: str) -> None:
        self._by_class = [requests.labels(method, route, name) for name in CLASSES]
        self._seconds = seconds.labels(method, route)

    def answered(self, status: int, seconds: float) -> None:
        """An answer of `status` began after so long; 0 where the client left before one."""
        if 100 <= status < 600:
            self._by_class[status // 100 - 1].inc()
            self._seconds.observe(seconds)


class GraphMetrics:
    """Of one graph."""

    def __init__(self, runs: Counter, seconds: Histogram, first_event: Histogram, graph_id: str) -> None:
        self._runs = {outcome: runs.labels(graph_id, outcome) for outcome in OUTCOMES}
        self._seconds = seconds.labels(graph_id)
        self._first_event = first_event.labels(graph_id)

    def ended(self, outcome: str, seconds: float, first_event_s: float | None) -> None:
        """A run came to its end; None where it said nothing before."""
        self._runs[outcome].inc()
        self._seconds.observe(seconds)
        if first_event_s is not None:
            self._first_event.observe(first_event_s)


@dataclass(frozen=True, slots=True)
class Load:
    """What is read when somebody asks, and not counted before."""

    slots: int
    running: int
    line: int
    queued: int | None
    """Runs that are due, in all processes; None where Postgres did not say in time."""
    oldest_s: float | None
    """How long the first of them has been due."""
    heartbeat_s: float
    """Since this process last told the others that it is alive."""
    stuck: int = 0
    """Graphs that did not stop when they were told to, and still run."""
    pools: Mapping[str, PoolStats] = field(default_factory=dict[str, PoolStats])


class Metrics:
    """All that one application counts."""

    def __init__(self, graphs: Iterable[str] = (), routes: Iterable[tuple[str, str]] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        requests = Counter(
            "threadkeep_http_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        answer_s = self._histogram("http_answer_seconds", "Until an answer began", ANSWER_S, ["method", "route"])
        self.routes = {pair: RouteMetrics(requests, answer_s, *pair) for pair in (*routes, (UNMATCHED, UNMATCHED))}
        runs = Counter("threadkeep_runs", "Runs that ended here", ["graph", "outcome"], registry=registry)
        run_s = self._histogram("run_seconds", "From the start of a run to its end", RUN_S, ["graph"])
        first_s = self._histogram("run_first_event_seconds", "From a run's start to its first event", RUN_S, ["graph"])
        self._graphs = {name: GraphMetrics(runs, run_s, first_s, name) for name in graphs}
        self.slot_wait = self._histogram("slot_wait_seconds", "Requests waiting for a slot", WAIT_S)
        self.queue_wait = self._histogram("queue_wait_seconds", "Queued runs, from due to claimed", WAIT_S)
        self.loop_lag = self._histogram("event_loop_lag_seconds", "How late the event loop is", LAG_S)
        self.commit_seconds = self._histogram(
            "commit_seconds", "Group commits of checkpoints and of the ends of runs", COMMIT_S
        )
        self.commit_writes = self._histogram(
            "commit_writes", "Checkpoint writes and ends of runs in one group commit", BATCH
        )
        self.events = Counter("threadkeep_run_events", "Events that runs have streamed", registry=registry)
        self.takeovers = Counter("threadkeep_lease_takeovers", "Runs of dead processes taken over", registry=registry)
        self.streams = self._gauge("sse_streams", "Event streams that are open")
        self._load = _LoadGauges(registry)

    def of_graph(self, graph_id: str) -> GraphMetrics | None:
        """None for a graph that this application does not serve."""
        return self._graphs.get(graph_id)

    def of_route(self, pair: tuple[str, str]) -> RouteMetrics:
        """Of the method and the path's template; all others share one."""
        return self.routes.get(pair) or self.routes[UNMATCHED, UNMATCHED]

    def committed(self, writes: int, seconds: float) -> None:
        """One group commit of so many writes came to its end."""
        self.commit_writes.observe(writes)
        self.commit_seconds.observe(seconds)

    def show(self, load: Load) -> None:
        """Let the gauges tell of `load`."""
        self._load.show(load)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(f"threadkeep_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"threadkeep_{name}", text, registry=self.registry)


class _LoadGauges:
    """The gauges of `Load`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"threadkeep_{name}", text, labels, registry=registry)

        self._slots = gauge("slots", "Graphs that may run at once")
        self._running = gauge("slots_in_use", "Graphs that run now")
        self._stuck = gauge("graphs_stuck", "Graphs that were left behind, for they did not stop, and still run")
        self._line = gauge("line_waiting", "Requests that wait for a slot")
        self._queued = gauge(
            "queue_depth", "Runs due in the queue of all processes; NaN while Postgres does not answer"
        )
        self._oldest = gauge("queue_oldest_seconds", "How long the first run in the queue has been due")
        self._heartbeat = gauge("heartbeat_age_seconds", "Since this process last told the others that it is alive")
        self._size = gauge("pool_connections", "Connections of a pool", "pool")
        self._in_use = gauge("pool_in_use", "Connections of a pool that are in use", "pool")
        self._waiting = gauge("pool_waiting", "Those who wait for a connection of a pool", "pool")
        self._most = gauge("pool_max", "Connections that a pool may have", "pool")

    def show(self, load: Load) -> None:
        self._slots.set(load.slots)
        self._running.set(load.running)
        self._line.set(load.line)
        self._stuck.set(load.stuck)
        self._queued.set(math.nan if load.queued is None else load.queued)
        self._oldest.set(math.nan if load.oldest_s is None else load.oldest_s)
        self._heartbeat.set(load.heartbeat_s)
        for name, pool in load.pools.items():
            stats = pool.get_stats()
            self._size.labels(name).set(stats["pool_size"])
            self._in_use.labels(name).set(stats["pool_size"] - stats["pool_available"])
            self._waiting.labels(name).set(stats["requests_waiting"])
            self._most.labels(name).set(stats["pool_max"])
