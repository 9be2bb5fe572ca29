"""`make bench`: the server's cost without the graph, beside its peers, on one Postgres, as ratios.

It takes medians of interleaved rounds. Machines differ and drift, so only the ratios of one run have a meaning. Prints the table,
writes bench/results/speed.json and, with --write, its part of docs/benchmarks.md. `--core` leaves the peers, memory
and the second process out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import psycopg

import report
import servers
from servers import Server
from threadkeep.postgres import embedded, migrate

HERE = Path(__file__).parent
CORE = [
    ("stateless", 12),
    ("new thread", 1),
    ("new thread", 12),
]
MORE = [
    ("stateless", 1),
    ("stateless", 64),
    ("new thread", 64),
    ("two requests", 1),
    ("two requests", 12),
    ("same thread", 1),
    ("same thread", 12),
    ("same thread", 64),
]
WITH_KEYS = [("stateless", 12), ("new thread", 12)]
OF_PEERS = [("stateless", 12), ("new thread", 1), ("new thread", 12)]
STREAMS = [("tokens", "new thread")]
MORE_STREAMS = [("tokens", "stateless"), ("model", "new thread")]
CALLERS = 12
"""Identities with an API key."""
WARM_UP = 1000
BATCHES = 4
"""Of 1,000 runs each, between which memory is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The options of one command."""

    uri: str
    seconds: float
    core: bool
    server: Server
    keys: tuple[str, ...]
    """API keys, each of an identity of its own."""
    peers: list[Server]

    def round(self) -> dict[str, float]:
        """Everything once, one after the other, beginning with empty tables."""
        empty(self.uri)
        figures = self._inside(1) | self._inside(12)
        for kind, clients in CORE if self.core else [*CORE, *MORE]:
            figures |= self._load([self.server], f"ours, {kind}, {clients}", kind, clients)
        for graph, kind in STREAMS if self.core else [*STREAMS, *MORE_STREAMS]:
            figures |= self._streams(self.server, graph, kind)
        figures |= self._with_keys()
        for peer in self.peers:
            for kind, clients in OF_PEERS:
                figures |= self._load([peer], f"{peer.name}, {kind}, {clients}", kind, clients)
        if not self.core:
            with servers.ours(self.uri) as second:
                # The first server has been under load for minutes, and the second one has just started.
                self._load([second], "warm-up", "new thread", 12)
                figures |= self._load([self.server], "ours, new thread, 24", "new thread", 24)
                figures |= self._load([self.server, second], "two of ours, new thread, 24", "new thread", 24)
        return figures

    def _with_keys(self) -> dict[str, float]:
        """The load by callers with an API key each, and the same without beside it, in turns: machines drift.

        Each round has two new servers, because processes of the same code differ by up to a fifth.
        """
        figures: dict[str, float] = {}
        with servers.ours(self.uri) as without, servers.ours(self.uri, keys=self.keys) as keyed:
            pair = ((without, "without keys"), (keyed, "with API keys"))
            for server, _ in pair:
                self._load([server], "warm-up", "new thread", 12)
            for kind, clients in WITH_KEYS:
                for server, label in pair:
                    figures |= self._load([server], f"ours {label}, {kind}, {clients}", kind, clients)
        return figures

    def _inside(self, clients: int) -> dict[str, float]:
        cases = output("inside.py", self.uri, self.seconds, clients)
        return {
            f"{case}, {clients}: {name}": value for case, of_case in cases.items() for name, value in of_case.items()
        }

    def _load(self, under_load: list[Server], label: str, kind: str, clients: int) -> dict[str, float]:
        """Return the load's own figures, and the cost of a run for the servers and for Postgres."""
        ports = ",".join(str(server.port) for server in under_load)
        postgres = servers.postgres(self.uri)
        # Of the processes, so that the cost of the load's own process is not counted.
        before = sum(server.cpu_s() for server in under_load), postgres.cpu_s() if postgres else 0
        keys = ",".join(under_load[0].keys)
        figures = output(
            "load.py", ports, kind, clients, "--seconds", self.seconds, *(["--keys", keys] if keys else [])
        )
        figures["cpu_ms"] = (sum(server.cpu_s() for server in under_load) - before[0]) * 1000 / figures["runs"]
        if postgres:
            figures["postgres_cpu_ms"] = (postgres.cpu_s() - before[1]) * 1000 / figures["runs"]
        return {f"{label}: {name}": value for name, value in figures.items()}

    def _streams(self, server: Server, graph: str, kind: str) -> dict[str, float]:
        figures = output("streams.py", server.port, graph, kind, 12, "--seconds", self.seconds)
        return {f"{server.name}, {graph}, {kind}, 12: {name}": value for name, value in figures.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21))
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--core", action="store_true", help="without peers, memory and a second process")
    parser.add_argument("--write", action="store_true", help="write the figures into docs/benchmarks.md")
    chosen = parser.parse_args()
    with database() as uri, ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        server = stack.enter_context(servers.ours(uri))
        idle = {"ours: memory_mb": server.memory_mb(), "ours: start_s": server.start_s}
        keys = anyio.run(servers.make_keys, uri, CALLERS)
        peers = [] if chosen.core else started_peers(stack, Path(folder), uri)
        idle |= {f"{peer.name}: memory_mb": peer.memory_mb() for peer in peers}
        idle |= {f"{peer.name}: start_s": peer.start_s for peer in peers}
        bench = Bench(uri=uri, seconds=chosen.seconds, core=chosen.core, server=server, keys=keys, peers=peers)
        rounds: list[dict[str, float]] = []
        for number in range(chosen.rounds):
            say(f"round {number + 1} of {chosen.rounds}")
            rounds.append(bench.round())
        if not chosen.core:
            idle |= growth(uri, server)
        # Measured once, but in each round, because the report takes medians over rounds.
        rounds = [measured | idle for measured in rounds]
    results = {"machine": machine(), "command": command(), "rounds": rounds}
    report.keep("speed", results)
    print("\n".join(report.speed(results)))
    if chosen.write:
        report.write("speed", results)


