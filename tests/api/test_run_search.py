"""Runs over all threads, and the processes that execute them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


RUN = {"assistant_id": "chain", "input": {"items": []}}


async def _run(http: httpx.AsyncClient, **changes: object) -> str:
    """The id of a run that has ended, on a thread of its own."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    answer = await http.post(f"/threads/{thread_id}/runs/wait", json=RUN | changes)
    return answer.headers["content-location"].rpartition("/")[2]


async def _ids(http: httpx.AsyncClient, **body: object) -> list[str]:
    answer = await http.post("/runs/search", json=body)
    assert answer.status_code == 200, answer.text
    return [run["run_id"] for run in answer.json()]


async def test_runs_of_all_threads_are_found_newest_first(http: httpx.AsyncClient) -> None:
    """Issue 17: over threads, with pages."""
    ids = [await _run(http) for _ in range(3)]
    first = await http.post("/runs/search", json={"limit": 2})
    rest = await http.post("/runs/search", json={"limit": 2, "offset": 2})

    assert [run["run_id"] for run in first.json() + rest.json()] == ids[::-1]
    assert first.headers["x-pagination-next"] == "2"
    assert "x-pagination-next" not in rest.headers


async def test_a_run_has_its_times(http: httpx.AsyncClient) -> None:
    """Issue 17: status, times, durations, wait, attempt and error."""
    await _run(http, metadata={"note": "x"})
    [run] = (await http.post("/runs/search", json={})).json()

    assert set(run) == {
        "run_id", "thread_id", "assistant_id", "graph_id", "status", "metadata", "multitask_strategy", "created_at",
        "updated_at", "started_at", "finished_at", "queue_wait_s", "duration_s", "attempt", "error",
    }  # fmt: skip
    assert (run["graph_id"], run["status"], run["attempt"], run["error"]) == ("chain", "success", 1, None)
    assert run["metadata"]["note"] == "x"
    assert run["created_at"] <= run["started_at"] <= run["finished_at"] <= run["updated_at"]
    assert 0 <= run["queue_wait_s"] < WAIT_S
    assert 0 < run["duration_s"] < WAIT_S


async def test_a_failed_run_has_its_error(http: httpx.AsyncClient) -> None:
    """Issue 17: the type and text of an error, as far as clients may see them."""
    await _run(http, assistant_id="failing")
    [run] = (await http.post("/runs/search", json={"status": "error"})).json()

    assert run["status"] == "error"
    assert set(run["error"]) >= {"error", "message"}


async def test_runs_are_narrowed(http: httpx.AsyncClient) -> None:
    """Issue 17: each filter finds its runs and no other."""
    chain, other = await _run(http, metadata={"note": "x"}), await _run(http, assistant_id="asking")
    made = (await http.post("/assistants", json={"graph_id": "chain"})).json()["assistant_id"]
    own = await _run(http, assistant_id=made)
    [about] = [run for run in (await http.post("/runs/search", json={})).json() if run["run_id"] == other]

    assert await _ids(http, graph_id="chain") == [own, chain]
    assert await _ids(http, assistant_id=made) == [own]
    assert await _ids(http, assistant_id="asking") == [other]
    assert await _ids(http, thread_id=about["thread_id"]) == [other]
    assert await _ids(http, metadata={"note": "x"}) == [chain]
    assert await _ids(http, status="success", metadata={"note": "y"}) == []
    assert await _ids(http, created_after=about["created_at"]) == [own]
    assert await _ids(http, created_before=about["created_at"]) == [chain]
    assert await _ids(http, created_after=(datetime.now(UTC) + timedelta(days=1)).isoformat()) == []
    assert (await http.post("/runs/search", json={"select": ["run_id"], "limit": 1})).json() == [{"run_id": own}]


