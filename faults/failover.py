"""Failover: the primary of two Postgres nodes is killed under load, comes back as a standby, and is switched over to.

One server reaches the nodes through HAProxy, the other one by an address with both. Both have clients all the time.
"""

import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import httpx

from faults import patroni
from faults.findings import Findings
from faults.outages import SETTINGS
from faults.patroni import Cluster, Node
from faults.servers import Place, Replica, free_port
from faults.traffic import Ledger, Talker, audit, settled
from threadkeep.postgres import migrate

CLIENTS = 3
"""Of each server."""
SUCCESS_S = 10.0
"""From the promotion to the first success of each server."""
LOAD_S = 2.0


@dataclass(slots=True)
class Fleet:
    """Two servers, and what their clients were told."""

    replicas: Sequence[Replica]
    pids: Sequence[int]
    ledger: Ledger = field(default_factory=Ledger)

    async def first_success(self, replica: Replica, times: dict[str, float]) -> None:
        """Ask until a write succeeds, and keep when that was."""
        async with httpx.AsyncClient(base_url=replica.url, timeout=60) as http:
            with anyio.move_on_after(90):
                while (await http.post("/threads", json={})).status_code != 200:
                    await anyio.sleep(0.05)
                times[replica.place.folder.name] = time.monotonic()


async def scenario(place: Place) -> Findings:
    """Kill of the primary, and then a planned switchover back."""
    findings = Findings("two Postgres with Patroni, synchronous: the primary killed under load, then switched over")
    if reason := patroni.missing():
        findings.skipped = reason
        return findings
    async with patroni.patroni_cluster(place.folder) as cluster:
        first = cluster.nodes[0]
        await migrate.migrate(cluster.through_proxy)
        async with _under_load(place, cluster, findings) as fleet:
            await _killed(cluster, fleet, findings)
            await first.until("/sync")
            await anyio.sleep(LOAD_S)
            await _switched_over(cluster, fleet, findings)
        await _judge(first, fleet, findings)
    return findings


@asynccontextmanager
async def _under_load(place: Place, cluster: Cluster, findings: Findings) -> AsyncGenerator[Fleet]:
    """Both servers with clients."""
    uris = {"haproxy": cluster.through_proxy, "hosts": cluster.multi_host}
    replicas: list[Replica] = []
    for name, uri in uris.items():
        folder = place.folder / name
        folder.mkdir()
        # The same project: otherwise each server would take its folder's name, and see other rows.
        replicas.append(Replica(Place(folder, uri), {**SETTINGS, "THREADKEEP_PROJECT": "failover"}, free_port()))
    try:
        for replica in replicas:
            await replica.start()
        fleet, until = Fleet(replicas, [replica.pid for replica in replicas]), anyio.Event()
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS * len(replicas)):
                urls = [replicas[number % len(replicas)].url]
                # A default argument, because the variable has another value when the lambda is called.
                talker = Talker(lambda urls=urls: urls, fleet.ledger, pause_s=0.3, chosen=random.Random(number))
                tasks.start_soon(talker.talk, until)
            await fleet.ledger.first_answer()
            await anyio.sleep(LOAD_S)
            yield fleet
            await anyio.sleep(LOAD_S)
            until.set()
        findings.expect(await settled(cluster.through_proxy, 60), "a run that was acknowledged does not end")
        await audit(cluster.through_proxy, replicas[0].url, fleet.ledger, findings)
        for replica, pid in zip(fleet.replicas, fleet.pids, strict=True):
            # The servers must outlive the failover. A restart would hide connections that they hold to the old primary.
            findings.expect(replica.pid == pid and await replica.exited(0) is None, "a server process has ended")
    finally:
        with anyio.CancelScope(shield=True):
            for replica in replicas:
                await replica.kill()


async def _killed(cluster: Cluster, fleet: Fleet, findings: Findings) -> None:
    """Kill the primary with its Patroni. It comes back as a standby."""
    first, second = cluster.nodes
    began = time.monotonic()
    # In a thread, because it waits for the end of the process, and the clients are in this event loop.
    await anyio.to_thread.run_sync(first.kill)
    promoted = await _recovered("kill", second, fleet, findings)
    findings.figures["kill: promoted after s"] = round(promoted - began, 1)
    await cluster.start(first)


async def _switched_over(cluster: Cluster, fleet: Fleet, findings: Findings) -> None:
    first, second = cluster.nodes
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        # Patroni answers after the switchover, and the promotion has to be seen before.
        tasks.start_soon(cluster.switch_over, second, first)
        promoted = await _recovered("switchover", first, fleet, findings)
    findings.figures["switchover: promoted after s"] = round(promoted - began, 1)


async def _recovered(what: str, new: Node, fleet: Fleet, findings: Findings) -> float:
    """Wait for the promotion and for a success of each server after it. Returns when the promotion was."""
    times: dict[str, float] = {}
    promoted = await new.promoted_at()
    async with anyio.create_task_group() as tasks:
        for replica in fleet.replicas:
            tasks.start_soon(fleet.first_success, replica, times)
    for replica in fleet.replicas:
        name = replica.place.folder.name
        took = times.get(name, time.monotonic()) - promoted
        findings.figures[f"{what}: first success, {name}, s"] = round(took, 1)
        findings.expect(
            name in times and took <= SUCCESS_S, f"{what}: {name} succeeded {took:.1f} s after the promotion"
        )
    return promoted


async def _judge(primary: Node, fleet: Fleet, findings: Findings) -> None:
    errors = {str(error)[:160] for error in fleet.ledger.errors}
    findings.expect(not errors, f"{len(fleet.ledger.errors)} runs were told to have failed: {sorted(errors)[:3]}")
    findings.expect("500" not in fleet.ledger.answered, "a client was answered 500")
    findings.expect(await primary.answers("/primary"), "the first node is not the primary at the end")