def started_peers(stack: ExitStack, folder: Path, uri: str) -> list[Server]:
    """Yield the peers that are installed and start. For the others a line says the reason."""
    peers: list[Server] = []
    for program, opened in (
        (servers.REFERENCE, servers.dev_server(folder)),
        (servers.AEGRA, servers.aegra(folder, uri)),
    ):
        if not program.exists():
            say(f"without a peer: {program} is not there, `make peers` says why")
            continue
        try:
            peers.append(stack.enter_context(opened))
        except RuntimeError as error:
            say(f"without a peer: {error}")
    return peers


def growth(uri: str, server: Server) -> dict[str, float]:
    """Resident memory over batches of 1,000 stateful runs, behind a warm-up: the growth of one batch."""
    say("memory")
    empty(uri)
    output("load.py", server.port, "new thread", 12, "--runs", WARM_UP)
    # After a warm-up, in which pools, caches and the allocator's arenas grow to their size.
    sizes = [server.memory_mb()]
    for _ in range(BATCHES):
        output("load.py", server.port, "new thread", 12, "--runs", 1000)
        sizes.append(server.memory_mb())
    return {"ours: growth_mb": (sizes[-1] - sizes[0]) / BATCHES, "ours: memory_after_mb": sizes[-1]}


@contextmanager
def database() -> Generator[str]:
    """DATABASE_URI, whose tables of ours are emptied, or an embedded Postgres of the bench's own."""
    if uri := os.environ.get("DATABASE_URI"):
        anyio.run(migrate.migrate, uri)
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder, embedded.embedded_postgres(Path(folder)) as uri:
        anyio.run(migrate.migrate, uri)
        yield uri


def output(script: str, *arguments: object) -> dict[str, float]:
    """Return the output of a script of the benchmark. Raise RuntimeError with its last lines if it fails."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{script} {arguments}: {done.stderr.decode(errors='replace')[-2000:]}")
    return json.loads(done.stdout)


def empty(uri: str) -> None:
    """Each round begins with empty tables, so that the later ones measure the same."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("TRUNCATE threads, runs, run_events, checkpoints, checkpoint_blobs, checkpoint_writes CASCADE")


def say(line: str) -> None:
    """Show the progress."""
    print(line, file=sys.stderr, flush=True)


def machine() -> str:
    """Return a description of the machine."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def command() -> str:
    """Return the command line."""
    return " ".join(["python", "bench/" + Path(sys.argv[0]).name, *sys.argv[1:]])


if __name__ == "__main__":
    main()
