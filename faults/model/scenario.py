"""The scenario: rounds of random operations through two servers, each followed by quiet, in which all is checked."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import anyio
import httpx

from faults.findings import Findings
from faults.model.clients import ALWAYS, GRAPH, TIMEOUT, WEIGHTS, Client, Scene
from faults.model.invariants import Model, Shown
from faults.model.ledger import Ledger
from faults.model.observer import Observed
from faults.model.tables import Spans, Tables, journal, rows
from faults.servers import Place, Quick, replicas

SHOWN = 12
"""Violations that are reported in full."""
STOP_S = 30.0
"""Seconds for the orderly stop of a server."""
QUIET_S = 120.0
"""The longest wait until every run has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of a scenario."""

    minutes: float = 10.0
    seed: int | None = None
    """Chosen at random, and printed, unless given."""
    only: frozenset[str] = frozenset()
    """Invariants to check (`INVARIANTS`). Empty: all."""
    threads: int = 4
    clients: int = 14
    round_s: float = 8.0
    stop_at_first: bool = False
    """End with the first round that breaks something."""
    kinds: frozenset[str] = frozenset()
    """Operations to choose from (`WEIGHTS`), each in every round. Empty: all, some of them in each round."""
    kills: bool = True
    first_round: int = 0
    """The first seed. The choices of a round depend only on the seed and its number."""
    tamper: Callable[[Place, Sequence[str]], Awaitable[None]] | None = None
    """Breaks something by hand on these threads before each check, to see whether the model finds it."""


@dataclass(slots=True)
class Race:
    """The servers, the clients and the model."""

    place: Place
    plan: Plan
    seed: int
    scene: Scene
    model: Model
    tables: Tables
    spans: Spans
    http: httpx.AsyncClient
    rounds: int = 0
    """That are over."""
    _ever: list[str] = field(default_factory=list[str])
    """Every thread that is still checked for leftovers."""
    _broken_before: bool = False
    """The last round broke something."""

    @property
    def ledger(self) -> Ledger:
        return self.scene.ledger

    async def run(self) -> None:
        """Rounds until the time is over."""
        until = time.monotonic() + self.plan.minutes * 60
        while time.monotonic() < until and not (self.plan.stop_at_first and self.ledger.violations):
            self.ledger.round = self.plan.first_round + self.rounds
            chosen = self._random("round")
            if self.rounds == 0 or self._broken_before or chosen.random() < 0.25:
                await self._fresh_threads()
            self.scene.kinds = self._kinds(chosen)
            await self._round(min(self.plan.round_s, max(2.0, until - time.monotonic())))
            self.rounds += 1

    def _random(self, whose: object) -> random.Random:
        """The choices of one part of this round: they do not depend on how fast the others are."""
        # A generator for each part. With one for all, the speed of the servers would decide who draws which number.
        return random.Random(f"{self.seed} {self.ledger.round} {whose}")

    async def _fresh_threads(self) -> None:
        """Use other threads, so that a violation on one is not reported again and again."""
        self._ever = [] if self._broken_before else self._ever
        self._broken_before = False
        self.scene.threads = [str(uuid4()) for _ in range(self.plan.threads)]
        self._ever += self.scene.threads
        for number, thread_id in enumerate(self.scene.threads):
            client = Client(self.scene, number, self._random(f"thread {number}"), self.http)
            await client._make(thread_id)

    async def _round(self, seconds: float) -> None:
        began, violations = time.time(), len(self.ledger.violations)
        over = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look, over)
            async with anyio.create_task_group() as working:
                for number in range(self.plan.clients):
                    client = Client(self.scene, number, self._random(f"client {number}"), self.http)
                    working.start_soon(client.work, over)
                working.start_soon(self._kill, over)
                await anyio.sleep(seconds)
                over.set()
        await self._quiet()
        if self.plan.tamper is not None:
            await self.plan.tamper(self.place, self.scene.threads)
        await self._check(began)
        self._broken_before = len(self.ledger.violations) > violations

    def _kinds(self, chosen: random.Random) -> Sequence[str]:
        """Choose some kinds of operations. Deletions and forks in every round would hide losses of others."""
        if self.plan.kinds:
            return sorted(self.plan.kinds)
        return [kind for kind in WEIGHTS if kind in ALWAYS or chosen.random() < 0.5]

    async def _look(self, over: anyio.Event) -> None:
        """Check the invariants that hold at any time."""
        while not over.is_set():
            await self.tables.check_running(self.scene.threads)
            await self.tables.check_forks(self.scene.threads)
            with anyio.move_on_after(0.5):
                await over.wait()

    async def _kill(self, over: anyio.Event) -> None:
        """In every other round, kill a server now and then, or have it stop in order, and start it again."""
        chosen = self._random("kills")
        if not self.plan.kills or chosen.random() < 0.5:
            return
        while not over.is_set():
            with anyio.move_on_after(chosen.uniform(1, 6)):
                await over.wait()
                return
            replica = chosen.choice(self.scene.fleet)
            pid = replica.pid
            if chosen.random() < 0.25:
                replica.tell(signal.SIGTERM)
                await replica.exited(STOP_S)
            await replica.kill()
            # After the wait for its end, so that no line of the journal can be later.
            self.spans.killed[pid] = time.monotonic()
            self.ledger.kills += 1
            await replica.start()

    async def _quiet(self) -> None:
        """Wait until nothing goes on."""
        url = self.scene.fleet[0].url
        for cron in (await self.http.post(f"{url}/runs/crons/search", json={"limit": 1000})).json():
            await self.http.delete(f"{url}/runs/crons/{cron['cron_id']}")
        active: list[tuple[str, str, str]] = []
        with anyio.move_on_after(QUIET_S):
            while active := await self._active():
                await anyio.sleep(0.2)
        for thread_id, run_id, status in active:
            self.ledger.report("status", thread_id, f"run {run_id[-6:]} stays {status}")
        # Rows of ended runs are still deleted: events, webhooks, and threads whose TTL is over.
        await anyio.sleep(1)

    async def _active(self) -> list[tuple[str, str, str]]:
        active = await rows(
            self.place.database,
            "SELECT thread_id::text, run_id::text, status FROM runs WHERE status IN ('pending', 'running')",
        )
        return [(thread_id, run_id, status) for thread_id, run_id, status in active]

    async def _check(self, began: float) -> None:
        """All invariants."""
        await self.model.observed.read()
        threads = self.scene.threads
        copies = [copy_id for copy_id, copied in self.ledger.copies.items() if copied.sent >= began]
        self.model.forkable = await self.tables.forkable(threads)
        self.model.check_runs(threads)
        self.model.check_deletions(threads, began)
        shown = {thread_id: await self._shown(thread_id) for thread_id in [*threads, *copies]}
        for thread_id in threads:
            self.model.check_thread(thread_id, shown[thread_id])
            self.model.check_answers(thread_id)
        for copy_id in copies:
            if (of_copy := shown[copy_id]) is not None:
                self.model.check_copy(copy_id, of_copy)
        await self.tables.check_forks([*threads, *copies])
        await self.tables.check_parents([*threads, *copies])
        for copy_id in copies:
            # Deleted and then checked for leftovers, because a copy has rows in the same tables.
            await self.http.delete(f"{self.scene.fleet[0].url}/threads/{copy_id}")
        self._ever += copies
        await self.tables.check_leftovers(self._ever)
        await self.tables.check_writes(threads)
        self.spans.check(journal(self.place.journal.read_text() if self.place.journal.exists() else ""))
        self.ledger.explain(self.model.observed.lines)
        for thread_id in threads:
            self.model.accept(thread_id, shown[thread_id])
        self.ledger.operations[""].clear()

    async def _shown(self, thread_id: str) -> Shown | None:
        # Any server: all must show the same when everything is quiet.
        url = f"{random.choice(self.scene.fleet).url}/threads/{thread_id}"
        thread, state = await self.http.get(url), await self.http.get(f"{url}/state")
        if thread.status_code != 200 or state.status_code != 200:
            if {thread.status_code, state.status_code} != {404}:
                text = f"reading it is answered {thread.status_code} and its state {state.status_code}"
                self.ledger.report("answers", thread_id, text)
            return None
        return Shown(
            log=(state.json()["values"] or {}).get("log", []),
            row_log=(thread.json()["values"] or {}).get("log", []),
            status=thread.json()["status"],
        )


async def scenario(place: Place, plan: Plan | None = None) -> Findings:
    """Rounds of random operations on a few threads through two servers. The violations are reported."""
    plan = plan or Plan()
    seed = random.randrange(10**6) if plan.seed is None else plan.seed
    findings = Findings(f"random operations on {plan.threads} threads, seed {seed}, {plan.minutes:g} minutes")
    print(f"model: seed {seed}", flush=True)
    async with _race(place, plan, seed) as race:
        await race.run()
    _tell(race, findings)
    return findings


def _tell(race: Race, findings: Findings) -> None:
    """Return the number of operations, and their violations."""
    ledger, observed = race.ledger, race.model.observed
    findings.figures |= {
        "seed": race.seed,
        "rounds": race.rounds,
        "operations": dict(sorted(ledger.done.items())),
        "answers": dict(sorted(ledger.answers.items())),
        "acknowledged changes": sum(operation.acknowledged for operation in ledger.of_token.values()),
        "runs": len(observed.runs),
        "threads deleted": sum(epoch.deleted is not None for epochs in observed.epochs.values() for epoch in epochs),
        "kills": ledger.kills,
        "violations": dict(Counter(violation.invariant for violation in ledger.violations)),
    }
    findings.broken += [str(violation) for violation in ledger.violations[:SHOWN]]
    if len(ledger.violations) > SHOWN:
        findings.broken.append(f"and {len(ledger.violations) - SHOWN} more")


@asynccontextmanager
async def _race(place: Place, plan: Plan, seed: int) -> AsyncGenerator[Race]:
    _write_project(place)
    observed, ledger = Observed(place.database), Ledger(plan.only)
    await observed.install()
    async with (
        replicas(place, 2, {**Quick().settings, "THREADKEEP_LINGER": "0.2"}) as fleet,
        httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=200)) as http,
    ):
        yield Race(
            place=place,
            plan=plan,
            seed=seed,
            scene=Scene(fleet, ledger, []),
            model=Model(ledger, observed),
            tables=Tables(place.database, ledger, observed),
            spans=Spans(observed, ledger),
            http=http,
        )


def _write_project(place: Place) -> None:
    """A langgraph.json of the model's graph, with a sweep that a round can wait for."""
    (place.folder / "model_graph.py").write_text(Path(__file__).with_name("graph.py").read_text())
    project = {
        "dependencies": ["."],
        "graphs": {GRAPH: "./model_graph.py:graph"},
        "checkpointer": {"ttl": {"sweep_interval_minutes": 0.01}},
        "webhooks": {"url": {"disable_loopback": False, "require_https": False}},
    }
    (place.folder / "langgraph.json").write_text(json.dumps(project))
