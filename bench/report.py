"""Results: kept as JSON, and written between the markers of docs/benchmarks.md with the command that made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import figures
import plots

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
PLOTS = PAGE.parent / "benchmarks"
COLUMNS = {
    "rate": ("runs/s", 1),
    "p50_ms": ("p50 ms", 1),
    "p99_ms": ("p99 ms", 1),
    "cpu_ms": ("CPU ms a run", 2),
    "postgres_cpu_ms": ("of Postgres", 2),
    "client_cpu_ms": ("of the client", 2),
}
OF_STREAMS = {
    "first_p50_ms": ("first token, p50 ms", 2),
    "first_p99_ms": ("p99 ms", 2),
    "every_p50_ms": ("every token, p50 ms", 2),
    "every_p99_ms": ("p99 ms", 2),
}
OF_SERVERS = {
    "start_s": ("start, s", 1),
    "memory_mb": ("memory idle, MB", 0),
    "memory_after_mb": ("after 5,000 runs, MB", 0),
    "growth_mb": ("growth in 1,000 runs, MB", 2),
}
OF_SCALE = {"rate": ("runs/s", 1), "p50_ms": ("p50 ms", 1), "p99_ms": ("p99 ms", 1)}
PLOTTED = {
    "stock saver, async, 12": "in process, stock saver",
    "our saver, async, 12": "in process, our saver",
    "ours, new thread, 12": "Threadkeep over HTTP",
    "Aegra, new thread, 12": "Aegra over HTTP",
    "dev server, new thread, 12": "LangGraph's development server over HTTP",
}
Rounds = Sequence[Mapping[str, float]]


def keep(name: str, results: Mapping[str, Any]) -> None:
    """Write bench/results/NAME.json."""
    target = HERE / "results"
    target.mkdir(exist_ok=True)
    (target / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


def rates(rounds: Rounds) -> list[str]:
    """Return a table of every load: runs a second, latency, and CPU time by part."""
    return _table("load", rounds, COLUMNS)


def speed(results: Mapping[str, Any]) -> list[str]:
    """Return the results of `bench/run.py` as Markdown."""
    rounds: Rounds = results["rounds"]
    return [
        *_head(results),
        *figures.table(figures.SPEED, rounds),
        "",
        *rates(rounds),
        "",
        *_ceiling(rounds),
        *_table("12 token streams", rounds, OF_STREAMS),
        "",
        *_table("server", rounds, OF_SERVERS),
    ]


def scale(results: Mapping[str, Any]) -> list[str]:
    """Return the results of `bench/scale.py` as Markdown."""
    rounds: Rounds = results["rounds"]
    streams = {
        name: median(measured[f"streams: {name}"] for measured in rounds)
        for name in ("opened_s", "p50_ms", "p99_ms", "kb_each")
    }
    return [
        *_head(results),
        *figures.table(figures.SCALE, rounds),
        "",
        *_table("what", [_without(measured, "streams: ") for measured in rounds], OF_SCALE),
        "",
        f"1,000 streams open at once: all had their first token after {streams['opened_s']:.1f} s. Then each gets a token"
        f" a second. A token is {streams['p50_ms']:.1f} ms old at the median and {streams['p99_ms']:.1f} ms at p99."
        f" A stream takes {streams['kb_each']:.0f} kB.",
    ]


def write(name: str, results: Mapping[str, Any]) -> None:
    """Put the results in the place of those in docs/benchmarks.md, the plot beside it."""
    lines = speed(results) if name == "speed" else scale(results)
    if name == "speed":
        bars = [(title, _median(results["rounds"], f"{key}: rate")) for key, title in PLOTTED.items()]
        PLOTS.mkdir(exist_ok=True)
        (PLOTS / "stateful.svg").write_text(plots.bars([(title, value) for title, value in bars if value is not None]))
        lines += ["", "![Stateful runs a second, 12 at once](benchmarks/stateful.svg)"]
    put(name, lines)


def put(name: str, lines: Sequence[str]) -> None:
    """Put `lines` between the markers of `name` in docs/benchmarks.md."""
    text = PAGE.read_text()
    begin, end = f"<!-- {name}: written by bench/ -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    PAGE.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def _head(results: Mapping[str, Any]) -> list[str]:
    return [
        f"{results['machine']}. Medians of {len(results['rounds'])} rounds, by `{results['command']}`:",
        "",
    ]


def _ceiling(rounds: Rounds) -> list[str]:
    """Return the runs a second of two cores that are never idle. More processes can't exceed it."""
    parts = [
        _median(rounds, f"ours, new thread, 24: {name}")
        for name in ("cpu_ms", "postgres_cpu_ms", "client_cpu_ms", "rate")
    ]
    if None in parts:
        return []
    server, postgres, client, rate = (part or 0 for part in parts)
    # Two cores have 2,000 ms of CPU a second.
    most = 2000 / (server + postgres + client)
    return [
        f"A stateful run takes {server:.1f} ms of CPU in the server, {postgres:.1f} in Postgres and {client:.1f} in the load's"
        f" own process. So two cores give {most:.0f} runs a second at most, {most / rate:.2f} times the rate of one process.",
        "",
    ]


def _table(title: str, rounds: Rounds, columns: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return a table with a line for each label and a column for each measure. A round names them `LABEL: MEASURE`."""
    labels = dict.fromkeys(
        name.rpartition(": ")[0] for measured in rounds for name in measured if name.rpartition(": ")[2] in columns
    )
    # A column without a single value would only widen the table.
    wanted = {key: value for key, value in columns.items() if any(f"{label}: {key}" in rounds[0] for label in labels)}
    lines = [f"| {title} | {' | '.join(name for name, _ in wanted.values())} |", "|---" * (len(wanted) + 1) + "|"]
    for label in labels:
        cells = [_cell(_median(rounds, f"{label}: {key}"), digits) for key, (_, digits) in wanted.items()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _median(rounds: Rounds, name: str) -> float | None:
    values = [measured[name] for measured in rounds if name in measured]
    return median(values) if values else None


def _without(measured: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name: value for name, value in measured.items() if not name.startswith((prefix, "warm-up"))}
