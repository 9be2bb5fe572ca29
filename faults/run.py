"""`make faults`: every scenario in turn, each on its own database. Prints a table and, with `--json`, writes a file.

    make faults ARGS="kills races --json faults.json"
    make faults ARGS="growth --runs 200000"
    make faults ARGS="model --minutes 60 --seed 7 --only changes,forks"
    make faults ARGS=failover

`failover` needs Debian's patroni, etcd-server, haproxy and postgresql-15, and runs only if it is named. Exit code 1 if a
promise did not hold. About 20 minutes on two cores, ten of them for `model`.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg

import threadkeep  # noqa: F401 - before langgraph, whose strict msgpack it turns on
from faults import (
    balancer,
    failover,
    floods,
    growth,
    kills,
    large_answers,
    outages,
    partitions,
    pauses,
    pooler,
    races,
    resumes,
    stops,
    storms,
)
from faults.findings import Findings
from faults.model import scenario as model
from faults.model.invariants import INVARIANTS
from faults.servers import Place
from threadkeep.postgres import embedded, migrate

SCENARIOS: dict[str, Callable[[Place], Awaitable[Findings]]] = {
    "kills": partial(kills.scenario, count=1),
    "kills-of-two": partial(kills.scenario, count=2),
    "fatal-runs": kills.fatal,
    "races": races.scenario,
    "resumes": resumes.scenario,
    "pauses": pauses.scenario,
    "sigterm": stops.terminated,
    "rolling": stops.rolling,
    "storms": storms.scenario,
    "large-answers": large_answers.scenario,
    "outage-fast": partial(outages.stopped, mode="fast"),
    "outage-immediate": partial(outages.stopped, mode="immediate"),
    "cut-connections": outages.cut,
    "read-only": outages.read_only,
    "slow-postgres": outages.slow,
    "black-hole": outages.black_hole,
    "nginx": balancer.scenario,
    "pgbouncer": pooler.scenario,
    "partitions": partitions.scenario,
    "floods": floods.scenario,
    "growth": growth.scenario,
    "model": model.scenario,
    "failover": failover.scenario,
}
OPT_IN = {"failover"}
"""Scenarios that run only if they are named: they need packages of Debian and take some minutes."""


def main() -> None:
    """Run the named scenarios, or all, and print the results."""
    chosen = _arguments()
    plan = model.Plan(minutes=chosen.minutes or 10, seed=chosen.seed, only=frozenset(chosen.only))
    # Only these two have options.
    SCENARIOS["model"] = partial(model.scenario, plan=plan)
    SCENARIOS["growth"] = partial(growth.scenario, runs=chosen.runs, minutes=chosen.minutes or math.inf)
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded.embedded_postgres(Path(folder) / "data", durable=False) as uri,
    ):
        for name in chosen.names or [name for name in SCENARIOS if name not in OPT_IN]:
            results[name] = _run(name, uri, (chosen.keep or Path(folder)) / name)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    broken = [name for name, result in results.items() if result["broken"]]
    print(f"\n{len(results) - len(broken)} of {len(results)} scenarios hold" + (f"; not: {broken}" if broken else ""))
    sys.exit(1 if broken else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = f"of {', '.join(SCENARIOS)}; by default all but {', '.join(OPT_IN)}"
    parser.add_argument("names", nargs="*", metavar="scenario", help=listed)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="a folder in which logs and journals stay")
    parser.add_argument("--runs", type=int, default=5000, help="of `growth`, by default 5,000")
    parser.add_argument(
        "--minutes", type=float, help="how long `model` runs, by default 10, and `growth`, by default any"
    )
    parser.add_argument("--seed", type=int, help="the random choices of `model`, by default others each time")
    parser.add_argument("--only", type=_list, default=[], help=f"of `model`'s invariants {','.join(INVARIANTS)}")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if unknown := set(chosen.only) - set(INVARIANTS):
        parser.error(f"no such invariant: {', '.join(sorted(unknown))}")
    return chosen


def _list(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _run(name: str, uri: str, folder: Path) -> dict[str, Any]:
    """Run one scenario. A scenario that fails itself is a broken promise too."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        findings = anyio.run(SCENARIOS[name], _place(name, uri, folder))
    except Exception as failure:  # noqa: BLE001 - the others are still to be run
        findings = Findings(name, broken=["".join(traceback.format_exception(failure)[-6:])])
    seconds = round(time.monotonic() - began, 1)
    verdict = f"skipped: {findings.skipped}" if findings.skipped else "BROKEN" if findings.broken else "holds"
    print(f"\n{name}: {findings.did}: {verdict} ({seconds} s)")
    for label, figure in findings.figures.items():
        print(f"  {label:34} {figure}")
    for promise in findings.broken:
        print(f"  BROKEN: {promise}")
    return {
        "did": findings.did,
        "seconds": seconds,
        "figures": findings.figures,
        "broken": findings.broken,
        "skipped": findings.skipped,
    }


def _place(name: str, uri: str, folder: Path) -> Place:
    # A database for each scenario, because some break or count all rows.
    database = "faults_" + name.replace("-", "_")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {database}".encode())
    place = Place(folder, psycopg.conninfo.make_conninfo(uri, dbname=database))
    anyio.run(migrate.migrate, place.database)
    return place


if __name__ == "__main__":
    main()
