"""Leftovers: threads of stateless runs and idempotency keys go when their time is over."""

from typing import Any

import anyio
import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from threadkeep.duties import cleanup
from threadkeep.settings import Settings

RUN: dict[str, Any] = {"assistant_id": "chain", "input": {"items": []}}


async def execute(uri: str, statement: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        cursor = await conn.execute(statement)
        return await cursor.fetchall() if cursor.description else []


async def test_thread_of_a_stateless_run_goes_soon_after_it_unless_somebody_follows_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: within 15 seconds. A client that still reads keeps it."""
    assert cleanup.CLEANUP_S + cleanup.TEMPORARY_S < 15
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    uri = str(settings.database_uri)
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        run, other = [(await http.post("/runs", json=RUN)).json() for _ in "ab"]
        path, gone = f"/threads/{run['thread_id']}", f"/threads/{other['thread_id']}"
        for one in (run, other):
            await http.get(f"/threads/{one['thread_id']}/runs/{one['run_id']}/join")
        async with http.stream("GET", f"{path}/stream"):
            await execute(uri, "UPDATE threads SET ephemeral_until = now() + interval '0.5 s'")
            with anyio.fail_after(WAIT_S):
                while (await http.get(gone)).status_code != 404:
                    await anyio.sleep(0.02)
            assert (await http.get(path)).status_code == 200
        await execute(uri, "UPDATE threads SET ephemeral_until = now()")
        with anyio.fail_after(WAIT_S):
            while (await http.get(path)).status_code != 404:
                await anyio.sleep(0.02)


async def test_what_is_over_is_deleted_and_the_rest_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a temporary thread goes with its run, its events and its checkpoints; a key with nothing."""
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    uri = str(settings.database_uri)
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        made = [(await http.post("/runs", json=RUN, headers={"idempotency-key": name})).json() for name in "ab"]
        for one in made:
            await http.get(f"/threads/{one['thread_id']}/runs/{one['run_id']}/join")
        gone, left = made[0]["thread_id"], made[1]["thread_id"]
        await execute(uri, f"UPDATE threads SET ephemeral_until = now() WHERE thread_id = '{gone}'")
        await execute(uri, "UPDATE idempotency_keys SET expires_at = now() WHERE key = 'a'")
        with anyio.fail_after(WAIT_S):
            while (await http.get(f"/threads/{gone}")).status_code != 404:
                await anyio.sleep(0.02)
            while await execute(uri, "SELECT 1 FROM idempotency_keys WHERE key = 'a'"):
                await anyio.sleep(0.02)

    assert await execute(uri, "SELECT DISTINCT thread_id::text FROM checkpoints") == [(left,)]
    assert await execute(uri, "SELECT thread_id::text FROM runs") == [(left,)]
    assert await execute(uri, "SELECT key FROM idempotency_keys") == [("b",)]
