"""Results: kept as JSON, and written between the markers of docs/benchmarks.md with the command that made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


def keep(name: str, results: Mapping[str, Any]) -> None:
    """Write bench/results/NAME.json."""
    target = HERE / "results"
    target.mkdir(exist_ok=True)
    (target / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


def rates(rounds: Sequence[Mapping[str, float]]) -> list[str]:
    """A Markdown table of every load: runs a second, latency, and where its CPU time went."""
    labels = [name.removesuffix(": rate") for name in rounds[0] if name.endswith(": rate")]
    lines = [
        "| load | runs/s | p50 ms | p99 ms | CPU ms a run | of Postgres | of the client |",
        "|---|---|---|---|---|---|---|",
    ]
    for label in labels:
        cells = [_cell(rounds, f"{label}: {name}", digits) for name, digits in COLUMNS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


COLUMNS = [("rate", 1), ("p50_ms", 1), ("p99_ms", 1), ("cpu_ms", 2), ("postgres_cpu_ms", 2), ("client_cpu_ms", 2)]


def _cell(rounds: Sequence[Mapping[str, float]], name: str, digits: int) -> str:
    found = [one[name] for one in rounds if name in one]
    return f"{median(found):,.{digits}f}" if found else ""


def write(name: str, results: Mapping[str, Any]) -> None:
    """Put the results in the place of those in docs/benchmarks.md."""
    raise NotImplementedError
