"""Capacity: how many runs a second a number of cores can make, from the figures of docs/benchmarks.md.

Nothing is measured here. `python bench/capacity.py --server-cores 8 --postgres-cores 4`
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
LOADS = {
    "new thread": "ours, new thread, 12",
    "same thread": "ours, same thread, 12",
    "stateless": "ours, stateless, 12",
}
"""Kind of run -> its row in the table of loads."""
BUSY = 0.7
"""The share of a core that is planned for. Above it, waits grow fast."""
CONNECTIONS = 16
"""Connections to Postgres of a process: THREADKEEP_API_CONNECTIONS, THREADKEEP_RUN_CONNECTIONS and 2."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a run, in ms."""

    server_ms: float
    postgres_ms: float

    def runs_a_second(self, server_cores: float, postgres_cores: float, graph_ms: float = 0) -> float:
        """Runs a second that the cores can make. `graph_ms` is the CPU of your graph, beyond that of the small one."""
        by_server = BUSY * server_cores * 1000 / (self.server_ms + graph_ms)
        # A stateless run executes no statement, so Postgres sets no limit.
        if not self.postgres_ms:
            return by_server
        return min(by_server, BUSY * postgres_cores * 1000 / self.postgres_ms)


def costs(page: str) -> dict[str, Cost]:
    """Return the measured costs by kind of run. KeyError if a row is missing."""
    rows = {
        cells[0]: cells[1:] for line in re.findall(r"^\| (.+) \|$", page, re.MULTILINE) if (cells := line.split(" | "))
    }
    return {kind: Cost(float(rows[name][3]), float(rows[name][4])) for kind, name in LOADS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--server-cores", type=float, default=2)
    _ = parser.add_argument("--postgres-cores", type=float, default=2)
    _ = parser.add_argument("--graph-ms", type=float, default=0, help="CPU of a run of your graph, in ms")
    chosen = parser.parse_args()
    # One process uses one core: Python executes one thread at a time.
    processes = max(1, round(chosen.server_cores))
    print(f"{'run':<14}{'server ms':>10}{'Postgres ms':>13}{'runs/s':>9}")
    for kind, cost in costs(PAGE.read_text()).items():
        rate = cost.runs_a_second(chosen.server_cores, chosen.postgres_cores, chosen.graph_ms)
        print(f"{kind:<14}{cost.server_ms + chosen.graph_ms:>10.2f}{cost.postgres_ms:>13.2f}{rate:>9.0f}")
    print(f"\n{processes} processes, {processes * CONNECTIONS} connections to Postgres")


if __name__ == "__main__":
    main()
