"""Stops: SIGTERM under open streams, and a fleet that is restarted one after the other under load."""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import BUSY, TIMEOUT, Ledger, audit, settled

DRAIN_S = 3.0
GRACE_S = 10.0
"""Seconds in addition to the drain: streams end, unfinished runs return to the queue, and connections and pools are closed."""


@dataclass(slots=True)
class Streams:
    """Streams that clients hold open."""

    opened: int = 0
    ended: int = 0
    told: int = 0
    """The stream ends with a comment that the server stops, and with `retry`. The run continues elsewhere."""
    cut: list[str] = field(default_factory=list[str])
    runs: list[str] = field(default_factory=list[str])

    async def hold(self, http: httpx.AsyncClient, pause_s: float) -> None:
        """Open one and read it to its end."""
        body = {
            "assistant_id": "counting",
            "input": {"until": 4, "pause_s": pause_s / 4},
            "stream_mode": "custom",
            "if_not_exists": "create",
        }
        last = ""
        try:
            thread_id = (await http.post("/threads", json={})).json()["thread_id"]
            async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
                if answer.status_code != 200:
                    self.cut.append(str(answer.status_code))
                    return
                self.runs.append(answer.headers["content-location"].rsplit("/", 1)[-1])
                self.opened += 1
                async for line in answer.aiter_lines():
                    last = line or last
                self.ended += 1
        except httpx.TransportError as failure:
            # The server tells the client to reconnect, and then leaves the body without an end.
            if last.startswith("retry: "):
                self.told += 1
            else:
                self.cut.append(type(failure).__name__)


async def terminated(place: Place, *, count: int = 100, drain_s: float = DRAIN_S) -> Findings:
    """SIGTERM while `count` streams are open: half of their runs end in time, half do not."""
    findings = Findings(f"SIGTERM under {count} open streams, {drain_s:g} s of grace")
    settings = Quick().settings | {
        # A slot for each stream, or the later ones would only wait.
        "THREADKEEP_RUN_SLOTS": str(count),
        "THREADKEEP_DRAIN": f"{drain_s:g}",
        "THREADKEEP_LINGER": "0.3",
    }
    streams = Streams()
    async with replicas(place, 1, settings) as [replica]:
        limits = httpx.Limits(max_connections=count + 10)
        async with (
            httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT, limits=limits) as http,
            anyio.create_task_group() as tasks,
        ):
            for number in range(count):
                tasks.start_soon(streams.hold, http, drain_s / 2 if number % 2 else drain_s * 4)
            with anyio.move_on_after(20):
                while streams.opened < count:
                    await anyio.sleep(0.02)
            replica.tell(signal.SIGTERM)
            began = time.monotonic()
            code = await replica.exited(drain_s + GRACE_S)
            took = time.monotonic() - began
            if code is None:
                await replica.kill()
        left = await _statuses(place.database, streams.runs)
        findings.figures |= {
            "streams": streams.opened,
            "ended": streams.ended,
            "told to come again": streams.told,
            "cut": dict(Counter(streams.cut)),
            "exit code": code,
            "took s": round(took, 2),
            "left behind": dict(left),
        }
        findings.expect(code == 0, f"the exit code is {code}")
        findings.expect(streams.opened == count, f"only {streams.opened} streams were opened")
        findings.expect(not streams.cut, f"streams that were cut without a word: {dict(Counter(streams.cut))}")
        # A run that succeeded must not leave a reader without its end.
        findings.expect(streams.ended >= left["success"], f"{left['success']} runs ended, {streams.ended} streams did")
        findings.expect(set(left) <= {"success", "pending"}, f"runs neither finished nor put back: {dict(left)}")
        findings.expect(left["success"] >= count // 2, f"runs that had time did not end: {dict(left)}")
        await _finish_elsewhere(place, replica, streams, findings)
    return findings


async def _finish_elsewhere(place: Place, replica: Replica, streams: Streams, findings: Findings) -> None:
    """Check that the next process executes the requeued runs."""
    await replica.start()
    findings.expect(await settled(place.database, 30), "a run that was put back does not end")
    ends = await _statuses(place.database, streams.runs)
    findings.figures["ends"] = dict(ends)
    findings.expect(set(ends) == {"success"}, f"runs that did not succeed after the restart: {dict(ends)}")


async def _statuses(database: str, runs: list[str]) -> Counter[str]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        rows = await (await conn.execute("SELECT status FROM runs WHERE run_id = ANY(%s::uuid[])", [runs])).fetchall()
    return Counter(status for (status,) in rows)


@dataclass(slots=True)
class Patient:
    """A client that asks the next server when one refuses or is not there, and is content with nothing less."""

    fleet: list[Replica]
    ledger: Ledger
    chosen: random.Random
    failed: Counter[str]

    async def talk(self, until: anyio.Event) -> None:
        """One run after the other on a thread of its own."""
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            made = await self._insist(http, "/threads", {})
            thread_id = made.json()["thread_id"] if made else ""
            while not until.is_set() and thread_id:
                marker = self.ledger.marker(thread_id)
                body = {"assistant_id": "talking", "input": {"marker": marker, "pause_s": 0.1}}
                answer = await self._insist(http, f"/threads/{thread_id}/runs/wait", body)
                self.ledger.answered[str(answer.status_code if answer else "failed")] += 1
                if answer is None or answer.status_code != 200 or "__error__" in answer.json():
                    self.failed[answer.text[:200] if answer else "given up"] += 1
                    continue
                run_id = answer.headers["content-location"].rsplit("/", 1)[-1]
                self.ledger.acknowledged[run_id] = (thread_id, marker)

    async def _insist(self, http: httpx.AsyncClient, path: str, body: Any) -> httpx.Response | None:
        """Return the first answer that is not `Retry-After`. A refused connection has sent nothing."""
        with anyio.move_on_after(20):
            while True:
                url = self.chosen.choice(self.fleet).url
                try:
                    answer = await http.post(f"{url}{path}", json=body)
                # Nothing was sent, so the request can't have had an effect.
                except httpx.ConnectError:
                    await anyio.sleep(0.02)
                    continue
                except httpx.TransportError as failure:
                    self.failed[repr(failure)] += 1
                    return None
                if answer.status_code not in BUSY:
                    return answer
                self.ledger.answered["come again"] += 1
                await anyio.sleep(0.02)
        return None


async def rolling(place: Place, *, count: int = 3, clients: int = 8) -> Findings:
    """Stop and restart each server in turn. No request fails."""
    findings = Findings(f"a rolling restart of {count} servers under load")
    ledger, until, failed, codes = Ledger(), anyio.Event(), Counter[str](), list[int | None]()
    async with replicas(
        place, count, Quick().settings | {"THREADKEEP_DRAIN": "5", "THREADKEEP_LINGER": "0.5"}
    ) as fleet:
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(Patient(fleet, ledger, random.Random(number), failed).talk, until)
            await anyio.sleep(0.5)
            for replica in fleet:
                replica.tell(signal.SIGTERM)
                codes.append(await replica.exited(5 + GRACE_S))
                await replica.kill()
                await replica.start()
            await anyio.sleep(0.5)
            until.set()
        findings.expect(await settled(place.database, 20), "a run that was acknowledged does not end")
        await audit(place.database, fleet[0].url, ledger, findings)
    findings.figures |= {"exit codes": codes, "failed": dict(failed)}
    findings.expect(codes == [0] * count, f"exit codes: {codes}")
    findings.expect(not failed, f"requests that failed: {dict(failed)}")
    return findings
