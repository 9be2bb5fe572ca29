"""Pauses: a process is stopped for longer than its lease, and continues. Its later writes are refused."""

import signal
import time
from collections.abc import Sequence
from typing import Any

import anyio
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import FORKS, TIMEOUT, settled

STEPS = 6
WAYS = ("background", "wait", "stream")


async def scenario(place: Place, *, pause_s: float = 0.5, rounds: int = 3) -> Findings:
    """Stop a process in the middle of its runs, have another take them over, and continue the first meanwhile."""
    findings = Findings(f"{rounds} times SIGSTOP for longer than the lease, then SIGCONT while another runs the same")
    notices: list[float] = []
    async with replicas(place, 2, Quick().settings) as (a, b):
        for _ in range(rounds):
            runs = await _round(place, a, pause_s, findings)
            if not runs:
                break
            notices.append(await _until_idle(a, findings))
            findings.expect(await settled(place.database, 20), "a run does not end")
            await _judge(place, b, runs, findings)
            await _still_of_use(a, findings)
    findings.figures["longest until the late process let go, s"] = round(max(notices, default=-1), 2)
    return findings


async def _round(place: Place, a: Replica, pause_s: float, findings: Findings) -> Sequence[tuple[str, str]]:
    """Runs of A that another has taken over while A goes on: pairs of thread and run."""
    runs = await _of_one_process(place.database, [await _start(a, way, pause_s) for way in WAYS])
    await anyio.sleep(pause_s * 1.5)  # some steps are done, and none of the runs has ended
    # Unlike a kill, its connections stay open and its tasks continue later. So only fencing can stop its writes.
    a.tell(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with anyio.fail_after(15):
            while not await _all_taken_over(place.database, [run_id for _, run_id in runs]):
                await anyio.sleep(0.05)
        await anyio.sleep(pause_s)  # B is in the middle of them
    except TimeoutError:
        findings.expect(False, "runs of a process that stands still are not taken over")
        return []
    finally:
        # Also after a failure: a stopped process can't be ended in an orderly way.
        a.tell(signal.SIGCONT)
    findings.figures["taken over after s"] = round(time.monotonic() - began - pause_s, 2)
    return runs


async def _start(replica: Replica, way: str, pause_s: float) -> str:
    """Start a run on `replica`. The client of a foreground run disconnects, and the run continues."""
    body = {"assistant_id": "stepping", "input": {"marker": way, "pause_s": pause_s}}
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        path = f"/threads/{thread_id}/runs"
        if way == "background":
            await http.post(path, json=body)
        else:
            # The client leaves by this timeout. The run is by then in process A, which the test needs.
            with anyio.move_on_after(0.3):
                await http.post(f"{path}/{way}", json=body | {"on_disconnect": "continue"})
    return thread_id


async def _of_one_process(database: str, threads: Sequence[str]) -> list[tuple[str, str]]:
    """Return thread and run of the active runs in the process of the last of `threads`. Either process may have the queued run."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        with anyio.fail_after(10):
            while True:
                rows = await (
                    await conn.execute(
                        """
                        SELECT thread_id::text, run_id::text, worker_id
                          FROM runs
                         WHERE thread_id = ANY(%(threads)s::uuid[]) AND status = 'running'
                        """,
                        {"threads": list(threads)},
                    )
                ).fetchall()
                if len(rows) == len(threads):
                    executing = {thread_id: worker_id for thread_id, _, worker_id in rows}[threads[-1]]
                    return [(thread_id, run_id) for thread_id, run_id, worker_id in rows if worker_id == executing]
                await anyio.sleep(0.02)


async def _all_taken_over(database: str, runs: Sequence[str]) -> bool:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        row = await (
            await conn.execute(
                "SELECT count(*) FROM runs WHERE run_id = ANY(%s::uuid[]) AND attempt > 1 AND status = 'running'",
                [list(runs)],
            )
        ).fetchone()
    return row == (len(runs),)


async def _until_idle(replica: Replica, findings: Findings) -> float:
    """Seconds for which the late process continues with lost runs."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        with anyio.move_on_after(15):
            while (await http.get("/info")).json()["load"]["running"]:
                await anyio.sleep(0.05)
            return time.monotonic() - began
    findings.expect(False, "the late process keeps its slots")
    return time.monotonic() - began


async def _judge(place: Place, replica: Replica, runs: Sequence[tuple[str, str]], findings: Findings) -> None:
    """Check that there is one history of whole steps in order, and one outcome."""
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        forks = await (await conn.execute(FORKS)).fetchall()
        ends = await (
            await conn.execute(
                "SELECT status, attempt FROM runs WHERE run_id = ANY(%s::uuid[])", [[run_id for _, run_id in runs]]
            )
        ).fetchall()
    findings.expect(not forks, f"{len(forks)} histories fork: a late checkpoint was written")
    # Two attempts: the one that was lost and the one that took over. A third would mean another takeover.
    findings.expect(set(ends) == {("success", 2)}, f"ends: {ends}")
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        for thread_id, _ in runs:
            state: Any = (await http.get(f"/threads/{thread_id}/state")).json()
            thread = (await http.get(f"/threads/{thread_id}")).json()
            items = state["values"]["items"]
            steps = [item.split(" by ")[0] for item in items]
            by = [item.split(" by ")[1] for item in items]
            findings.expect(steps == [f"step {number}" for number in range(STEPS)], f"steps of a thread: {items}")
            # Whose step comes once is not asked for again: first those of the one, then those of the other.
            findings.expect(by == sorted(by, key=by.index), f"a late process wrote between the other's steps: {items}")
            findings.expect(thread["status"] == "idle", f"a thread is {thread['status']}")
            findings.expect(
                thread["values"] == state["values"], "a thread's values are not those of its newest checkpoint"
            )


async def _still_of_use(replica: Replica, findings: Findings) -> None:
    """The process that was late takes runs of its own again."""
    body = {"assistant_id": "talking", "input": {"marker": "after", "pause_s": 0}}
    async with httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        answer = await http.post(f"/threads/{thread_id}/runs/wait", json=body)
    findings.expect(
        answer.status_code == 200 and "__error__" not in answer.json(), f"the late process: {answer.text[:300]}"
    )
