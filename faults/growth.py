"""Growth: many runs with retention. The database does not grow with their number."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import anyio
import httpx
import psycopg

from faults.findings import Findings
from faults.servers import Place, Quick, replicas
from faults.traffic import TIMEOUT

AT_ONCE: Final = 32
ATTEMPTS: Final = 10
AGE_S: Final = 3.0
"""How long events and idempotency keys are kept here."""
GONE_S: Final = 90.0
"""Seconds after the last run: the ages, the rounds of the clean-up, and an allowance for a busy machine."""
TABLES: Final = (
    "threads",
    "runs",
    "run_events",
    "run_undo_log",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "idempotency_keys",
    "webhook_deliveries",
)
RUN: Final[dict[str, Any]] = {"assistant_id": "counting", "input": {"until": 3}}


async def scenario(place: Place, *, runs: int = 5000, minutes: float = math.inf) -> Findings:
    """Make `runs` stateless runs, each with an idempotency key and recorded events. Then check that all their rows are deleted.

    After `minutes` no further run is made.
    """
    findings = Findings(f"up to {runs} stateless runs with retention on")
    ages = {"THREADKEEP_KEEP_EVENTS": f"{AGE_S:g}", "THREADKEEP_IDEMPOTENCY": f"{AGE_S:g}"}
    peaks = dict.fromkeys(TABLES, 0)
    async with (
        replicas(place, 2, Quick().settings | ages) as [first, second],
        await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn,
    ):
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            done = anyio.Event()
            tasks.start_soon(_watch, place, peaks, done)
            made, failed = await _run_all([first.url, second.url], _numbers(runs, began + 60 * minutes))
            done.set()
        findings.figures |= {"runs": made, "runs a second": round(made / (time.monotonic() - began))}
        left = await _left(conn)
        # Clean-up runs in rounds, so the rows go some time after their age.
        with anyio.move_on_after(GONE_S):
            while any(left.values()):
                await anyio.sleep(0.5)
                left = await _left(conn)
        size = await (await conn.execute("SELECT pg_database_size(current_database()) / 1000000")).fetchone()
    findings.figures |= {"most rows": peaks, "rows left": left, "database, MB": size and size[0]}
    findings.expect(failed == 0, f"{failed} runs were refused or failed")
    findings.expect(not any(left.values()), f"rows are left: {left}")
    return findings


def _numbers(runs: int, end: float) -> Iterator[int]:
    """From 0 on, until `end`, a time of the monotonic clock."""
    return itertools.takewhile(lambda _: time.monotonic() < end, range(runs))


async def _run_all(urls: list[str], numbers: Iterator[int]) -> tuple[int, int]:
    """How many runs were made, and how many of them were not answered with 200."""
    made = failed = 0

    async def ask(http: httpx.AsyncClient) -> None:
        nonlocal made, failed
        # All clients take from one iterator, so that each number is used once.
        for number in numbers:
            made += 1
            failed += not await _is_answered(http, urls[number % len(urls)])

    async with httpx.AsyncClient(timeout=TIMEOUT) as http, anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(ask, http)
    return made, failed


async def _is_answered(http: httpx.AsyncClient, url: str) -> bool:
    """Whether a run is answered with 200. The same request is sent again if a busy machine lost it."""
    # With the key a repeated request makes no second run, so the count stays right.
    headers = {"idempotency-key": str(uuid4())}
    for _ in range(ATTEMPTS):
        with suppress(httpx.TransportError):
            answer = await http.post(f"{url}/runs/wait", json=RUN, headers=headers)
            if answer.status_code not in {409, 503}:
                return answer.status_code == 200
        await anyio.sleep(1)
    return False


async def _left(conn: psycopg.AsyncConnection[Any]) -> dict[str, int]:
    """The rows of each table."""
    left: dict[str, int] = {}
    for table in TABLES:
        row = await (await conn.execute(f"SELECT count(*) FROM {table}".encode())).fetchone()
        left[table] = row[0] if row else 0
    return left


async def _watch(place: Place, peaks: dict[str, int], done: anyio.Event) -> None:
    """Note the most rows that each table has had, until it is `done`."""
    async with await psycopg.AsyncConnection.connect(place.database, autocommit=True) as conn:
        while not done.is_set():
            for table, rows in (await _left(conn)).items():
                peaks[table] = max(peaks[table], rows)
            with anyio.move_on_after(1):
                await done.wait()
