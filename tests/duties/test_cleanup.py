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


async def test_the_thread_of_a_stateless_run_is_deleted_soon_unless_a_client_follows_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: within 15 seconds. A client that still reads keeps it."""
    assert cleanup.CLEANUP_S + settings.keep_stateless_s < 15
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


@pytest.mark.parametrize("ending", ["wait", "stream", "background"])
async def test_thread_of_a_stateless_run_stays_for_the_age_that_is_set(settings: Settings, ending: str) -> None:
    """Issue: the age was a constant. A stateless run that can be resumed has a row, as one in the background has."""
    chosen = settings.model_copy(update={"keep_stateless_s": 3600.0})
    path, body = ("/runs", RUN) if ending == "background" else (f"/runs/{ending}", RUN | {"stream_resumable": True})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        answer = await http.post(path, json=body)
        place = answer.headers["content-location"].removesuffix("/stream").removesuffix("/join")
        await http.get(f"{place}/join")
        left = await execute(
            str(settings.database_uri), "SELECT extract(epoch FROM ephemeral_until - now())::float FROM threads"
        )

    [(seconds,)] = left
    assert 3500 < seconds <= 3600


async def test_expired_rows_are_deleted_and_others_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a temporary thread is deleted with its run, events and checkpoints. A key is deleted alone."""
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


async def test_events_and_webhooks_go_at_their_age(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: they stayed for ever. Two processes delete at once. A stream of what is gone is told of the gap."""
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    uri = str(settings.database_uri)
    async with serving(settings) as url, serving(settings), httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        path = f"/threads/{thread}/runs"
        old, new = [(await http.post(path, json=RUN)).json()["run_id"] for _ in "ab"]
        for run_id in (old, new):
            await http.get(f"{path}/{run_id}/join")
        await execute(uri, f"UPDATE runs SET finished_at = now() - interval '25 h' WHERE run_id = '{old}'")
        await execute(uri, WEBHOOKS)
        with anyio.fail_after(WAIT_S):
            while await execute(uri, f"SELECT 1 FROM run_events WHERE run_id = '{old}'"):
                await anyio.sleep(0.02)
            while len(await execute(uri, "SELECT 1 FROM webhook_deliveries")) > 1:
                await anyio.sleep(0.02)
        streams = [
            (await http.get(f"{path}/{run_id}/stream", headers={"last-event-id": "0"})).text for run_id in (old, new)
        ]
        from_now_on = (await http.get(f"{path}/{old}/stream")).text
        answer = await http.get(f"{path}/{old}/join")

    assert streams[0].startswith(": gap until ")
    assert "gap" not in streams[1] + from_now_on
    assert "event: values" in streams[1]
    assert answer.json()["items"], "the run and its answer stay"
    assert len(await execute(uri, "SELECT 1 FROM runs")) == 2


WEBHOOKS = """
    INSERT INTO webhook_deliveries (run_id, thread_id, project_id, url, body, send_after, created_at)
    SELECT gen_random_uuid(), gen_random_uuid(), 'threadkeep', 'https://example.com', '{}', now() + interval '1 h',
           now() - age
      FROM unnest(ARRAY[interval '25 h', interval '23 h']) AS age
"""


async def test_idempotency_key_has_the_age_that_is_set(settings: Settings) -> None:
    chosen = settings.model_copy(update={"idempotency_ttl_s": 3600.0})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        await http.post("/runs", json=RUN, headers={"idempotency-key": "k"})
        [(seconds,)] = await execute(
            str(settings.database_uri), "SELECT extract(epoch FROM expires_at - now())::float FROM idempotency_keys"
        )

    assert 3500 < seconds <= 3600


async def test_nothing_is_deleted_by_age_if_the_age_is_zero(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.05)
    uri = str(settings.database_uri)
    chosen = settings.model_copy(update={"keep_events_s": 0, "keep_webhooks_s": 0})
    async with serving(chosen) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        run = (await http.post(f"/threads/{thread}/runs", json=RUN)).json()["run_id"]
        await http.get(f"/threads/{thread}/runs/{run}/join")
        await execute(uri, "UPDATE runs SET finished_at = now() - interval '1 y'")
        await execute(uri, WEBHOOKS)
        await execute(uri, "INSERT INTO idempotency_keys VALUES " + KEY)
        with anyio.fail_after(WAIT_S):  # a round has gone by
            while await execute(uri, "SELECT 1 FROM idempotency_keys"):
                await anyio.sleep(0.02)

    assert await execute(uri, "SELECT 1 FROM run_events")
    assert len(await execute(uri, "SELECT 1 FROM webhook_deliveries")) == 2


KEY = """
    ('threadkeep', '', 'k', '', '{}', '{}', true, gen_random_uuid(), gen_random_uuid(), now(), now() - interval '1 s')
"""
