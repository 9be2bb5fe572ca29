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
    found = Findings("two Postgres with Patroni, synchronous: the primary killed under load, then switched over")
    if reason := patroni.missing():
        found.skipped = reason
        return found
    async with patroni.patroni_cluster(place.folder) as cluster:
        first = cluster.nodes[0]
        await migrate.migrate(cluster.through_proxy)
        async with _under_load(place, cluster, found) as fleet:
            await _killed(cluster, fleet, found)
            await first.until("/sync")
            await anyio.sleep(LOAD_S)
            await _switched_over(cluster, fleet, found)
        await _judge(first, fleet, found)
    return found


@asynccontextmanager
async def _under_load(place: Place, cluster: Cluster, found: Findings) -> AsyncGenerator[Fleet]:
    """Both servers with clients."""
    uris = {"haproxy": cluster.through_proxy, "hosts": cluster.multi_host}
    replicas: list[Replica] = []
    for name, uri in uris.items():
        folder = place.folder / name
        folder.mkdir()
        replicas.append(Replica(Place(folder, uri), {**SETTINGS, "THREADKEEP_PROJECT": "failover"}, free_port()))
    try:
        for replica in replicas:
            await replica.start()
        fleet, until = Fleet(replicas, [replica.pid for replica in replicas]), anyio.Event()
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS * len(replicas)):
                urls = [replicas[number % len(replicas)].url]
                talker = Talker(lambda urls=urls: urls, fleet.ledger, pause_s=0.3, chosen=random.Random(number))
                tasks.start_soon(talker.talk, until)
            await fleet.ledger.first_answer()
            await anyio.sleep(LOAD_S)
            yield fleet
            await anyio.sleep(LOAD_S)
            until.set()
        found.expect(await settled(cluster.through_proxy, 60), "a run that was acknowledged does not end")
        await audit(cluster.through_proxy, replicas[0].url, fleet.ledger, found)
        for replica, pid in zip(fleet.replicas, fleet.pids, strict=True):
            found.expect(replica.pid == pid and await replica.exited(0) is None, "a server process has ended")
    finally:
        with anyio.CancelScope(shield=True):
            for replica in replicas:
                await replica.kill()


async def _killed(cluster: Cluster, fleet: Fleet, found: Findings) -> None:
    """Kill the primary with its Patroni. It comes back as a standby."""
    first, second = cluster.nodes
    began = time.monotonic()
    await anyio.to_thread.run_sync(first.kill)
    promoted = await _recovered("kill", second, fleet, found)
    found.figures["kill: promoted after s"] = round(promoted - began, 1)
    await cluster.start(first)


async def _switched_over(cluster: Cluster, fleet: Fleet, found: Findings) -> None:
    first, second = cluster.nodes
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cluster.switch_over, second, first)
        promoted = await _recovered("switchover", first, fleet, found)
    found.figures["switchover: promoted after s"] = round(promoted - began, 1)


async def _recovered(what: str, new: Node, fleet: Fleet, found: Findings) -> float:
    """Wait for the promotion and for a success of each server after it. Returns when the promotion was."""
    times: dict[str, float] = {}
    promoted = await new.promoted_at()
    async with anyio.create_task_group() as tasks:
        for replica in fleet.replicas:
            tasks.start_soon(fleet.first_success, replica, times)
    for replica in fleet.replicas:
        name = replica.place.folder.name
        took = times.get(name, time.monotonic()) - promoted
        found.figures[f"{what}: first success, {name}, s"] = round(took, 1)
        found.expect(name in times and took <= SUCCESS_S, f"{what}: {name} succeeded {took:.1f} s after the promotion")
    return promoted


async def _judge(primary: Node, fleet: Fleet, found: Findings) -> None:
    told = {str(error)[:160] for error in fleet.ledger.errors}
    found.expect(not told, f"{len(fleet.ledger.errors)} runs were told to have failed: {sorted(told)[:3]}")
    found.expect("500" not in fleet.ledger.answered, "a client was answered 500")
    found.expect(await primary.answers("/primary"), "the first node is not the primary at the end")
