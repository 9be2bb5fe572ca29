"""`make bench`: what the server costs beyond the graph itself, side by side on one Postgres, as ratios.

Interleaved rounds, medians; machines differ and drift, so only the ratios of one run mean something. Prints a table
and writes bench/results/results.json. Bounded: ROUNDS x about 40 s.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg

from threadkeep.db import embedded, migrate

HERE = Path(__file__).parent
CLIENTS = 12
LOADS = [
    ("stateless", 1),
    ("stateless", 12),
    ("new thread", 1),
    ("new thread", 12),
    ("new thread", 64),
    ("same thread", 12),
]
RATIOS = [
    ("our saver over the stock one, 12 at once, async", "our saver, async", "stock saver, async"),
    ("our saver over the stock one, 12 at once, exit", "our saver, exit", "stock saver, exit"),
    (
        "server, new thread each, 12 clients, over the stock saver in process",
        "server, new thread, 12",
        "stock saver, async",
    ),
    ("server, stateless, 12 clients, over the graph alone in process", "server, stateless, 12", "graph alone"),
]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 21))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, embedded.running(Path(folder)) as uri:
        anyio.run(migrate.migrate, uri)
        with _server(uri) as port:
            rounds = [_round(uri, port, chosen.seconds, number + 1) for number in range(chosen.rounds)]
    results = _results(rounds)
    target = HERE / "results"
    target.mkdir(exist_ok=True)
    (target / "results.json").write_text(json.dumps(results, indent=1))
    print(_table(results))


def _round(uri: str, port: int, seconds: float, number: int) -> dict[str, float]:
    print(f"round {number}", file=sys.stderr, flush=True)
    found: dict[str, float] = _measured("inside.py", uri, seconds, CLIENTS)
    for kind, clients in LOADS:
        load = _measured("load.py", port, kind, clients, seconds)
        found[f"server, {kind}, {clients}"] = load["rate"]
        found[f"server, {kind}, {clients}: p50 ms"] = load["p50_ms"]
    _forget(uri)
    return found


def _measured(script: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)


def _forget(uri: str) -> None:
    """Each round begins with empty tables, so that the later ones measure the same."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("TRUNCATE threads, runs, run_events, checkpoints, checkpoint_blobs, checkpoint_writes CASCADE")


@contextmanager
def _server(uri: str) -> Iterator[int]:
    """A server of the echo graph; its port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = os.environ | {"DATABASE_URI": uri, "PORT": str(port), "LOG_LEVEL": "info", "LOG_JSON": "true"}
    command = [sys.executable, "-m", "threadkeep", "serve", "--config", str(HERE / "langgraph.json")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(port)
            yield port
        finally:
            process.terminate()


def _wait_until_ready(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # noqa: TID251 - no event loop here
        else:
            return
    raise TimeoutError("the server did not start")


def _results(rounds: list[dict[str, float]]) -> dict[str, Any]:
    figures = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    ratios = {label: statistics.median(one[over] / one[under] for one in rounds) for label, over, under in RATIOS}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": machine, "rounds": len(rounds), "ratios": ratios, "figures": figures}


def _table(results: dict[str, Any]) -> str:
    lines = [f"{results['machine']}, medians of {results['rounds']} rounds", "", "| ratio | |", "|---|---|"]
    ratios, figures = results["ratios"], results["figures"]
    lines += [f"| {label} | {value:.2f}x |" for label, value in ratios.items()]
    lines += ["", "| figure | |", "|---|---|"]
    lines += [f"| {label} | {value:.1f} |" for label, value in figures.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
