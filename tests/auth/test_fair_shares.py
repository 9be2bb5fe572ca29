"""One principal's load against another's: whoever floods, the other is served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import psycopg
import pytest

from auth.conftest import MakeKey
from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings

GATED = {"assistant_id": "gated", "input": {"items": []}}
CHAIN = {"assistant_id": "chain", "input": {"items": []}}


@asynccontextmanager
async def _clients(
    settings: Settings, make_key: MakeKey, *names: str, **changes: Any
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each principal, on a server with these settings."""
    chosen = settings.model_copy(update={"auth_type": "api_key", **changes})
    keys = [await make_key(name) for name in names]
    async with serving(chosen) as url:
        clients = [httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": key}) for key in keys]
        yield clients
        for client in clients:
            await client.aclose()


async def _flood(http: httpx.AsyncClient, path: str, count: int, tasks: anyio.abc.TaskGroup) -> None:
    """`count` runs that end when the gate is opened."""
    for _ in range(count):
        if path == "/runs":
            assert (await http.post(path, json=GATED)).status_code == 200
        else:
            tasks.start_soon(lambda: http.post(path, json=GATED, timeout=60))


@pytest.mark.parametrize("path", ["/runs", "/runs/wait", "/runs/stream"])
async def test_long_runs_of_one_principal_leave_slots_for_another(
    settings: Settings, make_key: MakeKey, gate: Gate, path: str
) -> None:
    """Ours: with 12 slots and a share of 100, one kept all others out: 10 of 10 waits were answered 503."""
    async with _clients(settings, make_key, "bad", "good") as [bad, good], anyio.create_task_group() as tasks:
        await _flood(bad, path, 20, tasks)
        await gate.entered(9)
        answers = [(await good.post("/runs/wait", json=CHAIN)).status_code for _ in range(10)]
        queued = await good.post("/runs", json=CHAIN)
        joined = await good.get(f"/threads/{queued.json()['thread_id']}/runs/{queued.json()['run_id']}/join")
        most = gate.most_inside
        gate.open()
        tasks.cancel_scope.cancel()

    assert answers == [200] * 10
    assert (queued.status_code, joined.status_code) == (200, 200)
    assert most == 9


@pytest.mark.parametrize("path", ["/runs", "/runs/wait"])
async def test_a_principal_without_others_takes_every_slot(
    settings: Settings, make_key: MakeKey, gate: Gate, path: str
) -> None:
    async with _clients(settings, make_key, "alone", "alone") as [alone, _], anyio.create_task_group() as tasks:
        await _flood(alone, path, 13, tasks)
        await gate.entered(12)
        gate.open()
        tasks.cancel_scope.cancel()

    assert gate.most_inside == 12


async def test_without_a_reserve_one_principal_may_take_every_slot(
    settings: Settings, make_key: MakeKey, gate: Gate
) -> None:
    async with (
        _clients(settings, make_key, "bad", "good", slot_reserve=0) as [bad, _],
        anyio.create_task_group() as tasks,
    ):
        await _flood(bad, "/runs", 13, tasks)
        await gate.entered(12)
        gate.open()
        tasks.cancel_scope.cancel()


async def test_the_queue_is_served_round_robin_over_principals(
    settings: Settings, make_key: MakeKey, gate: Gate, database: str
) -> None:
    async with _clients(settings, make_key, "bad", "good", "other", run_slots=1) as [bad, good, other]:
        first = await bad.post("/runs", json=GATED)
        await gate.entered()
        made = [(await http.post("/runs", json=CHAIN)).json() for http in (bad, bad, bad, good, good, other)]
        gate.open()
        last = made[2]
        joined = await bad.get(f"/threads/{last['thread_id']}/runs/{last['run_id']}/join")
        assert (first.status_code, joined.status_code) == (200, 200)
        order = await _order_of_start(database)

    assert order == ["bad", "good", "other", "bad", "good", "bad", "bad"]


async def _order_of_start(database: str) -> list[str]:
    async with await psycopg.AsyncConnection.connect(database) as conn:
        cursor = await conn.execute("SELECT principal ->> 'identity' FROM runs ORDER BY started_at")
        return [row[0] for row in await cursor.fetchall()]


async def test_a_principal_that_was_held_back_gets_the_slot_that_its_own_run_gives_back(
    settings: Settings, make_key: MakeKey, gate: Gate
) -> None:
    """Nobody else wakes the worker then: it looks by itself only every five seconds."""
    async with _clients(settings, make_key, "bad", "good", run_slots=2) as [bad, _]:
        await bad.post("/runs", json=GATED)
        await gate.entered()
        runs = [(await bad.post("/runs", json=CHAIN)).json() for _ in range(3)]
        with anyio.fail_after(3):
            gate.open()
            for run in runs:
                await bad.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")


@asynccontextmanager
async def _stalled(database: str, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """While the block runs, statements on the table wait; with `EXCLUSIVE` only those that write."""
    async with await psycopg.AsyncConnection.connect(database) as conn:
        await conn.execute(f"LOCK TABLE {table} IN {mode} MODE")  # pyright: ignore[reportArgumentType]
        yield


async def test_searches_leave_connections_for_other_requests(
    settings: Settings, make_key: MakeKey, database: str
) -> None:
    """Ours: with 24 searches at once another caller's GET went from 9 ms to 5.2 s, because they had all connections."""
    async with (
        _clients(settings, make_key, "bad", "good", api_connections=4) as [bad, good],
        anyio.create_task_group() as tasks,
    ):
        thread_id = (await good.post("/threads", json={})).json()["thread_id"]
        async with _stalled(database, "crons"):
            for _ in range(24):
                tasks.start_soon(lambda: bad.post("/runs/crons/search", json={}))
            await _until_waiting(database, 1)
            with anyio.fail_after(3):
                read = await good.get(f"/threads/{thread_id}")
                found = await good.post("/threads/search", json={})
        tasks.cancel_scope.cancel()

    assert (read.status_code, found.status_code, len(found.json())) == (200, 200, 1)


async def test_openings_with_a_key_leave_connections_for_other_requests(
    settings: Settings, make_key: MakeKey, database: str
) -> None:
    """Issue: each has a transaction of its own, and one principal's had all connections."""
    async with (
        _clients(settings, make_key, "bad", "good", api_connections=4) as [bad, good],
        anyio.create_task_group() as tasks,
    ):
        thread_id = (await good.post("/threads", json={})).json()["thread_id"]

        async def open_run(number: int) -> None:
            await bad.post("/runs", json=CHAIN, headers={"idempotency-key": str(number)})

        async with _stalled(database, "runs", "EXCLUSIVE"):
            for number in range(24):
                tasks.start_soon(open_run, number)
            await _until_reserved(database, 24)
            with anyio.fail_after(3):
                read = await good.get(f"/threads/{thread_id}")
                made = await good.post("/threads", json={})
        tasks.cancel_scope.cancel()

    assert (read.status_code, made.status_code) == (200, 200)


async def _until_reserved(database: str, count: int) -> None:
    """Wait until so many requests have reserved their idempotency key."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        with anyio.fail_after(4):
            reserved = 0
            while reserved < count:
                row = await (await conn.execute("SELECT count(*) FROM idempotency_keys")).fetchone()
                reserved = row[0] if row else 0
                await anyio.sleep(0.02)


async def _until_waiting(database: str, count: int) -> None:
    """Wait until so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        with anyio.fail_after(5):
            while True:
                cursor = await conn.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                row = await cursor.fetchone()
                if row is not None and row[0] >= count:
                    return
                await anyio.sleep(0.02)


async def test_searches_without_authentication_leave_connections_too(settings: Settings, database: str) -> None:
    async with (
        serving(settings.model_copy(update={"api_connections": 4})) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
        anyio.create_task_group() as tasks,
    ):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        async with _stalled(database, "crons"):
            for _ in range(24):
                tasks.start_soon(lambda: http.post("/runs/crons/search", json={}))
            await _until_waiting(database, 2)
            with anyio.fail_after(3):
                read = await http.get(f"/threads/{thread_id}")
        tasks.cancel_scope.cancel()

    assert read.status_code == 200


async def test_a_client_that_does_not_read_a_large_answer_gives_its_place_back(settings: Settings) -> None:
    """With one place for large reads, and a client that leaves its answer in the socket."""
    chosen = settings.model_copy(update={"run_connections": 2, "write_timeout_s": 0.5})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        item = {"namespace": ["notes"], "key": "large", "value": {"text": "x" * 8_000_000}}
        assert (await http.put("/store/items", json=item)).status_code == 204
        stream = await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0)
        await stream.send(b"GET /store/items?namespace=notes&key=large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await stream.receive(1)
        answer = await http.get("/store/items", params={"namespace": "notes", "key": "large"})
        await stream.aclose()

    assert (answer.status_code, len(answer.content) > 8_000_000) == (200, True)
