"""Tasks: calls that take long, asked for in another process and after a crash."""

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import WAIT_S, serving
from faults.servers import Place, Quick, Replica, free_port, replicas
from graphs import Gate
from mcp_client import post
from mcp_graphs import MCP_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
FORMS: dict[str, Any] = {**TASKS, "elicitation": {}}


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """A server whose calls become tasks at once."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in MCP_GRAPHS.items()}
    async with serving(module_settings.model_copy(update={"mcp_task_after_s": 0}), loaded) as url:
        yield url


@pytest.fixture(scope="module")
async def elsewhere(module_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second server on the same database, which is less quick to make tasks."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in MCP_GRAPHS.items()}
    async with (
        serving(module_settings.model_copy(update={"mcp_task_after_s": 30}), loaded) as other,
        httpx.AsyncClient(base_url=other, timeout=WAIT_S * 2) as http,
    ):
        yield http


async def begin(http: httpx.AsyncClient, tool: str, capabilities: dict[str, Any] = TASKS) -> dict[str, Any]:
    """A call that becomes a task."""
    params = {"name": tool, "arguments": {"name": "x"}}
    result = (await post(http, "tools/call", params, capabilities=capabilities)).json()["result"]
    assert result["resultType"] == "task", result
    return result


async def get(http: httpx.AsyncClient, task_id: str, capabilities: dict[str, Any] = TASKS) -> dict[str, Any]:
    """The state of a task."""
    answer = await post(http, "tasks/get", {"taskId": task_id}, capabilities=capabilities)
    return answer.json()["result"]


async def settled(http: httpx.AsyncClient, task_id: str, capabilities: dict[str, Any] = TASKS) -> dict[str, Any]:
    """A task when it no longer works."""
    with anyio.fail_after(WAIT_S * 6):
        while (task := await get(http, task_id, capabilities))["status"] == "working":
            await anyio.sleep(0.02)
    return task


async def update(http: httpx.AsyncClient, task_id: str, **responses: Any) -> None:
    """Answer questions of a task."""
    params = {"taskId": task_id, "inputResponses": responses}
    answer = (await post(http, "tasks/update", params, capabilities=FORMS)).json()
    assert {key: value for key, value in answer["result"].items() if key != "_meta"} == {"resultType": "complete"}


async def runs_of(http: httpx.AsyncClient, task_id: str) -> list[dict[str, Any]]:
    """The runs of the thread of a task, the oldest first."""
    threads = (await http.post("/threads/search", json={"limit": 100})).json()
    for thread in threads:
        runs = (await http.get(f"/threads/{thread['thread_id']}/runs")).json()
        if any(run["run_id"] == task_id for run in runs):
            return sorted(runs, key=lambda run: run["created_at"])
    return []


def accept(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


async def test_a_long_call_is_a_task_which_every_process_tells(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, gate: Gate
) -> None:
    """Contract, Tasks: `taskId`, `ttlMs`, `pollIntervalMs`, RFC 3339; working, then completed with the tool's result."""
    task = await begin(http, "wait")
    await gate.entered()
    working = [await get(each, task["taskId"]) for each in (http, elsewhere)]
    gate.open()
    ended = [await settled(each, task["taskId"]) for each in (elsewhere, http)]

    assert (task["status"], task["ttlMs"], task["pollIntervalMs"]) == ("working", None, 1000)
    assert task["createdAt"].endswith("Z")
    assert datetime.fromisoformat(task["lastUpdatedAt"])
    assert [each["status"] for each in working] == ["working"] * 2
    assert [(each["status"], each["resultType"]) for each in ended] == [("completed", "complete")] * 2
    assert [each["result"]["structuredContent"]["calls"] for each in ended] == [2, 2]
    assert ended[0]["result"]["isError"] is False


async def test_the_ttl_of_a_task_is_that_of_its_thread(http: httpx.AsyncClient) -> None:
    """Contract, Tasks: `ttlMs`: null or the thread's, told from the creation of the task."""
    made = (await http.post("/threads", json={"ttl": 60})).json()
    params = {"name": "count", "arguments": {"name": "x", "thread_id": made["thread_id"]}}
    task = (await post(http, "tools/call", params, capabilities=TASKS)).json()["result"]
    ended = await settled(http, task["taskId"])

    assert 3_500_000 < task["ttlMs"] <= 3_600_000
    assert 3_500_000 < ended["ttlMs"] <= 3_660_000


async def test_a_quick_call_is_no_task(elsewhere: httpx.AsyncClient) -> None:
    """Contract, Tasks: quick calls answer at once; a question before that is `input_required`."""
    params = {"name": "count", "arguments": {"name": "x"}}
    result = (await post(elsewhere, "tools/call", params, capabilities=TASKS)).json()["result"]
    asked = (await post(elsewhere, "tools/call", params | {"name": "name"}, capabilities=FORMS)).json()["result"]

    assert (result["resultType"], result["structuredContent"]["calls"]) == ("complete", 1)
    assert asked["resultType"] == "input_required"


