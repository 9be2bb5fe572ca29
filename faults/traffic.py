"""Traffic: clients that send requests during faults, and a ledger of the acknowledged requests."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import psycopg

from faults.findings import Findings

TIMEOUT = httpx.Timeout(60, connect=5)
BUSY = (502, 503, 504)
"""Come again."""


@dataclass(slots=True)
class Ledger:
    """The requests, and which of them were acknowledged."""

    sent: dict[str, str] = field(default_factory=dict[str, str])
    """marker: thread"""
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """run: its thread and marker"""
    answered: Counter[str] = field(default_factory=Counter[str])
    """Answers by kind: status codes, `cut` for lost connections, `error` for runs that were told to have failed."""
    errors: list[Any] = field(default_factory=list[Any])
    _numbers: Any = field(default_factory=itertools.count)

    async def first_answer(self, within_s: float = 20) -> None:
        """Wait until somebody was answered: on a busy machine that may take as long as all that a scenario plans."""
        with anyio.move_on_after(within_s):
            while not self.answered:
                await anyio.sleep(0.05)

    def marker(self, thread_id: str) -> str:
        """A word that nobody has sent before."""
        marker = f"<{next(self._numbers)}>"
        self.sent[marker] = thread_id
        return marker


@dataclass(slots=True)
class Talker:
    """One client on one thread: sends run after run, of every kind, to any of the servers."""

    urls: Callable[[], Sequence[str]]
    ledger: Ledger
    kinds: Sequence[str] = ("background", "wait", "stream")
    pause_s: float = 0.1
    """How long each run's middle step takes."""
    chosen: random.Random = field(default_factory=lambda: random.Random(0))

    async def talk(self, until: anyio.Event) -> None:
        """Continue until stopped, even if the servers fail."""
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            thread_id = await self.thread(http, until)
            while not until.is_set():
                await self._once(http, thread_id)

    async def thread(self, http: httpx.AsyncClient, until: anyio.Event) -> str:
        """A thread, as soon as one can be had."""
        while not until.is_set():
            try:
                made = await http.post(f"{self._url()}/threads", json={})
            except httpx.TransportError:
                self.ledger.answered["cut"] += 1
            else:
                if made.status_code == 200:
                    return made.json()["thread_id"]
                self.ledger.answered[str(made.status_code)] += 1
            await anyio.sleep(0.05)
        return ""

    def _url(self) -> str:
        return self.chosen.choice(self.urls())

    async def _once(self, http: httpx.AsyncClient, thread_id: str) -> None:
        marker = self.ledger.marker(thread_id)
        body = {"assistant_id": "talking", "input": {"marker": marker, "pause_s": self.pause_s}}
        path = f"{self._url()}/threads/{thread_id}/runs"
        try:
            status = await getattr(self, f"_{self.chosen.choice(self.kinds)}")(http, path, body, (thread_id, marker))
        except httpx.TransportError:
            status = "cut"
        self.ledger.answered[str(status)] += 1
        if status != 200:
            await anyio.sleep(0.05)

    async def _background(self, http: httpx.AsyncClient, path: str, body: Any, sent: tuple[str, str]) -> object:
        answer = await http.post(path, json=body)
        if answer.status_code == 200:
            self.ledger.acknowledged[answer.json()["run_id"]] = sent
            await anyio.sleep(self.pause_s)  # a request that only enqueues returns at once
        return answer.status_code

    async def _wait(self, http: httpx.AsyncClient, path: str, body: Any, sent: tuple[str, str]) -> object:
        answer = await http.post(f"{path}/wait", json=body)
        if answer.status_code == 200:
            # Not acknowledged: the server said that the run failed, after its head with status 200.
            if error := answer.json().get("__error__"):
                self.ledger.errors.append(error)
                return "error"
            self.ledger.acknowledged[_run_id(answer)] = sent
        return answer.status_code

    async def _stream(self, http: httpx.AsyncClient, path: str, body: Any, sent: tuple[str, str]) -> object:
        async with http.stream("POST", f"{path}/stream", json=body) as answer:
            if answer.status_code == 200:
                self.ledger.acknowledged[_run_id(answer)] = sent
            name = ""
            async for line in answer.aiter_lines():
                name = line.removeprefix("event: ") if line.startswith("event: ") else name
                if name == "error" and line.startswith("data: "):
                    self.ledger.errors.append(line)
        return answer.status_code


def _run_id(answer: httpx.Response) -> str:
    return answer.headers["content-location"].rsplit("/", 1)[-1]


async def open_runs(database: str) -> int:
    """Runs that wait or go on."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        row = await (await conn.execute("SELECT count(*) FROM runs WHERE finished_at IS NULL")).fetchone()
    return row[0] if row else 0


async def settled(database: str, within_s: float) -> bool:
    """Wait until every run has ended. False if one does not end in time."""
    with anyio.move_on_after(within_s):
        while await open_runs(database):
            await anyio.sleep(0.1)
        return True
    return False


async def audit(database: str, url: str, ledger: Ledger, findings: Findings) -> None:
    """Check the result: acknowledged runs have ended, each message exists once, and no thread is busy."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        runs = dict(await (await conn.execute("SELECT run_id::text, status FROM runs")).fetchall())
        busy = await (await conn.execute("SELECT count(*) FROM threads WHERE status = 'busy'")).fetchone()
        forks = await (await conn.execute(FORKS)).fetchall()
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as http:
        items = {
            thread_id: await _items(http, thread_id) for thread_id in sorted(set(ledger.sent.values())) if thread_id
        }
    lost = [run_id for run_id in ledger.acknowledged if run_id not in runs]
    ends = Counter(runs.get(run_id, "lost") for run_id in ledger.acknowledged)
    said = {marker: items.get(thread_id, []).count(f"said {marker}") for marker, thread_id in ledger.sent.items()}
    heard = {marker: items.get(thread_id, []).count(f"heard {marker}") for marker, thread_id in ledger.sent.items()}
    acknowledged = {marker for _, marker in ledger.acknowledged.values()}
    missing = [marker for marker in acknowledged if said[marker] == 0 or heard[marker] == 0]
    # Also of requests without an answer: they may have happened once, but never twice.
    doubled = [marker for marker in said if said[marker] > 1 or heard[marker] > 1]
    findings.figures |= {
        "messages sent": len(ledger.sent),
        "acknowledged": len(ledger.acknowledged),
        "answers": dict(ledger.answered),
        "ends": dict(ends),
        "lost": len(missing),
        "doubled": len(doubled),
    }
    findings.expect(not lost, f"runs that were acknowledged are not there: {lost[:5]}")
    # A 200 was a promise. Nothing but success may follow, whatever broke meanwhile.
    findings.expect(set(ends) <= {"success"}, f"acknowledged runs that did not succeed: {dict(ends)}")
    findings.expect(not missing, f"messages that were acknowledged are not on their thread: {missing[:5]}")
    findings.expect(not doubled, f"messages that are on their thread twice: {doubled[:5]}")
    findings.expect(busy == (0,), f"threads that stay busy: {busy}")
    findings.expect(not forks, f"histories that fork: {forks[:5]}")


FORKS = """
    SELECT thread_id, parent_checkpoint_id, count(*)
      FROM checkpoints
     WHERE checkpoint_ns = ''
     GROUP BY thread_id, parent_checkpoint_id
    HAVING count(*) > 1
"""
"""A checkpoint with two children, or a thread with two beginnings."""


async def _items(http: httpx.AsyncClient, thread_id: str) -> list[str]:
    answer = await http.get(f"/threads/{thread_id}/state")
    answer.raise_for_status()
    return answer.json()["values"].get("items", [])
