"""Floods: one principal floods the server in every way, and another one is served: none refused, p95 below 3x of alone.

The flood comes from a process of its own (`python -m faults.floods URL WAY`), so that its clients slow down nobody
but the server.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Replica, replicas
from faults.traffic import TIMEOUT
from threadkeep.auth.api_keys import generate_key
from threadkeep.tables import api_keys

WAYS: Final = ("runs", "background", "crons", "webhooks", "searches", "streams")
AT_ONCE: Final = 24
"""Requests of the flood that are open."""
MOST: Final = 3.0
"""By how much the other principal's p95 may grow."""
LEAD_S: Final = 2.0
"""Seconds of a flood before the measurement."""
RUN: Final[dict[str, Any]] = {"assistant_id": "counting", "input": {"until": 5, "pause_s": 0.05}}
"""A run that waits for a quarter of a second, as for a quick model."""
SLOW: Final[dict[str, Any]] = {"assistant_id": "counting", "input": {"until": 20, "pause_s": 0.05}}


async def scenario(place: Place, *, samples: int = 30) -> Findings:
    """Measure `samples` runs of one principal alone, and as many under each flood of another one."""
    findings = Findings(f"one principal floods in {len(WAYS)} ways, another one makes {samples} runs under each")
    flooding, served = await _key(place, "flooding"), await _key(place, "served")
    async with replicas(place, 1, {"AUTH_TYPE": "api_key"}) as [replica]:
        await _measure(replica, served, 5)  # the caches of the first requests are filled
        alone, refused = await _measure(replica, served, samples)
        findings.figures["alone, p95 in s"] = round(alone, 3)
        for way in WAYS:
            async with _flood(place, replica, flooding, way):
                p95, refused_now = await _measure(replica, served, samples)
            refused += refused_now
            findings.figures[f"{way}, p95 to that of alone"] = round(p95 / alone, 2)
            findings.expect(p95 < MOST * alone, f"{way}: p95 is {p95:.3f} s, alone {alone:.3f} s")
    findings.figures["refused"] = refused
    findings.expect(refused == 0, f"{refused} requests of the other principal were refused")
    return findings


async def _key(place: Place, identity: str) -> str:
    secret, row = generate_key(identity, "faults", (), None)
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        await api_keys.create(conn, row)
    return secret


async def _measure(replica: Replica, key: str, samples: int) -> tuple[float, int]:
    """The 95th percentile of a run's seconds, and how many runs were refused."""
    seconds: list[float] = []
    refused = 0
    async with _client(replica.url, key) as http:
        for _ in range(samples):
            began = time.monotonic()
            answer = await http.post("/runs/wait", json=RUN)
            seconds.append(time.monotonic() - began)
            refused += answer.status_code != 200
    # The last of 19 cuts in twenty parts is the 95th percentile.
    return statistics.quantiles(seconds, n=20)[-1], refused


def _client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, headers={"x-api-key": key})


@asynccontextmanager
async def _flood(place: Place, replica: Replica, key: str, way: str) -> AsyncGenerator[None]:
    """The flood, from shortly before until the block ends."""
    process = await anyio.to_thread.run_sync(_started, place, replica.url, key, way)
    try:
        async with anyio.create_task_group() as tasks:
            if way == "crons":
                tasks.start_soon(_let_crons_come_due, place)
            await anyio.sleep(LEAD_S)
            yield
            tasks.cancel_scope.cancel()
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            # Before the rows are deleted: a request in flight would add more.
            await anyio.to_thread.run_sync(process.wait)
            await _forget(place)


def _started(place: Place, url: str, key: str, way: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "faults.floods", url, way]
    with (place.folder / f"flood-{way}").open("ab") as output:
        # The key is not an argument, because every user of the machine can list those.
        return subprocess.Popen(command, env={**os.environ, "FLOOD_KEY": key}, stdout=output, stderr=output)


async def _let_crons_come_due(place: Place) -> None:
    """Crons fire once a minute at most. Here each is due again and again."""
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        while True:
            await conn.execute("UPDATE crons SET next_run_date = now() WHERE next_run_date > now()")
            # The scheduler sleeps until the next cron that it knows of.
            await conn.execute("SELECT pg_notify('threadkeep', 'crons')")
            await anyio.sleep(0.2)


async def _forget(place: Place) -> None:
    """Remove the flood's runs from the queue, so that the next flood is measured alone."""
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        await conn.execute("DELETE FROM crons")
        await conn.execute("DELETE FROM runs WHERE status = 'pending'")
        await conn.execute("DELETE FROM webhook_deliveries")
        with anyio.move_on_after(20):
            while await (await conn.execute("SELECT 1 FROM runs WHERE finished_at IS NULL")).fetchone():
                await anyio.sleep(0.1)


async def flood(url: str, key: str, way: str) -> None:
    """Send requests until the end, and ignore the answers."""

    async def ask(http: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await http.request(*_asked(way)[:2], json=_asked(way)[2])
                # A flood that never paused would only measure how fast the server refuses.
                if answer.status_code in {429, 503}:
                    await anyio.sleep(0.05)
            except httpx.TransportError:
                await anyio.sleep(0.05)

    async with _client(url, key) as http, anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(ask, http)


def _asked(way: str) -> tuple[str, str, dict[str, Any]]:
    """The method, the path and the body of a request of the flood."""
    hook = {"webhook": "https://flood.invalid/hook"}  # a name that no resolver knows: each is tried three times
    return {
        "runs": ("POST", "/runs/wait", SLOW),
        "background": ("POST", "/runs", SLOW),
        "crons": ("POST", "/runs/crons", {**SLOW, "schedule": "* * * * *"}),
        "webhooks": ("POST", "/runs", {**RUN, "input": {"until": 0}, **hook}),
        "searches": ("POST", "/threads/search", {"limit": 1000, "metadata": {"graph_id": "counting"}}),
        "streams": ("POST", "/runs/stream", {**SLOW, "stream_mode": ["custom", "values"]}),
    }[way]


if __name__ == "__main__":
    anyio.run(flood, sys.argv[1], os.environ["FLOOD_KEY"], sys.argv[2])
