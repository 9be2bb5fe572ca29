"""Limits: graphs that run at once, requests that wait, and requests that are refused with `Retry-After`."""

import anyio
import httpx

from conftest import serving
from graphs import GRAPHS, Gate
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

RUN = {"assistant_id": "gated", "input": {"items": []}}


async def _status(http: httpx.AsyncClient, found: list[httpx.Response]) -> None:
    found.append(await http.post("/runs/wait", json=RUN))


async def test_no_more_graphs_run_than_there_are_slots(settings: Settings, gate: Gate) -> None:
    """Ours: the capacity limiter holds exactly while a graph runs."""
    few = settings.model_copy(update={"run_slots": 3})
    found: list[httpx.Response] = []
    async with serving(few) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(_status, http, found)
            await gate.entered(3)
            with anyio.fail_after(5):
                while (await http.get("/info")).json()["load"] != {"running": 3, "waiting": 7}:
                    await anyio.sleep(0.01)
            gate.open()
        load = (await http.get("/info")).json()["load"]

    assert [answer.status_code for answer in found] == [200] * 10
    assert gate.most_inside == 3
    assert load == {"running": 0, "waiting": 0}


async def test_requests_beyond_the_queue_limit_are_refused_at_once_with_retry_after(
    settings: Settings, gate: Gate
) -> None:
    """Ours: the queue is bounded. Beyond it the answer is 503 with `Retry-After`, and other requests are served."""
    short = settings.model_copy(update={"run_slots": 1, "max_waiting": 2})
    found: list[httpx.Response] = []
    async with (
        serving(short) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(20):
            tasks.start_soon(_status, http, found)
        with anyio.fail_after(5):
            while len(found) < 17:
                await anyio.sleep(0.01)
        refused = list(found)
        assert (await http.get("/livez")).status_code == 200
        assert (await http.post("/threads", json={})).status_code == 200
        gate.open()
        with anyio.fail_after(5):
            while len(found) < 20:
                await anyio.sleep(0.01)

    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert refused[0].json()["code"] == "overloaded"
    assert sorted(answer.status_code for answer in found) == [200] * 3 + [503] * 17


async def test_a_request_that_waits_too_long_is_refused_with_retry_after(settings: Settings, gate: Gate) -> None:
    """Ours: the line is bounded in time too."""
    hasty = settings.model_copy(update={"run_slots": 1, "queue_timeout_s": 0.2})
    found: list[httpx.Response] = []
    async with (
        serving(hasty) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_status, http, found)
        await gate.entered()
        refused = await http.post("/runs/wait", json=RUN)
        gate.open()
        with anyio.fail_after(5):
            while not found:
                await anyio.sleep(0.01)

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert found[0].status_code == 200


async def test_run_over_its_time_is_stopped(settings: Settings, gate: Gate) -> None:
    """Ours: the waiting client gets the status `timeout`, and the slot is released."""
    hasty = settings.model_copy(update={"run_timeout_s": 0.2})
    async with serving(hasty) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        answer = await http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
        (run,) = (await http.get(f"/threads/{thread_id}/runs")).json()
        thread = (await http.get(f"/threads/{thread_id}")).json()
        load = (await http.get("/info")).json()["load"]

    assert answer.json()["__error__"]["error"] == "TimeoutError"
    assert (run["status"], thread["status"], load["running"]) == ("timeout", "error", 0)
    assert gate.inside == 0


async def test_query_over_its_time_is_stopped(settings: Settings, gate: Gate) -> None:
    """Ours, and the original test's: 504 `{"error": "Request timeout"}`, the run stopped, the slot free."""
    hasty = settings.model_copy(update={"query_timeout_s": 0.3})

    graphs = {"agent": as_loaded_graph("agent", GRAPHS["gated"], where="tests")}
    async with serving(hasty, graphs) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        answer = await http.post("/query", json={"query": "hello"})
        thread_id = answer.json()["thread_id"]
        (run,) = (await http.get(f"/threads/{thread_id}/runs")).json()
        with anyio.fail_after(5):
            while (await http.get("/info")).json()["load"]["running"]:
                await anyio.sleep(0.01)
            while run["status"] == "running":
                (run,) = (await http.get(f"/threads/{thread_id}/runs")).json()

    assert answer.status_code == 504
    assert answer.json()["error"] == "Request timeout"
    assert run["status"] == "interrupted"
