"""Resumes: a stream that is read half on one server and half on another, after the first was killed."""

from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import orjson

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import TIMEOUT

EVENTS = 40


@dataclass(slots=True)
class Read:
    """The events that a reader got of a stream, over all its connections."""

    ids: list[int] = field(default_factory=list[int])
    numbers: list[int] = field(default_factory=list[int])
    attempts: list[int] = field(default_factory=list[int])
    gaps: int = 0
    ended: bool = False

    @property
    def last(self) -> str:
        return str(self.ids[-1]) if self.ids else "0"

    async def take(self, answer: httpx.Response, *, until: int | None = None) -> None:
        """Read on, to the end or to the number `until`."""
        name, data = "", b""
        async for line in answer.aiter_lines():
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            data = line.removeprefix("data: ").encode() if line.startswith("data: ") else data
            # A gap is a comment, which the official SDKs skip.
            self.gaps += line.startswith(": gap")
            if line.startswith("id: "):
                self._note(int(line.removeprefix("id: ")), name, orjson.loads(data))
            if until is not None and self.numbers and self.numbers[-1] >= until:
                return
        self.ended = True

    def _note(self, position: int, name: str, data: Any) -> None:
        self.ids.append(position)
        if name == "metadata":
            self.attempts.append(data["attempt"])
        if name == "custom":
            self.numbers.append(data["number"])


async def scenario(place: Place, *, pause_s: float = 0.06) -> Findings:
    """Three ways in which the executing process dies between two halves of a stream."""
    findings = Findings("streams read half on A and, after kill -9 of A, to the end on B by Last-Event-ID")
    async with replicas(place, 2, Quick().settings) as (a, b):
        ended = await _half(a, pause_s=0.0)
        await _until_ended(b, ended[0])
        # Slower than the others, so that it still runs when A dies.
        elsewhere = await _queued(a, pause_s=pause_s)
        async with (
            httpx.AsyncClient(timeout=TIMEOUT) as http,
            http.stream("GET", f"{b.url}{elsewhere[0]}", headers={"last-event-id": "0"}) as followed,
        ):
            await elsewhere[1].take(followed, until=2)
        running = await _half(a, pause_s=pause_s)
        # After all first halves were read, so that one kill serves the three ways.
        await a.kill()
        for name, (location, read) in {"ended": ended, "running": running, "background": elsewhere}.items():
            await _rest(b, location, read)
            _judge(findings, name, read)
    findings.expect(ended[1].attempts == [1], f"a run that had ended was begun again: {ended[1].attempts}")
    findings.expect(running[1].attempts == [1, 2], f"the restart of the run was not told: {running[1].attempts}")
    return findings


async def _half(replica: Replica, *, pause_s: float) -> tuple[str, Read]:
    """Start a run and read the first half of its stream."""
    body = {
        "assistant_id": "counting",
        "input": {"until": EVENTS, "pause_s": pause_s},
        "stream_mode": "custom",
        "stream_resumable": True,
    }
    read = Read()
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
            await read.take(answer, until=EVENTS // 2)
            return answer.headers["location"], read


async def _queued(replica: Replica, *, pause_s: float) -> tuple[str, Read]:
    """Start a run from the queue. Either server may execute it."""
    body = {"assistant_id": "counting", "input": {"until": EVENTS, "pause_s": pause_s * 2}, "stream_mode": ["custom"]}
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()["run_id"]
    return f"/threads/{thread_id}/runs/{run_id}/stream", Read()


async def _until_ended(replica: Replica, location: str) -> None:
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        with anyio.fail_after(20):
            await http.get(location.removesuffix("/stream") + "/join")


async def _rest(replica: Replica, location: str, read: Read) -> None:
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        with anyio.move_on_after(30):
            async with http.stream("GET", location, headers={"last-event-id": read.last}) as answer:
                await read.take(answer)


def _judge(findings: Findings, name: str, read: Read) -> None:
    """Check that an attempt has no gap and no repeat, and that a new attempt has an event and begins again."""
    turns = [
        number
        for number, (before, now) in enumerate(zip(read.numbers, read.numbers[1:], strict=False), 1)
        if now != before + 1
    ]
    findings.figures[f"{name}: events"] = len(read.numbers)
    findings.figures[f"{name}: attempts told"] = read.attempts
    findings.expect(read.ended, f"{name}: the stream did not end")
    # Events of the first attempt that others may have read but that were never written are a gap before the second.
    findings.expect(read.gaps <= len(read.attempts) - 1, f"{name}: {read.gaps} gaps")
    findings.expect(read.ids == sorted(set(read.ids)), f"{name}: ids do not go up")
    findings.expect(
        read.numbers[-1:] == [EVENTS - 1] and read.numbers[:1] == [0], f"{name}: not the whole: {read.numbers}"
    )
    # A stream that begins again is a new attempt, and there are only as many as there are events for them.
    findings.expect(len(turns) <= len(read.attempts) - 1, f"{name}: gaps or repeats that were not told: {read.numbers}")
    findings.expect(
        all(read.numbers[turn] == 0 for turn in turns), f"{name}: an attempt is not told whole: {read.numbers}"
    )
