"""The figures: each one is computed from the measurements of a round, and has a limit and an aim."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

Round: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    needs: Sequence[str]
    """The names of the measurements that the figure needs."""
    of: Callable[..., float]
    """Computes the figure from its measurements."""
    must: float
    aim: float
    at_least: bool = True
    """The more the better."""
    unit: str = "x"

    def value(self, rounds: Sequence[Round]) -> float | None:
        """Return the median over the rounds, or None if it was not measured."""
        # A peer that is not installed has no measurements. Its figures are left out, and the others stay.
        complete = [measured for measured in rounds if set(self.needs) <= set(measured)]
        values = [self.of(*(measured[name] for name in self.needs)) for measured in complete]
        return median(values) if values else None

    def verdict(self, value: float) -> str:
        """How `value` stands."""
        if value >= self.aim if self.at_least else value <= self.aim:
            return "aim"
        return "must" if (value >= self.must if self.at_least else value <= self.must) else "**missed**"


def _ratio(over: float, under: float) -> float:
    return over / under


def _more(one: float, other: float) -> float:
    return one - other


def _same(value: float) -> float:
    return value


SPEED = [
    Figure(
        name="stateful over HTTP, a new thread each, 12 clients, over the same graph in process with the stock saver",
        needs=["ours, new thread, 12: rate", "stock saver, async, 12: rate"],
        of=_ratio,
        must=1.3,
        aim=2,
    ),
    Figure(
        name="the same over Aegra",
        needs=["ours, new thread, 12: rate", "Aegra, new thread, 12: rate"],
        of=_ratio,
        must=6,
        aim=12,
    ),
    Figure(
        name="the same over LangGraph's development server, which keeps threads in memory",
        needs=["ours, new thread, 12: rate", "dev server, new thread, 12: rate"],
        of=_ratio,
        must=2,
        aim=4,
    ),
    Figure(
        name="stateless over HTTP, 12 clients, over `ainvoke` in process without a saver",
        needs=["ours, stateless, 12: rate", "no saver, 12: rate"],
        of=_ratio,
        must=0.55,
        aim=0.75,
    ),
    Figure(
        name="stateful over HTTP with API keys, 12 clients, over the same without",
        needs=["ours with API keys, new thread, 12: rate", "ours without keys, new thread, 12: rate"],
        of=_ratio,
        must=0.95,
        aim=1,
    ),
    Figure(
        name="stateless over HTTP with API keys, 12 clients, over the same without",
        needs=["ours with API keys, stateless, 12: rate", "ours without keys, stateless, 12: rate"],
        of=_ratio,
        must=0.95,
        aim=1,
    ),
    Figure(
        name="in process: our saver over the stock one, 12 at once, durability `async`",
        needs=["our saver, async, 12: rate", "stock saver, async, 12: rate"],
        of=_ratio,
        must=2,
        aim=3,
    ),
    Figure(
        name="in process: our saver over the stock one, 12 at once, durability `exit`",
        needs=["our saver, exit, 12: rate", "stock saver, exit, 12: rate"],
        of=_ratio,
        must=1.3,
        aim=1.8,
    ),
    Figure(
        name="one client, stateful over HTTP: its p50 less that of the stock saver in process",
        needs=["ours, new thread, 1: p50_ms", "stock saver, async, 1: p50_ms"],
        of=_more,
        must=3,
        aim=0,
        at_least=False,
        unit=" ms",
    ),
    Figure(
        name="a stream's first token after the graph yields it, 12 streams, p50",
        needs=["ours, tokens, new thread, 12: first_p50_ms"],
        of=_same,
        must=2,
        aim=0.5,
        at_least=False,
        unit=" ms",
    ),
    Figure(
        name="the same, p99",
        needs=["ours, tokens, new thread, 12: first_p99_ms"],
        of=_same,
        must=10,
        aim=3,
        at_least=False,
        unit=" ms",
    ),
    Figure(
        name="two processes over one, stateful, 24 clients, 2 cores",
        needs=["two of ours, new thread, 24: rate", "ours, new thread, 24: rate"],
        of=_ratio,
        must=1.6,
        aim=1.9,
    ),
    Figure(
        name="resident memory, idle",
        needs=["ours: memory_mb"],
        of=_same,
        must=130,
        aim=100,
        at_least=False,
        unit=" MB",
    ),
    Figure(
        name="growth of it in 1,000 runs",
        needs=["ours: growth_mb"],
        of=_same,
        must=4,
        aim=0,
        at_least=False,
        unit=" MB",
    ),
]

SCALE = [
    Figure(
        name="a turn on a thread of 200 turns over its second",
        needs=["turn 200: p50_ms", "turn 2: p50_ms"],
        of=_ratio,
        must=2,
        aim=1.2,
        at_least=False,
    ),
    Figure(
        name="p50 of a run with 1,000,000 checkpoints in the database over an empty one",
        needs=["filled, new thread, 12: p50_ms", "empty, new thread, 12: p50_ms"],
        of=_ratio,
        must=1.3,
        aim=1.1,
        at_least=False,
    ),
]


def table(figures: Sequence[Figure], rounds: Sequence[Round]) -> list[str]:
    """Return the lines of a Markdown table of the measurements."""
    lines = ["| figure | measured | must | aim | reached |", "|---|---|---|---|---|"]
    for figure in figures:
        value = figure.value(rounds)
        if value is None:
            lines.append(
                f"| {figure.name} | not measured | {_bound(figure, figure.must)} | {_bound(figure, figure.aim)} | |"
            )
            continue
        bounds = f"{_bound(figure, figure.must)} | {_bound(figure, figure.aim)}"
        lines.append(f"| {figure.name} | {value:.2f}{figure.unit} | {bounds} | {figure.verdict(value)} |")
    return lines


def _bound(figure: Figure, value: float) -> str:
    return f"{'≥' if figure.at_least else '≤'} {value:g}{figure.unit}"
