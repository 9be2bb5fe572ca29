"""Metadata, config and context have a limit in bytes, whichever way they come, and also as the result of a merge."""

from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


LARGE = {"note": "x" * 66_000}
HALF = {"note": "x" * 40_000}
OTHER_HALF = {"more": "x" * 40_000}


async def _thread(http: httpx.AsyncClient, metadata: dict[str, Any]) -> str:
    answer = await http.post("/threads", json={"metadata": metadata})
    assert answer.status_code == 200
    return answer.json()["thread_id"]


async def _assistant(http: httpx.AsyncClient, metadata: dict[str, Any]) -> str:
    answer = await http.post("/assistants", json={"graph_id": "chain", "metadata": metadata})
    assert answer.status_code == 200
    return answer.json()["assistant_id"]


def _is_refused(answer: httpx.Response, name: str) -> bool:
    problem = {"detail": f"{name} would have more than 65,536 bytes", "code": "too-large"}
    return answer.status_code == 413 and answer.json() == problem


async def test_a_thread_with_large_metadata_is_refused(http: httpx.AsyncClient) -> None:
    assert _is_refused(await http.post("/threads", json={"metadata": LARGE}), "metadata")


async def test_metadata_of_a_thread_does_not_grow_by_merging(http: httpx.AsyncClient) -> None:
    """Ours: it grew to 114 MB by one PATCH after the other, and a run on the thread took 39 s."""
    thread_id = await _thread(http, HALF)
    path = f"/threads/{thread_id}"

    assert _is_refused(await http.patch(path, json={"metadata": LARGE}), "metadata")
    assert _is_refused(await http.patch(path, json={"metadata": OTHER_HALF}), "metadata")
    assert (await http.patch(path, json={"metadata": {"note": "y" * 40_000}})).status_code == 200
    assert (await http.patch(path, json={"ttl": 10})).status_code == 200
    assert (await http.get(path)).json()["metadata"] == {"note": "y" * 40_000}
    missing = await http.patch("/threads/00000000-0000-0000-0000-000000000000", json={"metadata": HALF})
    assert missing.status_code == 404


@pytest.mark.parametrize("field", ["metadata", "config", "context"])
async def test_an_assistant_with_a_large_field_is_refused(http: httpx.AsyncClient, field: str) -> None:
    large = {"configurable": LARGE} if field == "config" else LARGE
    assistant_id = await _assistant(http, {})

    made = await http.post("/assistants", json={"graph_id": "chain", field: large})
    changed = await http.patch(f"/assistants/{assistant_id}", json={field: large})

    assert (made.status_code, changed.status_code) == (413, 413)


async def test_metadata_of_an_assistant_do_not_grow_by_merging(http: httpx.AsyncClient) -> None:
    assistant_id = await _assistant(http, HALF)

    assert _is_refused(await http.patch(f"/assistants/{assistant_id}", json={"metadata": OTHER_HALF}), "metadata")
    assert (await http.get(f"/assistants/{assistant_id}")).json()["version"] == 1
    missing = await http.patch("/assistants/00000000-0000-0000-0000-000000000000", json={"metadata": HALF})
    assert missing.status_code == 404


async def test_an_assistant_above_a_lowered_limit_can_be_renamed(
    http: httpx.AsyncClient, module_settings: Settings
) -> None:
    """Ours: the operator has lowered the limit. A change of another field was refused for metadata that it did not send."""
    assistant_id = await _assistant(http, {})
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri)) as conn:
        await conn.execute("UPDATE assistants SET metadata = %s WHERE assistant_id = %s", [Jsonb(LARGE), assistant_id])

    renamed = await http.patch(f"/assistants/{assistant_id}", json={"name": "renamed"})

    assert (renamed.status_code, renamed.json().get("name")) == (200, "renamed")
    assert _is_refused(await http.patch(f"/assistants/{assistant_id}", json={"metadata": {"a": 1}}), "metadata")


@pytest.mark.parametrize("field", ["metadata", "config", "context"])
async def test_a_cron_with_a_large_field_is_refused(http: httpx.AsyncClient, field: str) -> None:
    cron = {"assistant_id": "chain", "schedule": "0 0 1 1 *"}
    large = {"tags": ["x" * 66_000]} if field == "config" else LARGE
    made = (await http.post("/runs/crons", json=cron | {"metadata": HALF})).json()

    assert _is_refused(await http.post("/runs/crons", json=cron | {field: large}), field)
    assert _is_refused(await http.patch(f"/runs/crons/{made['cron_id']}", json={field: large}), field)
    grown = await http.patch(f"/runs/crons/{made['cron_id']}", json={"metadata": OTHER_HALF})
    assert _is_refused(grown, "metadata")


def _large(field: str) -> dict[str, Any]:
    return {"config": {"configurable": LARGE}} if field == "config" else {field: LARGE}


@pytest.mark.parametrize("field", ["metadata", "config", "context"])
@pytest.mark.parametrize("path", ["/runs", "/runs/wait", "/runs/stream", "/runs/batch"])
async def test_a_run_with_a_large_field_is_refused(http: httpx.AsyncClient, path: str, field: str) -> None:
    run = {"assistant_id": "chain", "input": {"items": []}, **_large(field)}
    thread_id = await _thread(http, {})

    assert _is_refused(await http.post(path, json=[run] if path == "/runs/batch" else run), field)
    if path != "/runs/batch":
        assert _is_refused(await http.post(f"/threads/{thread_id}{path}", json=run), field)


async def test_a_large_input_is_no_large_field(http: httpx.AsyncClient) -> None:
    run = {"assistant_id": "chain", "input": {"items": ["x" * 200_000]}, "metadata": HALF}

    assert (await http.post("/runs/wait", json=run)).status_code == 200
