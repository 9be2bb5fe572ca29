"""Races: many runs at once on one thread and on many, through two servers: one at a time, in order, nothing lost."""

import itertools
import time
from collections import defaultdict
from collections.abc import Sequence

import anyio
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import TIMEOUT, Ledger, audit, settled

AT_ONCE = 50
"""Requests of ours that are open at once."""


async def scenario(place: Place, *, on_one: int = 50, on_many: int = 500, threads: int = 100) -> Findings:
    """`on_one` runs at once on one thread, then `on_many` over `threads`, each to the other server in turn."""
    findings = Findings(f"{on_one} runs at once on one thread, {on_many} over {threads} threads, two servers")
    ledger = Ledger()
    async with replicas(place, 2, Quick().settings) as fleet:
        began = time.monotonic()
        [alone] = await _threads(fleet, 1)
        await _send(fleet, ledger, [alone] * on_one)
        findings.expect(await settled(place.database, 60), "a run on the one thread does not end")
        findings.figures["s on one thread"] = round(time.monotonic() - began, 1)
        began = time.monotonic()
        many = await _threads(fleet, threads)
        await _send(fleet, ledger, [many[number % threads] for number in range(on_many)])
        findings.expect(await settled(place.database, 90), "a run on the many threads does not end")
        findings.figures["s on many threads"] = round(time.monotonic() - began, 1)
        await audit(place.database, fleet[0].url, ledger, findings)
        findings.expect(set(ledger.answered) == {"200"}, f"requests that failed: {dict(ledger.answered)}")
        await _in_order(place, fleet[0], ledger, findings)
    _one_at_a_time(place, findings)
    return findings


async def _threads(fleet: Sequence[Replica], count: int) -> list[str]:
    async with httpx.AsyncClient(base_url=fleet[0].url, timeout=TIMEOUT) as http:
        return [(await http.post("/threads", json={})).json()["thread_id"] for _ in range(count)]


async def _send(fleet: Sequence[Replica], ledger: Ledger, threads: Sequence[str]) -> None:
    """Start a run on each of `threads` at once. Every second request waits for its answer."""
    limit = anyio.CapacityLimiter(AT_ONCE)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=AT_ONCE)) as http:

        async def send(number: int, thread_id: str) -> None:
            marker = ledger.marker(thread_id)
            body = {"assistant_id": "talking", "input": {"marker": marker, "pause_s": 0.01}}
            way = "/wait" if number % 2 else ""
            # More connections at once would wait in httpx's pool until they time out.
            async with limit:
                # Halved, because `number % 2` decides the kind: both servers must get both kinds.
                url = fleet[number // 2 % 2].url
                answer = await http.post(f"{url}/threads/{thread_id}/runs{way}", json=body)
            ledger.answered[str(answer.status_code)] += 1
            if answer.status_code == 200:
                run_id = answer.headers["content-location"].rsplit("/", 1)[-1]
                ledger.acknowledged[run_id] = (thread_id, marker)

        async with anyio.create_task_group() as tasks:
            for number, thread_id in enumerate(threads):
                tasks.start_soon(send, number, thread_id)


async def _in_order(place: Place, replica: Replica, ledger: Ledger, findings: Findings) -> None:
    """Each thread holds its messages in the order in which Postgres took them."""
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        rows = await (
            await conn.execute(
                "SELECT thread_id::text, kwargs -> 'input' ->> 'marker' FROM runs ORDER BY thread_id, queue_position"
            )
        ).fetchall()
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        for thread_id, of_thread in itertools.groupby(rows, key=lambda row: row[0]):
            expected = [f"said {marker}" for _, marker in of_thread]
            items = (await http.get(f"/threads/{thread_id}/state")).json()["values"]["items"]
            said = [item for item in items if item.startswith("said")]
            findings.expect(said == expected, f"thread {thread_id} is not in the order of its runs: {said[:5]}")
    findings.figures["threads"] = len({thread for thread, _ in ledger.acknowledged.values()})


def _one_at_a_time(place: Place, findings: Findings) -> None:
    """Check by the journal that the runs of a thread followed each other without overlap."""
    steps: dict[str, list[str]] = defaultdict(list)
    for line in sorted(place.journal_lines(), key=lambda line: line["at"]):
        steps[str(line["thread_id"])].append(str(line["run_id"]))
    mixed = [
        thread_id
        for thread_id, runs in steps.items()
        # Each run must be one block of lines. Two runs at once would alternate.
        if len(list(itertools.groupby(runs))) != len(set(runs)) or any(runs.count(run) != 3 for run in set(runs))
    ]
    findings.figures["steps run"] = sum(map(len, steps.values()))
    findings.expect(not mixed, f"threads on which two runs went on at once, or a step ran twice: {mixed[:5]}")
