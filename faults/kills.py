"""Kills: `kill -9` in the middle of runs, round after round. Acknowledged runs are done once and soon."""

import random
import time
from collections.abc import Sequence
from datetime import datetime

import anyio
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import Ledger, Talker, audit, settled

CLIENTS = 8
QUICK = Quick()
SLACK_S = 1.5
"""An allowance for a machine with two cores on which a server starts."""


async def scenario(place: Place, *, rounds: int = 20, count: int = 1, quick: Quick = QUICK) -> Findings:
    """Kill one of `count` servers again and again under load, restart it, and check the result."""
    findings = Findings(f"{rounds} times kill -9 under load, {count} server(s)")
    ledger, until, chosen = Ledger(), anyio.Event(), random.Random(rounds)
    killed: list[tuple[datetime, Sequence[str]]] = []
    starts: list[float] = []
    async with replicas(place, count, quick.settings) as fleet:
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                talker = Talker(lambda: [replica.url for replica in fleet], ledger, chosen=random.Random(number))
                tasks.start_soon(talker.talk, until)
            for _ in range(rounds):
                await anyio.sleep(chosen.uniform(0.3, 1.0))
                killed.append(await _kill(place.database, chosen.choice(fleet), starts))
            until.set()
        findings.expect(await settled(place.database, 30), "a run that was acknowledged does not end")
        await audit(place.database, fleet[0].url, ledger, findings)
    waits = await _waits(place.database, killed)
    # With one server nobody can take over before it is back, so its start counts too.
    latest = max(quick.lease_s + quick.sweep_s, (max(starts) if count == 1 else 0) + quick.sweep_s) + SLACK_S
    findings.figures |= {
        "taken over": len(waits),
        "longest takeover s": round(max(waits, default=0), 2),
        "promised s": round(latest, 2),
    }
    # A scenario that by luck killed only idle servers would prove nothing.
    findings.expect(bool(waits), "no run was cut off: the scenario broke nothing")
    findings.expect(max(waits, default=0) <= latest, f"a takeover took {max(waits, default=0):.1f} s of {latest:.1f} s")
    return findings


async def _kill(database: str, replica: Replica, starts: list[float]) -> tuple[datetime, Sequence[str]]:
    """Kill it and start it again. Return the time by Postgres's clock, and the interrupted runs."""
    await replica.kill()
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        # Compared with `started_at`, which is Postgres's clock too.
        row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
        cut = await (
            await conn.execute(
                """
                SELECT run_id::text FROM runs
                 WHERE status = 'running' AND started_at <= clock_timestamp()
                    OR status = 'pending' AND attempt > 0 -- an earlier kill cut it off, and this one prolongs its wait
                """
            )
        ).fetchall()
    assert row is not None
    began = time.monotonic()
    await replica.start()
    starts.append(time.monotonic() - began)
    return row[0], [run_id for (run_id,) in cut]


async def _waits(database: str, killed: Sequence[tuple[datetime, Sequence[str]]]) -> list[float]:
    """How long the runs that were cut off waited, from the kill to the beginning of the next attempt, in seconds."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        begun = dict(
            await (await conn.execute("SELECT run_id::text, started_at FROM runs WHERE attempt > 1")).fetchall()
        )
    last = {run_id: at for at, runs in killed for run_id in runs}
    return [
        (begun[run_id] - at).total_seconds() for run_id, at in last.items() if run_id in begun and begun[run_id] > at
    ]


async def fatal(place: Place, *, attempts: int = 3) -> Findings:
    """A run whose graph ends the process, each time that a supervisor has started it again."""
    findings = Findings(f"a graph that ends its process, {attempts} attempts")
    settings = Quick(lease_s=1.0, sweep_s=0.2).settings | {"THREADKEEP_MAX_ATTEMPTS": str(attempts)}
    async with replicas(place, 1, settings) as [replica], httpx.AsyncClient(base_url=replica.url, timeout=10) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": "dying", "input": {"marker": "<fatal>"}}
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()["run_id"]
        deaths = 0
        with anyio.move_on_after(20 + 5 * attempts):
            while deaths < attempts and await replica.exited(10) is not None:
                deaths += 1
                # A server that takes over the run dies before it is ready. Only the last one stays.
                await replica.start(wait=deaths == attempts)
        findings.expect(await settled(place.database, 5), "a run that kills its process does not end")
        run = (await http.get(f"/threads/{thread_id}/runs/{run_id}")).json()
        other = await http.post(f"/threads/{thread_id}/runs/wait", json={**body, "assistant_id": "talking"})
        alive = await replica.exited(0.5) is None
    findings.figures |= {"deaths": deaths, "status": run["status"]}
    findings.expect(deaths == attempts, f"the process died {deaths} times")
    findings.expect(run["status"] == "error", f"the run is {run['status']}")
    findings.expect(alive and other.status_code == 200, f"the thread is of no more use: {other.text[:200]}")
    return findings
