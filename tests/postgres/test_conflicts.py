"""Transactions that Postgres takes back because of others: they are repeated, and no client hears of an outage."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, LiteralString

import anyio
import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from conftest import serving
from graphs import Gate
from threadkeep.postgres import session
from threadkeep.settings import Settings

LONG_S = 30.0
AT_ONCE = 24
RUN = {"assistant_id": "chain", "input": {"items": ["in"]}}
ITEMS = ["in", "first", "second"]
LOCK_RUNS = "SELECT FROM runs WHERE thread_id = %(thread_id)s FOR UPDATE"
LOCK_THREAD = "SELECT FROM threads WHERE thread_id = %(thread_id)s FOR UPDATE"


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """The server's own sessions look for a deadlock late, so that the other one has time to begin it."""
    uri = make_conninfo(str(settings.database_uri), options="-c deadlock_timeout=3s")
    return settings.model_copy(update={"database_uri": uri})


@asynccontextmanager
async def other_session(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Another program's transaction. It never checks for a deadlock, so Postgres rolls the server's one back."""
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri)) as conn:
        await conn.execute("SET deadlock_timeout = '1h'")
        await conn.commit()
        yield conn


async def deadlocked(
    other: psycopg.AsyncConnection[Any],
    locks: tuple[LiteralString, LiteralString],
    work: Callable[[], Awaitable[Any]],
    thread_id: str = "",
    statement: str = "",
) -> Any:
    """What `work` gives, whose transaction holds what the second lock wants and waits for what the first one holds.

    `statement` is a part of the one that waits, where others wait too.
    """
    results: list[Any] = []
    names = {"thread_id": thread_id or uuid.UUID(int=0)}
    await other.execute(locks[0], names)

    async def do() -> None:
        results.append(await work())

    with anyio.fail_after(LONG_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do)
            await _until_blocked(other, statement)
            await other.execute(locks[1], names)  # granted as soon as the server's transaction has been taken back
            await other.commit()
    return results[0]


async def _until_blocked(other: psycopg.AsyncConnection[Any], statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(make_conninfo(other.info.dsn), autocommit=True) as conn:
        while not await (
            await conn.execute(
                """
                SELECT pid
                  FROM pg_stat_activity
                 WHERE %(pid)s = ANY(pg_blocking_pids(pid)) AND position(%(statement)s IN query) > 0
                """,
                {"pid": other.info.backend_pid, "statement": statement},
            )
        ).fetchone():
            await anyio.sleep(0.01)


async def _deadlocks(settings: Settings) -> int:
    """The number of deadlocks in the database: at least one, which a backend may report only when it ends."""
    count = 0
    with anyio.move_on_after(LONG_S):
        async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
            while not count:
                done = await conn.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
                [count] = await done.fetchone() or [0]
                await anyio.sleep(0.05)
    return count


async def _waiting_run(http: httpx.AsyncClient) -> str:
    """The id of a thread with a run that waits for its time."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    answer = await http.post(f"/threads/{thread_id}/runs", json=RUN | {"after_seconds": 600})
    assert answer.is_success, answer.text
    return thread_id


async def test_a_deadlocked_request_is_repeated(patient: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Issue: 40P01 is no outage. The thread is deleted when the other transaction has ended."""
    async with (
        serving(patient) as url,
        httpx.AsyncClient(base_url=url, timeout=LONG_S) as http,
        other_session(patient) as other,
    ):
        thread_id = await _waiting_run(http)
        answer = await deadlocked(
            other, (LOCK_RUNS, LOCK_THREAD), lambda: http.delete(f"/threads/{thread_id}"), thread_id
        )
        gone = await http.get(f"/threads/{thread_id}")

    assert (answer.status_code, gone.status_code) == (204, 404), answer.text
    assert await _deadlocks(patient) == 1
    assert not [record for record in caplog.records if "database" in record.msg]


async def test_a_run_whose_creation_is_deadlocked_is_created_once(patient: Settings, gate: Gate) -> None:
    """Ours: the creation is repeated alone, so that no run is started twice."""
    superseding = RUN | {"multitask_strategy": "rollback"}
    async with (
        serving(patient) as url,
        httpx.AsyncClient(base_url=url, timeout=LONG_S) as http,
        other_session(patient) as other,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread_id}/runs", json=RUN | {"assistant_id": "gated"})
        await gate.entered()
        answer = await deadlocked(
            other,
            (LOCK_RUNS, LOCK_THREAD),
            lambda: http.post(f"/threads/{thread_id}/runs/wait", json=superseding),
            thread_id,
            "create_run",
        )
        runs = (await http.get(f"/threads/{thread_id}/runs")).json()

    assert (answer.status_code, answer.json().get("items")) == (200, ITEMS), answer.text
    assert [run["status"] for run in runs] == ["success"]
    assert await _deadlocks(patient) == 1


async def test_runs_whose_checkpoints_are_deadlocked_end_well(
    patient: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue: the group commit repeats what was taken back, as when somebody changes the tables meanwhile."""
    tables = ("LOCK TABLE checkpoints IN EXCLUSIVE MODE", "LOCK TABLE checkpoint_blobs IN EXCLUSIVE MODE")
    outcomes: list[Any] = []
    async with (
        serving(patient) as url,
        httpx.AsyncClient(base_url=url, timeout=LONG_S) as http,
        other_session(patient) as other,
    ):

        async def run() -> None:
            thread_id = (await http.post("/threads", json={})).json()["thread_id"]
            outcomes.append((await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)).json().get("items"))

        async def run_several() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(run)

        await deadlocked(other, tables, run_several)

    assert outcomes == [ITEMS] * 5
    assert await _deadlocks(patient) >= 1
    assert not [record for record in caplog.records if "database" in record.msg]


async def test_a_duty_that_is_deadlocked_is_repeated(patient: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Issue: no duty says that it waits for the database, or that it failed."""
    lock_checkpoints = "SELECT FROM checkpoints WHERE thread_id = %(thread_id)s::text FOR UPDATE"
    async with (
        serving(patient) as url,
        httpx.AsyncClient(base_url=url, timeout=LONG_S) as http,
        other_session(patient) as other,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)

        async def expire() -> None:
            async with await psycopg.AsyncConnection.connect(str(patient.database_uri), autocommit=True) as conn:
                await conn.execute("UPDATE threads SET ephemeral_until = now() - interval '1 hour'")
            while (await http.get(f"/threads/{thread_id}")).status_code != 404:
                await anyio.sleep(0.1)

        await deadlocked(other, (lock_checkpoints, LOCK_THREAD), expire, thread_id)

    assert await _deadlocks(patient) == 1
    assert not [record for record in caplog.records if "background task" in record.msg]


async def test_serializable_transactions_that_contend_all_succeed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue: where sessions are serializable, as those of a pooler whose role was changed, 40001 is no error of a client's."""
    wanted = dict(session.SETTINGS) | {"default_transaction_isolation": "serializable"}
    parameters = MappingProxyType({"names": list(wanted), "values": list(wanted.values())})
    monkeypatch.setattr(session, "PARAMETERS", parameters)
    failures: list[str] = []
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=LONG_S * 2) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]

        async def contend(number: int) -> None:
            own = (await http.post("/threads", json={})).json()["thread_id"]
            answers = [
                await http.patch(f"/threads/{thread_id}", json={"metadata": {f"key{number}": number}}),
                await http.put("/store/items", json={"namespace": ["n"], "key": "k", "value": {"number": number}}),
                await http.post(f"/threads/{own}/runs/wait", json=RUN),
                await http.post(f"/threads/{thread_id}/runs", json=RUN),
                await http.delete(f"/threads/{own}"),
            ]
            failures.extend(f"{answer.request.url.path}: {answer.text}" for answer in answers if answer.is_error)

        async with anyio.create_task_group() as tasks:
            for number in range(AT_ONCE):
                tasks.start_soon(contend, number)
        with anyio.fail_after(LONG_S * 2):
            while (thread := (await http.get(f"/threads/{thread_id}")).json())["status"] == "busy":
                await anyio.sleep(0.1)

    assert failures == []
    assert thread["values"]["items"] == ITEMS * AT_ONCE
    assert {f"key{number}" for number in range(AT_ONCE)} <= thread["metadata"].keys()
    told = [record.msg for record in caplog.records if record.name.startswith("threadkeep")]
    assert not [
        message for message in told if "database" in message or "background task" in message or "failed" in message
    ]
