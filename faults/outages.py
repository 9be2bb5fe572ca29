"""Outages of Postgres under load: stopped, crashed, cut off, read-only, slow, silent. Then it is back."""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import httpx

from faults.findings import Findings
from faults.postgres import Postgres, Proxy, own_postgres, proxied
from faults.servers import Place, Replica, replicas
from faults.traffic import Ledger, Talker, audit, settled

CLIENTS = 6
BACK_S = 5.0
"""From the moment in which Postgres is there again to the first success."""
POOL_WAIT_S = 5.0
"""The last answer of those asked for in time comes so much later."""
SETTINGS = {"THREADKEEP_LEASE": "20", "THREADKEEP_SWEEP": "1"}
"""A lease that the outage does not use up: the runs are to be finished by the process that has them."""


CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@dataclass(slots=True)
class Seen:
    """The answers to a client that repeats a request."""

    live: list[int] = field(default_factory=list[int])
    ready: list[int] = field(default_factory=list[int])
    wrote: list[int] = field(default_factory=list[int])
    read: list[int] = field(default_factory=list[int])
    without_retry_after: int = 0
    slowest_s: float = 0
    slowest_live_s: float = 0
    succeeded_at: float | None = None

    async def look(self, http: httpx.AsyncClient) -> None:
        """Ask all of it, at the same time: one that hangs keeps no other waiting."""
        async with anyio.create_task_group() as tasks:
            for ask in (self._live, self._ready, self._read, self._write):
                tasks.start_soon(ask, http)

    async def keep_looking(self, http: httpx.AsyncClient, seconds: float) -> None:
        """Seconds. Then it waits for the last answers."""
        end = time.monotonic() + seconds

        async def again(ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
            while time.monotonic() < end:
                await ask(http)
                await anyio.sleep(0.1)

        async with anyio.create_task_group() as tasks:
            for ask in (self._live, self._ready, self._read, self._write):
                tasks.start_soon(again, ask)

    async def _live(self, http: httpx.AsyncClient) -> None:
        began = time.monotonic()
        self.live.append((await http.get("/livez")).status_code)
        self.slowest_live_s = max(self.slowest_live_s, time.monotonic() - began)

    async def _ready(self, http: httpx.AsyncClient) -> None:
        self.ready.append((await http.get("/readyz")).status_code)

    async def _read(self, http: httpx.AsyncClient) -> None:
        self.read.append((await http.post("/threads/count", json={})).status_code)

    async def _write(self, http: httpx.AsyncClient) -> None:
        began = time.monotonic()
        answer = await http.post("/threads", json={})
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.wrote.append(answer.status_code)
        self.without_retry_after += answer.status_code == 503 and "retry-after" not in answer.headers
        if answer.status_code == 200:
            self.succeeded_at = time.monotonic()


@dataclass(slots=True)
class Loaded:
    """A server under load, and its observations."""

    replica: Replica
    ledger: Ledger
    pid: int
    findings: Findings

    async def watched(self, seconds: float) -> Seen:
        """Look at it for so long."""
        seen = Seen()
        async with httpx.AsyncClient(base_url=self.replica.url, timeout=60) as http:
            await seen.keep_looking(http, seconds)
        return seen

    async def until_success(self) -> float:
        """Seconds until a write succeeds."""
        began, seen = time.monotonic(), Seen()
        async with httpx.AsyncClient(base_url=self.replica.url, timeout=40) as http:
            with anyio.move_on_after(40):
                while seen.succeeded_at is None:
                    await seen.look(http)
                    await anyio.sleep(0.05)
        return time.monotonic() - began


@asynccontextmanager
async def under_load(folder: Path, postgres: Postgres, uri: str, findings: Findings) -> AsyncGenerator[Loaded]:
    """A server with clients on it; when the block ends they stop, and their acknowledged runs are checked."""
    place, until = Place(folder, uri), anyio.Event()
    async with replicas(place, 1, SETTINGS) as [replica]:
        loaded = Loaded(replica, Ledger(), replica.pid, findings)
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                talker = Talker(lambda: [replica.url], loaded.ledger, pause_s=0.3, chosen=random.Random(number))
                tasks.start_soon(talker.talk, until)
            await anyio.sleep(0.7)
            yield loaded
            await anyio.sleep(0.7)
            until.set()
        findings.expect(await settled(postgres.uri, 40), "a run that was acknowledged does not end")
        await audit(postgres.uri, replica.url, loaded.ledger, findings)
        findings.expect(replica.pid == loaded.pid and await replica.exited(0) is None, "the process has ended")
        errors = {str(error)[:160] for error in loaded.ledger.errors}
        findings.expect(not errors, f"{len(loaded.ledger.errors)} runs were told to have failed: {sorted(errors)[:3]}")
        findings.expect("500" not in loaded.ledger.answered, "a client was answered 500")


async def stopped(place: Place, *, mode: Literal["fast", "immediate"], seconds: float = 10) -> Findings:
    """Postgres is stopped for a while."""
    findings = Findings(f"Postgres stopped ({mode}) for {seconds:g} s under load, and started")
    async with (
        own_postgres(place.folder) as postgres,
        under_load(place.folder, postgres, postgres.uri, findings) as loaded,
    ):
        await _outage(postgres, loaded, mode, seconds)
    return findings


async def _outage(postgres: Postgres, loaded: Loaded, mode: Literal["fast", "immediate"], seconds: float) -> None:
    await postgres.stop(mode)
    async with anyio.create_task_group() as tasks:
        # The outage lasts at least this long, also if the watching ends sooner.
        tasks.start_soon(anyio.sleep, seconds)
        # Requests wait this long for a connection. One that is sent later could succeed after the outage.
        seen = await loaded.watched(max(0.5, seconds - POOL_WAIT_S))
    await postgres.start()
    await _back(loaded, loaded.findings)
    _meanwhile(seen, loaded.findings)


async def cut(place: Place, *, times: int = 5) -> Findings:
    """Cut every connection again and again, while Postgres keeps running."""
    findings = Findings(f"{times} times pg_terminate_backend of every connection, under load")
    async with (
        own_postgres(place.folder) as postgres,
        under_load(place.folder, postgres, postgres.uri, findings) as loaded,
    ):
        for _ in range(times):
            await postgres.execute(CUT)
            await anyio.sleep(0.5)
        await _back(loaded, findings)
    return findings


async def read_only(place: Place, *, seconds: float = 5) -> Findings:
    """The database takes no writes for a while, as a standby or a full disk would."""
    findings = Findings(f"a read-only database for {seconds:g} s under load")
    async with (
        own_postgres(place.folder) as postgres,
        under_load(place.folder, postgres, postgres.uri, findings) as loaded,
    ):
        seen = await _without_writes(postgres, loaded, seconds)
        await _back(loaded, findings)
        _judge_read_only(seen, findings)
    return findings


async def _without_writes(postgres: Postgres, loaded: Loaded, seconds: float) -> Seen:
    # The server's own sessions must be affected too, which a setting of the role would not do before a reconnect.
    await postgres.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    await anyio.sleep(0.2)  # a session learns of it when it is next idle
    seen = await loaded.watched(seconds)
    await postgres.execute(
        # This session is read-only too by now, and `ALTER SYSTEM RESET` would be refused.
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )
    return seen


def _judge_read_only(seen: Seen, findings: Findings) -> None:
    findings.figures["writes meanwhile"] = sorted(set(seen.wrote))
    findings.figures["reads meanwhile"] = sorted(set(seen.read))
    findings.expect(set(seen.wrote) == {503}, f"writes to a read-only database: {sorted(set(seen.wrote))}")
    findings.expect(set(seen.read) == {200}, f"reads of a read-only database: {sorted(set(seen.read))}")
    findings.expect(set(seen.live) == {200}, f"liveness: {sorted(set(seen.live))}")
    findings.expect(not seen.without_retry_after, f"{seen.without_retry_after} times 503 without Retry-After")


async def one_after_the_other(place: Place, *, seconds: float = 1) -> Findings:
    """Connections cut, no writes, slow answers, a crash: all of it under the same load, each of them short."""
    findings = Findings("Postgres cut off, read-only, slow and crashed, one after the other under load")
    async with (
        own_postgres(place.folder) as postgres,
        proxied(postgres.uri) as (proxy, uri),
        under_load(place.folder, postgres, uri, findings) as loaded,
    ):
        await postgres.execute(CUT)
        await _back(loaded, findings)
        _judge_read_only(await _without_writes(postgres, loaded, seconds), findings)
        await _back(loaded, findings)
        proxy.delay_s = 0.05
        seen = await loaded.watched(seconds)
        proxy.delay_s = 0
        findings.expect(set(seen.wrote) == {200}, f"writes to a slow Postgres: {sorted(set(seen.wrote))}")
        await _outage(postgres, loaded, "immediate", seconds)
    return findings


async def slow(place: Place, *, seconds: float = 5, delay_s: float = 0.05) -> Findings:
    """Each answer of Postgres comes late."""

    async def disturb(proxy: Proxy, loaded: Loaded) -> Seen:
        proxy.delay_s = delay_s
        seen = await loaded.watched(seconds)
        proxy.delay_s = 0
        return seen

    findings = Findings(f"Postgres answers {delay_s * 1000:g} ms late for {seconds:g} s")
    seen = await _through_proxy(place, findings, disturb)
    findings.figures["slowest write s"] = round(seen.slowest_s, 2)
    findings.expect(set(seen.live) == {200}, f"liveness: {sorted(set(seen.live))}")
    findings.expect(set(seen.wrote) == {200}, f"writes: {sorted(set(seen.wrote))}")
    return findings


async def black_hole(place: Place, *, seconds: float = 15) -> Findings:
    """Connections stay open and nothing arrives: a firewall that forgot them."""

    async def disturb(proxy: Proxy, loaded: Loaded) -> Seen:
        proxy.swallows = True
        async with anyio.create_task_group() as tasks:

            async def end() -> None:
                await anyio.sleep(seconds)
                proxy.close_hole()

            tasks.start_soon(end)
            # Twice: a swallowed statement has to time out before its request waits for another connection.
            return await loaded.watched(seconds - 2 * POOL_WAIT_S)

    findings = Findings(f"a black hole before Postgres for {seconds:g} s")
    seen = await _through_proxy(place, findings, disturb)
    _meanwhile(seen, findings)
    return findings


async def _through_proxy(place: Place, findings: Findings, disturb: Callable[[Proxy, Loaded], Awaitable[Seen]]) -> Seen:
    async with (
        own_postgres(place.folder) as postgres,
        proxied(postgres.uri) as (proxy, uri),
        under_load(place.folder, postgres, uri, findings) as loaded,
    ):
        seen = await disturb(proxy, loaded)
        await _back(loaded, findings)
    return seen


async def _back(loaded: Loaded, findings: Findings) -> None:
    took = await loaded.until_success()
    findings.figures["first success after s"] = round(took, 2)
    findings.expect(took <= BACK_S, f"the first success came {took:.1f} s after Postgres")


def _meanwhile(seen: Seen, findings: Findings) -> None:
    """Alive, not ready, and each request answered with when to come again."""
    findings.figures["answers meanwhile"] = sorted(set(seen.wrote))
    findings.figures["slowest answer s"] = round(seen.slowest_s, 2)
    findings.figures["slowest /livez s"] = round(seen.slowest_live_s, 2)
    findings.expect(set(seen.live) == {200}, f"liveness: {sorted(set(seen.live))}")
    # Not ready, so that a load balancer sends requests elsewhere. Alive, so that nothing restarts the process.
    findings.expect(set(seen.ready) == {503}, f"readiness: {sorted(set(seen.ready))}")
    findings.expect(set(seen.wrote) == {503}, f"writes: {sorted(set(seen.wrote))}")
    findings.expect(not seen.without_retry_after, f"{seen.without_retry_after} times 503 without Retry-After")
