"""Parts: the command line that the smaller parts of the benchmark share. It measures, prints, and writes into the page."""

import argparse
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import uvloop

import report
import servers
from run import command
from servers import Server
from threadkeep.postgres import embedded, migrate

Ratios = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the benchmark."""

    section: str
    """Its section in docs/benchmarks.md."""
    description: str | None
    measure: Callable[[float, int], Ratios]
    """Measures, with the seconds of a round and the number of rounds."""
    table: Callable[[Ratios], list[str]]
    is_missed: Callable[[Ratios], bool]
    note: str = ""
    """A sentence after the command."""


def main(part: Part) -> int:
    """Measure, print and write. Return 1 if a ratio is missed."""
    parser = argparse.ArgumentParser(description=part.description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    ratios = part.measure(chosen.seconds, chosen.rounds)
    lines = part.table(ratios)
    print("\n".join(lines))
    if chosen.write:
        report.put(part.section, [f"Medians of {chosen.rounds} rounds, by `{command()}`{part.note}:", "", *lines])
    return int(part.is_missed(ratios))


def on_a_server(measured: Callable[[Server, float, int], Awaitable[Ratios]]) -> Callable[[float, int], Ratios]:
    """Return the measurement on a server that is started for it, on an embedded Postgres unless DATABASE_URI is set."""

    def measure(seconds: float, rounds: int) -> Ratios:
        with tempfile.TemporaryDirectory() as folder, embedded.embedded_postgres(Path(folder)) as uri:
            anyio.run(migrate.migrate, uri)
            with servers.ours(os.environ.get("DATABASE_URI", uri)) as server:
                return uvloop.run(measured(server, seconds, rounds))

    return measure
