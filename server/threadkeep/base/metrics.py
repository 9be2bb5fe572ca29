"""Metrics of one application, in its own registry.

Code that counts gets `Metrics` as a parameter. Names and labels follow the conventions of OpenTelemetry and Prometheus.
Metrics for which OpenTelemetry has no name start with `threadkeep_`. Labels have a bounded number of values: graphs,
routes of the table, methods that HTTP defines, status codes, pools. Each labelled child is looked up once, so that
counting costs one or two microseconds.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

OUTCOMES = ("success", "error", "timeout", "interrupted", "lost")
"""How runs end. `lost`: the result could not be written, or the process stopped before."""
OTHER_METHOD = "_OTHER"
"""The label of methods that HTTP does not define, because a client may send any word."""
NO_ROUTE = ""
"""The route label of a request that matched no route. Prometheus treats an empty label as absent."""
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets that OpenTelemetry advises for `http.server.request.duration`."""
FIRST_BYTE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
RUN_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
WAIT_BUCKETS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 600.0)
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
BATCH_BUCKETS = (1, 2, 5, 10, 25, 50, 100, 250, 1000)


class PoolStats(Protocol):
    """A connection pool that provides statistics."""

    def get_stats(self) -> dict[str, int]: ...


class RouteMetrics:
    """Metrics of one method and route."""

    def __init__(self, durations: Histogram, first_bytes: Histogram, method: str, route: str) -> None:
        self._durations, self._labels = durations, (method, route)
        self._by_status: dict[int, Histogram] = {}
        self._first_byte = first_bytes.labels(method, route)

    def observe(self, status: int, *, first_byte_s: float, duration_s: float) -> None:
        """Count a response of `status` by the seconds to its first and its last byte. 0: the client left before one."""
        if 100 <= status < 600:
            self._first_byte.observe(first_byte_s)
            duration = self._by_status.get(status)
            if duration is None:
                duration = self._by_status[status] = self._durations.labels(*self._labels, status)
            duration.observe(duration_s)


