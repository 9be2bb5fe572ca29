"""Sums of the metrics of several processes that serve one port, so that each of them answers a scrape for all.

Counters and histograms are added, also those of processes that have ended, so that a sum never falls. Gauges of the
processes that run are added. A gauge that describes the database is the same in all processes and is not added.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

OF_DATABASE: Final = frozenset(
    {
        "threadkeep_run_queue_depth",
        "threadkeep_run_queue_oldest_age_seconds",
        "threadkeep_run_queue_unserved_depth",
        "threadkeep_table_row_count",
    }
)
"""Metrics of the database. The process that answers has read them."""
HIGHEST: Final = frozenset({"threadkeep_heartbeat_age_seconds", "process_max_fds"})
"""Metrics of which the highest value counts."""
LOWEST: Final = frozenset({"process_start_time_seconds"})
CREATED: Final = "_created"
"""The end of the name of a sample that says since when a counter counts."""

Key: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]
"""A metric, a sample of it, and the labels of the sample."""
Values: TypeAlias = dict[Key, float]


class Siblings(Protocol):
    """The other processes on the port of this process."""

    metrics_listener: socket.socket | None
    """The socket of `THREADKEEP_METRICS_PORT`, which all processes share."""

    def provide(self, values: Callable[[], Values]) -> None:
        """Answer requests of the others by `values`, which is called in a thread."""
        ...

    def others(self, own: Values) -> Values:
        """Return the sums of the others. Waits, so call it in a thread. ServiceUnavailable if the supervisor does not answer.

        `own` are the values of this process. They count on after its end.
        """
        ...


def values_of(registry: CollectorRegistry) -> Values:
    """Return the values of a registry, without label sets that have counted nothing."""
    values: Values = {}
    for metric in registry.collect():
        if metric.name not in OF_DATABASE:
            values |= _counted(metric)
    return values


def _counted(metric: Metric) -> Values:
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in metric.samples:
        # The buckets of a histogram stay together: an empty bucket is needed beside one that has counted.
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        groups.setdefault(_labels(labels), []).append(sample)
    return {
        _key(metric, sample): sample.value
        for group in groups.values()
        # `_created` is never 0, so it would keep label sets that have counted nothing.
        if any(sample.value for sample in group if not sample.name.endswith(CREATED))
        for sample in group
    }


def _labels(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _key(metric: Metric, sample: Sample) -> Key:
    return metric.name, sample.name, tuple(sample.labels.items())


def sum_of(parts: Iterable[Values]) -> Values:
    """Return the values of several processes in one."""
    sums: Values = {}
    for values in parts:
        for key, value in values.items():
            sums[key] = _joined(key, sums[key], value) if key in sums else value
    return sums


def _joined(key: Key, first: float, second: float) -> float:
    metric, sample, _ = key
    if metric in LOWEST or sample.endswith(CREATED):
        return min(first, second)
    return max(first, second) if metric in HIGHEST else first + second


def counted_for_ever(values: Values) -> Values:
    """Return the values that count on after the end of their process: those of counters and histograms."""
    # The sample of a gauge has the name of its metric. Others have a suffix such as `_total` or `_bucket`.
    return {key: value for key, value in values.items() if key[0] != key[1] and not key[1].endswith(CREATED)}


@dataclass(frozen=True, slots=True)
class SummedRegistry:
    """A registry, for an encoder, whose metrics include those of other processes."""

    own: CollectorRegistry
    others: Values

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of this process with the values of the others added."""
        by_metric: dict[str, Values] = {}
        for key, value in self.others.items():
            by_metric.setdefault(key[0], {})[key] = value
        for metric in self.own.collect():
            if others := by_metric.get(metric.name):
                own = {_key(metric, sample): sample.value for sample in metric.samples}
                # Each collection makes new metric objects, so this does not change the counters of this process.
                metric.samples = [Sample(key[1], dict(key[2]), value) for key, value in sum_of((own, others)).items()]
            yield metric


def as_json(values: Values) -> list[list[Any]]:
    """Return the values in a form for JSON."""
    return [[*key, value] for key, value in values.items()]


def from_json(rows: Iterable[list[Any]]) -> Values:
    """Return the values that `as_json` has converted."""
    return {(row[0], row[1], tuple((name, value) for name, value in row[2])): row[3] for row in rows}