async def test_a_question_of_a_task_is_answered(http: httpx.AsyncClient, elsewhere: httpx.AsyncClient) -> None:
    """Contract, Tasks: `inputRequests`; an answer in another process; keys are used once; unknown ones change nothing."""
    task_id = (await begin(http, "twice", FORMS))["taskId"]
    first = await settled(elsewhere, task_id, FORMS)
    (key,) = first["inputRequests"]
    await update(elsewhere, task_id, none=accept(answer="x"), **{key: accept(wrong="x")})
    assert (await get(http, task_id, FORMS))["inputRequests"] == first["inputRequests"]
    await update(elsewhere, task_id, **{key: accept(answer="one")})
    second = await settled(http, task_id, FORMS)
    (next_key,) = second["inputRequests"]
    await update(http, task_id, **{key: accept(answer="again")})
    assert (await get(http, task_id, FORMS))["inputRequests"] == second["inputRequests"]
    await update(http, task_id, **{next_key: accept(answer="two")})
    ended = await settled(elsewhere, task_id, FORMS)

    assert first["inputRequests"][key]["params"]["message"] == "first?"
    assert second["inputRequests"][next_key]["params"]["message"] == "second?"
    assert key != next_key
    assert ended["result"]["structuredContent"]["answers"] == ["one", "two"]


async def test_a_task_waits_for_every_answer(http: httpx.AsyncClient) -> None:
    """Contract, Tasks: until every open key is answered it stays `input_required` with the keys that are left, at once."""
    task_id = (await begin(http, "both", FORMS))["taskId"]
    asked = await settled(http, task_id, FORMS)
    left, right = sorted(asked["inputRequests"], key=lambda key: asked["inputRequests"][key]["params"]["message"])
    await update(http, task_id, **{left: accept(answer="a")})
    seen = {tuple((await get(http, task_id, FORMS))["inputRequests"]) for _ in range(5)}
    await update(http, task_id, **{right: accept(answer="b")})
    ended = await settled(http, task_id, FORMS)

    assert seen == {(right,)}
    assert (ended["status"], ended["result"]["structuredContent"]["name"]) == ("completed", "left a")


async def test_a_client_without_forms_is_told_how_to_answer(http: httpx.AsyncClient) -> None:
    """Contract, Questions: never `inputRequests` to a client that can't be asked."""
    ended = await settled(http, (await begin(http, "name"))["taskId"])

    assert (ended["status"], "inputRequests" in ended) == ("completed", False)
    assert "What is your name?" in ended["result"]["content"][0]["text"]


async def test_a_run_that_the_server_lost_fails_its_task(http: httpx.AsyncClient, module_settings: Settings) -> None:
    """Contract, Tasks: `failed` with an error only where the server lost the run."""
    task_id = (await begin(http, "count"))["taskId"]
    await settled(http, task_id)
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri), autocommit=True) as conn:
        await conn.execute(
            "UPDATE runs SET status = 'error', error = %(error)s WHERE run_id = %(run_id)s",
            {"run_id": task_id, "error": Jsonb({"error": "WorkerDied", "message": "the process died each time"})},
        )
    ended = await get(http, task_id)

    assert (ended["status"], "result" in ended) == ("failed", False)
    assert ended["error"] == {"code": -32603, "message": "WorkerDied: the process died each time"}


async def test_a_state_that_one_process_sealed_is_opened_by_another(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient
) -> None:
    """Contract, Questions: the key is in Postgres, and all replicas share it."""
    params: dict[str, Any] = {"name": "name", "arguments": {"name": "x"}}
    forms = {"elicitation": {}}
    asked = (await post(elsewhere, "tools/call", params, capabilities=forms)).json()["result"]
    (key,) = asked["inputRequests"]
    answers = {"requestState": asked["requestState"], "inputResponses": {key: accept(answer="Ada")}}
    result = (await post(http, "tools/call", params | answers, capabilities=forms)).json()["result"]

    assert result["structuredContent"]["answers"] == ["Ada"]


async def test_a_graph_that_raises_completes_its_task(http: httpx.AsyncClient) -> None:
    """Contract, Tasks: completed with `isError`."""
    ended = await settled(http, (await begin(http, "fail"))["taskId"])

    assert (ended["status"], ended["result"]["isError"]) == ("completed", True)
    assert ended["result"]["content"][0]["text"] == "ValueError: the node failed"


async def test_a_task_is_cancelled(http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, gate: Gate) -> None:
    """Contract, Tasks: `tasks/cancel` while it works, while it waits, and when it has ended."""
    working = (await begin(http, "wait"))["taskId"]
    await gate.entered()
    waiting = (await begin(http, "name", FORMS))["taskId"]
    (key,) = (await settled(http, waiting, FORMS))["inputRequests"]
    done = (await begin(http, "count"))["taskId"]
    await settled(http, done)
    for task_id in (working, waiting, done):
        answer = await post(elsewhere, "tasks/cancel", {"taskId": task_id}, capabilities=TASKS)
        assert answer.json()["result"]["resultType"] == "complete"
    await update(http, waiting, **{key: accept(answer="too late")})
    states = [(await settled(elsewhere, task_id, FORMS))["status"] for task_id in (working, waiting, done)]

    assert states == ["cancelled", "cancelled", "completed"]


