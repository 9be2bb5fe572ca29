"""Storms: clients that connect and vanish, at every possible point. They leave nothing behind."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import orjson
import psycopg
from anyio.abc import SocketStream

from faults.findings import Findings
from faults.servers import Place, Quick, Replica, replicas
from faults.traffic import TIMEOUT, open_runs

AT_ONCE = 60
WAYS = ("stream", "stream kept", "wait", "join", "head", "body", "silent")


@dataclass(frozen=True, slots=True)
class Held:
    """The resources of a process."""

    slots: int
    waiting: int
    files: int
    tasks: int
    sessions: int
    """Connections to Postgres that are in use. Idle ones are not counted, nor their files: a pool keeps what it once needed."""


async def scenario(place: Place, *, clients: int = 300) -> Findings:
    """`clients` of every kind, each gone after a moment. Then the process has the same resources as before."""
    findings = Findings(f"{clients} clients that connect and vanish")
    settings = Quick().settings | {"THREADKEEP_RUN_SLOTS": "12"}
    async with replicas(place, 1, settings) as [replica], _client(replica) as http:
        threads = [(await http.post("/threads", json={})).json()["thread_id"] for _ in range(10)]
        await _vanish(replica, threads, 2 * len(WAYS))  # pools and caches are filled by the first
        before = await _until_quiet(place, replica, http)
        seen = await _vanish(replica, threads, clients)
        after = await _until_quiet(place, replica, http, files=before.files)
    findings.figures |= {"ways": dict(seen), "before": asdict(before), "after": asdict(after)}
    findings.expect(after.slots == 0 and after.waiting == 0, f"slots: {after}")
    # The two clients of the measurement itself may have a connection open.
    findings.expect(after.files <= before.files + 2, f"file handles: {before.files}, then {after.files}")
    findings.expect(after.tasks <= before.tasks, f"tasks: {before.tasks}, then {after.tasks}")
    findings.expect(after.sessions == 0, f"connections of the pool that are in use: {after.sessions}")
    return findings


def _client(replica: Replica) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=replica.url, timeout=TIMEOUT)


async def _vanish(replica: Replica, threads: Sequence[str], count: int) -> Counter[str]:
    limit, seen, chosen = anyio.CapacityLimiter(AT_ONCE), Counter[str](), random.Random(count)

    async def connect_and_vanish(number: int) -> None:
        way = WAYS[number % len(WAYS)]
        async with limit:
            stream = await anyio.connect_tcp("127.0.0.1", replica.port)
            try:
                await stream.send(_request(way, chosen.choice(threads)))
                # Random, so that clients leave before, during and after each step of a run.
                with anyio.move_on_after(chosen.uniform(0.0, 0.6)):
                    while True:
                        await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            finally:
                await _hang_up(stream)
        seen[way] += 1

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(connect_and_vanish, number)
    return seen


async def _hang_up(stream: SocketStream) -> None:
    with anyio.CancelScope(shield=True):
        # A lost client sends no orderly end of its connection.
        await anyio.aclose_forcefully(stream)


def _request(way: str, thread_id: str) -> bytes:
    """The bytes that are sent before the client vanishes. The last three are never complete."""
    body: dict[str, Any] = {
        "assistant_id": "counting",
        "input": {"until": 10, "pause_s": 0.04},
        "stream_mode": ["custom", "values"],
        "stream_resumable": way == "stream kept",
    }
    raw = orjson.dumps(body)
    if way == "join":
        return f"GET /threads/{thread_id}/stream HTTP/1.1\r\nhost: faults\r\n\r\n".encode()
    path = "wait" if way == "wait" else "stream"
    head = (
        f"POST /threads/{thread_id}/runs/{path} HTTP/1.1\r\nhost: faults\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    ).encode()
    whole = head + raw
    return {"silent": b"", "head": head[:40], "body": whole[: len(head) + 20]}.get(way, whole)


async def _until_quiet(place: Place, replica: Replica, http: httpx.AsyncClient, files: int = 0) -> Held:
    """Return its resources when all runs have ended and all released resources are closed."""
    with anyio.move_on_after(40):
        while await open_runs(place.database):
            await anyio.sleep(0.1)
    held = await _held(place, replica, http)
    with anyio.move_on_after(8):
        while held.slots or held.waiting or held.sessions or (files and held.files > files):
            await anyio.sleep(0.2)
            held = await _held(place, replica, http)
    return held


async def _held(place: Place, replica: Replica, http: httpx.AsyncClient) -> Held:
    load = (await http.get("/info")).json()["load"]
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        row = await (
            await conn.execute(
                """
                SELECT count(*) FILTER (WHERE state <> 'idle'), count(*)
                  FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                """
            )
        ).fetchone()
    assert row is not None
    # A graph counts the tasks, because no route shows those of the event loop.
    tasks = (await http.post("/runs/wait", json={"assistant_id": "inside", "input": {}})).json()["tasks"]
    return Held(
        slots=load["running"],
        waiting=load["waiting"],
        # Minus the sessions of Postgres: a pool that has grown keeps its connections for a while.
        files=_files(replica.pid) - row[1],
        tasks=tasks,
        sessions=row[0],
    )


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