class GraphMetrics:
    """Metrics of one graph."""

    def __init__(self, runs: Counter, seconds: Histogram, first_event: Histogram, graph_id: str) -> None:
        self._runs = {outcome: runs.labels(graph_id, outcome) for outcome in OUTCOMES}
        self._seconds = seconds.labels(graph_id)
        self._first_event = first_event.labels(graph_id)

    def observe(self, outcome: str, seconds: float, first_event_s: float | None) -> None:
        """Count a run that has ended. `first_event_s` is None if it had no event."""
        self._runs[outcome].inc()
        self._seconds.observe(seconds)
        if first_event_s is not None:
            self._first_event.observe(first_event_s)


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """Values that are read at each scrape instead of being counted."""

    slots: int
    running: int
    admission_waiting: int
    heartbeat_age_s: float
    """Seconds since the last heartbeat of this process."""
    queue_depth: int | None = None
    """Due runs in the queue of all processes. None if Postgres did not answer in time."""
    queue_oldest_age_s: float | None = None
    """Seconds for which the oldest of them has been due."""
    table_rows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Estimated rows by table. Empty if Postgres did not answer in time."""
    abandoned_tasks: int = 0
    """Graphs that ignored their cancellation and still run."""
    pools: Mapping[str, PoolStats] = field(default_factory=dict[str, PoolStats])


class Metrics:
    """All metrics of one application."""

    def __init__(self, graphs: Iterable[str] = (), routes: Iterable[tuple[str, str]] = ()) -> None:
        # Not prometheus_client's global registry, because two applications in one process would share their counts.
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.routes = self._of_routes(routes)
        self._graphs = self._of_graphs(graphs)
        self.admission_wait = self._histogram(
            "threadkeep_admission_wait_seconds", "Time that requests waited for a slot", WAIT_BUCKETS_S
        )
        self.queue_wait = self._histogram(
            "threadkeep_run_queue_wait_seconds", "Time from a queued run's due time to its claim", WAIT_BUCKETS_S
        )
        self.loop_lag = self._histogram(
            "threadkeep_event_loop_lag_seconds", "Time by which the event loop was late", LAG_BUCKETS_S
        )
        self.commit_seconds = self._histogram(
            "threadkeep_group_commit_duration_seconds",
            "Time of a group commit of checkpoints and run results",
            COMMIT_BUCKETS_S,
        )
        self.commit_writes = self._histogram(
            "threadkeep_group_commit_batch_size", "Checkpoint writes and run results in one group commit", BATCH_BUCKETS
        )
        self.events = Counter("threadkeep_run_events", "Events that runs have streamed", registry=registry)
        self.run_recoveries = Counter(
            "threadkeep_run_recoveries", "Runs of dead processes that this process recovered", registry=registry
        )
        self.sse_connections = Gauge("threadkeep_sse_connections", "Open event streams", registry=registry)
        self._unserved = Gauge(
            "threadkeep_run_queue_unserved_depth",
            "Due runs, those of crons too, whose graph no live process serves",
            ["graph_id"],
            registry=registry,
        )
        # A scrape before the first count already finds a 0 for each graph.
        self.show_unserved({})
        self._load = _LoadGauges(registry)

    def graph(self, graph_id: str) -> GraphMetrics | None:
        """Return the metrics of a graph, or None if this application does not serve it."""
        return self._graphs.get(graph_id)

    def route(self, pair: tuple[str, str]) -> RouteMetrics:
        """Return the metrics of a method and path template. Requests without a route share one for each HTTP method."""
        if metrics := self.routes.get(pair):
            return metrics
        # A client may invent methods and paths. Each would become a time series that is never removed.
        return self.routes.get((pair[0], NO_ROUTE)) or self.routes[OTHER_METHOD, NO_ROUTE]

    def observe_group_commit(self, writes: int, seconds: float) -> None:
        """Count a group commit of `writes` writes."""
        self.commit_writes.observe(writes)
        self.commit_seconds.observe(seconds)

    def show_unserved(self, runs: dict[str, int]) -> None:
        """Set the number of due runs by graph, for graphs that no live process serves."""
        # Without this a graph that is served again would keep its last number.
        self._unserved.clear()
        for graph_id, number in (dict.fromkeys(self._graphs, 0) | runs).items():
            self._unserved.labels(graph_id).set(number)

    def set_load(self, load: LoadSnapshot) -> None:
        """Set the gauges to `load`."""
        self._load.show_process(load)
        self._load.show_database(load)

    def set_process_load(self, load: LoadSnapshot) -> None:
        """Set the gauges of this process to `load`, and leave those of the database."""
        self._load.show_process(load)

    def _of_routes(self, routes: Iterable[tuple[str, str]]) -> dict[tuple[str, str], RouteMetrics]:
        labels = ("http_request_method", "http_route")
        durations = self._histogram(
            "http_server_request_duration_seconds",
            "Time from a request to the end of its response",
            REQUEST_BUCKETS_S,
            (*labels, "http_response_status_code"),
        )
        first_bytes = self._histogram(
            "threadkeep_http_time_to_first_byte_seconds",
            "Time from a request to the start of its response",
            FIRST_BYTE_BUCKETS_S,
            labels,
        )
        unmatched = [(method, NO_ROUTE) for method in (*sorted(METHODS), OTHER_METHOD)]
        return {pair: RouteMetrics(durations, first_bytes, *pair) for pair in (*routes, *unmatched)}

    def _of_graphs(self, graphs: Iterable[str]) -> dict[str, GraphMetrics]:
        labels = ("graph_id",)
        runs = Counter("threadkeep_runs", "Runs that ended here", (*labels, "outcome"), registry=self.registry)
        seconds = self._histogram(
            "threadkeep_run_duration_seconds", "Time from a run's start to its end", RUN_BUCKETS_S, labels
        )
        first_event = self._histogram(
            "threadkeep_run_time_to_first_event_seconds",
            "Time from a run's start to its first event",
            RUN_BUCKETS_S,
            labels,
        )
        return {graph_id: GraphMetrics(runs, seconds, first_event, graph_id) for graph_id in graphs}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


class _LoadGauges:
    """The gauges of a `LoadSnapshot`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        pool = "db_client_connection_pool_name"
        self._slots = gauge("threadkeep_run_slots", "Graphs that may run at once")
        self._running = gauge("threadkeep_run_slots_in_use", "Graphs that run now")
        self._abandoned = gauge("threadkeep_abandoned_tasks", "Graphs that ignored their cancellation and still run")
        self._admission_queue = gauge("threadkeep_admission_queue_length", "Requests that wait for a slot")
        self._queued = gauge(
            "threadkeep_run_queue_depth", "Due runs in the queue of all processes; NaN while Postgres does not answer"
        )
        self._oldest = gauge("threadkeep_run_queue_oldest_age_seconds", "Time since the first run in the queue was due")
        self._heartbeat = gauge("threadkeep_heartbeat_age_seconds", "Time since the last heartbeat of this process")
        self._table_rows = gauge(
            "threadkeep_table_row_count", "Estimated rows of a table, of all projects", "db_collection_name"
        )
        self._connections = gauge(
            "db_client_connection_count", "Connections of a pool", pool, "db_client_connection_state"
        )
        self._max_connections = gauge("db_client_connection_max", "Connections that a pool may have", pool)
        self._waiting = gauge("db_client_connection_pending_requests", "Waits for a connection of a pool", pool)

    def show_process(self, load: LoadSnapshot) -> None:
        self._slots.set(load.slots)
        self._running.set(load.running)
        self._admission_queue.set(load.admission_waiting)
        self._abandoned.set(load.abandoned_tasks)
        self._heartbeat.set(load.heartbeat_age_s)
        for name, pool in load.pools.items():
            stats = pool.get_stats()
            self._connections.labels(name, "idle").set(stats["pool_available"])
            self._connections.labels(name, "used").set(stats["pool_size"] - stats["pool_available"])
            self._waiting.labels(name).set(stats["requests_waiting"])
            self._max_connections.labels(name).set(stats["pool_max"])

    def show_database(self, load: LoadSnapshot) -> None:
        # NaN, because 0 would look like an empty queue while Postgres does not answer.
        self._queued.set(math.nan if load.queue_depth is None else load.queue_depth)
        self._oldest.set(math.nan if load.queue_oldest_age_s is None else load.queue_oldest_age_s)
        self._table_rows.clear()
        for table, rows in load.table_rows.items():
            self._table_rows.labels(table).set(rows)