async def test_a_declined_question_cancels_its_task(http: httpx.AsyncClient) -> None:
    """Contract, Questions: nothing is resumed, and the thread waits on."""
    task_id = (await begin(http, "name", FORMS))["taskId"]
    (key,) = (await settled(http, task_id, FORMS))["inputRequests"]
    await update(http, task_id, **{key: {"action": "decline"}})

    assert (await get(http, task_id, FORMS))["status"] == "cancelled"


async def test_a_question_has_one_answer_by_whichever_method(http: httpx.AsyncClient) -> None:
    """Ours: answers by `tasks/update` and by another call at once make one run."""
    for _ in range(5):
        task_id = (await begin(http, "name", FORMS))["taskId"]
        (key,) = (await settled(http, task_id, FORMS))["inputRequests"]
        thread_id = (await runs_of(http, task_id))[0]["thread_id"]
        params = {"name": "name", "arguments": {"name": "x", "thread_id": thread_id, "resume": "by a call"}}
        async with anyio.create_task_group() as group:
            group.start_soon(partial(update, http, task_id, **{key: accept(answer="by an update")}))
            group.start_soon(post, http, "tools/call", params)
        ended = await settled(http, task_id, FORMS)

        assert len(await runs_of(http, task_id)) == 2
        assert ended["status"] == "completed"


async def test_a_question_is_answered_or_its_task_is_cancelled(
    http: httpx.AsyncClient, module_settings: Settings
) -> None:
    """Ours: an answer and a cancel at once. No run answers a question that was cancelled."""
    for _ in range(5):
        task_id = (await begin(http, "name", FORMS))["taskId"]
        (key,) = (await settled(http, task_id, FORMS))["inputRequests"]
        async with anyio.create_task_group() as group:
            group.start_soon(partial(post, http, "tasks/cancel", {"taskId": task_id}, capabilities=TASKS))
            group.start_soon(partial(update, http, task_id, **{key: accept(answer="x")}))
        await settled(http, task_id, FORMS)
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri), autocommit=True) as conn:
        cursor = await conn.execute(
            """
            SELECT count(*)
              FROM runs AS asking JOIN runs AS answer USING (thread_id)
             WHERE asking.cancel_reason = 'the task was canceled while it waited'
               AND answer.queue_position > asking.queue_position
            """
        )
        assert await cursor.fetchone() == (0,)


async def test_tasks_are_for_clients_that_know_them(http: httpx.AsyncClient) -> None:
    """Contract, Tasks: -32021 with an object; -32020 for another `Mcp-Name`; no `tasks/list`, no `tasks/result`."""
    task_id = (await begin(http, "count"))["taskId"]
    plain = await post(http, "tools/call", {"name": "count", "arguments": {"name": "x"}})
    undeclared = await post(http, "tasks/get", {"taskId": task_id})
    misnamed = await post(http, "tasks/get", {"taskId": task_id}, headers={"mcp-name": "x"}, capabilities=TASKS)
    others = [await post(http, method, capabilities=TASKS) for method in ("tasks/list", "tasks/result")]

    assert plain.json()["result"]["resultType"] == "complete"
    assert undeclared.status_code == 400
    assert undeclared.json()["error"]["code"] == -32021
    assert undeclared.json()["error"]["data"] == {"requiredCapabilities": TASKS}
    assert (misnamed.status_code, misnamed.json()["error"]["code"]) == (400, -32020)
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in others} == {(404, -32601)}


async def test_a_task_outlives_its_process(place: Place) -> None:
    """Contract, Tasks: durable before it is answered. The process is killed, and another one goes on."""
    settings = Quick().settings | {"THREADKEEP_MCP_TASK_AFTER": "0.1"}
    async with replicas(place, 1, settings) as (first,), _client(first) as http:
        params = {"name": "stepping", "arguments": {"marker": "m", "pause_s": 0.3}}
        task = (await post(http, "tools/call", params, capabilities=TASKS)).json()["result"]
        second = Replica(place, settings, free_port())
        try:
            await second.start()
            await first.kill()
            async with _client(second) as elsewhere:
                ended = await settled(elsewhere, task["taskId"])
        finally:
            await second.kill()

    assert (task["resultType"], ended["status"]) == ("task", "completed")
    assert ended["result"]["isError"] is False


def _client(replica: Replica) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=replica.url, timeout=60)


@pytest.fixture
def place(database: str, tmp_path: Path) -> Place:
    """Where processes of their own work."""
    return Place(tmp_path, database)