@pytest.mark.parametrize(
    "body",
    [
        {"status": "done"},
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"thread_id": "x"},
        {"created_after": "2026-01-01T00:00:00"},
        {"created_after": "yesterday"},
        {"metadata": {"a": {str(n): n for n in range(101)}}},
        {"select": ["kwargs"]},
    ],
    ids=str,
)
async def test_an_invalid_search_is_refused(http: httpx.AsyncClient, body: object) -> None:
    """Ours: a filter that would be ignored is an error."""
    assert (await http.post("/runs/search", json=body)).status_code == 422


async def test_times_at_the_ends_of_the_calendar_find_the_right_runs(http: httpx.AsyncClient) -> None:
    """Ours: any time that can be written can be asked for."""
    run = await _run(http)
    ends = {"created_after": "0001-01-01T00:00:00+14:00", "created_before": "9999-12-31T23:59:59.999999-14:00"}

    assert await _ids(http, **ends) == [run]


async def test_running_and_waiting_runs_are_found_on_another_process(
    replicas: tuple[httpx.AsyncClient, httpx.AsyncClient], gate: Gate
) -> None:
    """Issue 17: what goes on now, seen from any process; a run that is not due yet has not waited."""
    here, there = replicas
    thread_id = (await here.post("/threads", json={})).json()["thread_id"]
    gated = {"assistant_id": "gated", "input": {"items": []}}
    first = (await here.post(f"/threads/{thread_id}/runs", json=gated)).json()["run_id"]
    second = (await here.post(f"/threads/{thread_id}/runs", json=gated)).json()["run_id"]
    later = (await here.post("/runs", json=RUN | {"after_seconds": 3600})).json()["run_id"]
    with anyio.fail_after(WAIT_S):
        while await _ids(there, status="running") != [first]:
            await anyio.sleep(0.05)
    pending = (await there.post("/runs/search", json={"status": "pending"})).json()
    gate.open()

    assert [run["run_id"] for run in pending] == [later, second]
    assert [run["duration_s"] for run in pending] == [None, None]
    assert pending[0]["queue_wait_s"] is None
    assert pending[1]["queue_wait_s"] > 0


async def test_runs_of_a_deleted_thread_are_gone(http: httpx.AsyncClient) -> None:
    """Ours: a search beside a delete finds whole runs or none."""
    await _run(http)
    [run] = (await http.post("/runs/search", json={})).json()
    await http.delete(f"/threads/{run['thread_id']}")

    assert await _ids(http) == []


async def test_processes_and_their_heartbeats_are_listed(settings: Settings, database: str) -> None:
    """Issue 17: id, begin, heartbeat, graphs, slots and runs of each process, on each process."""
    one, other = (settings.model_copy(update={"run_slots": slots}) for slots in (3, 5))
    async with (
        serving(one) as here,
        serving(other),
        httpx.AsyncClient(base_url=here, timeout=WAIT_S) as http,
    ):
        workers = (await http.get("/workers")).json()
        async with await psycopg.AsyncConnection.connect(database) as conn:
            rows = await (await conn.execute("SELECT worker_id::text FROM workers")).fetchall()

    assert sorted(worker["worker_id"] for worker in workers) == sorted(row[0] for row in rows)
    assert sorted(worker["run_slots"] for worker in workers) == [3, 5]
    for worker in workers:
        assert "chain" in worker["graph_ids"]
        assert worker["running"] == 0
        assert 0 <= worker["heartbeat_age_s"] < settings.lease_s
        assert worker["started_at"] <= worker["heartbeat_at"]


async def test_runs_of_a_process_are_counted(http: httpx.AsyncClient, gate: Gate) -> None:
    """Issue 17: the work of a process."""
    await http.post(f"/threads/{uuid4()}/runs", json=RUN | {"assistant_id": "gated", "if_not_exists": "create"})
    with anyio.fail_after(WAIT_S):
        while [worker["running"] for worker in (await http.get("/workers")).json()] != [1]:
            await anyio.sleep(0.05)
    gate.open()
