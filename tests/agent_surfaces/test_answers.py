"""A question that several surfaces answer, or that one of them cancels."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from a2a_api.conftest import said
from agui.conftest import LOADED
from agui.pages import Page, text
from conftest import WAIT_S, serving
from mcp_client import post
from mcp_graphs import MCP_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.runs.idempotency import IdempotencyKeys, KeyedResult
from threadkeep.settings import Settings

TASKS: dict[str, Any] = {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}


@pytest.fixture(scope="module")
async def http(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose calls of MCP become tasks at once."""
    both = as_loaded_graph("both", MCP_GRAPHS["both"], where="tests")
    settings = module_settings.model_copy(update={"mcp_task_after_s": 0})
    async with (
        serving(settings, {**LOADED, "both": both}) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http,
    ):
        yield http


async def a2a(http: httpx.AsyncClient, method: str, params: Any) -> Any:
    """The answer of the agent `ask` to a method."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return (await http.post("/a2a/ask", json=body)).json()


async def mcp(http: httpx.AsyncClient, method: str, params: Any) -> Any:
    """The result of a method for a client with forms and tasks."""
    return (await post(http, method, params, capabilities=TASKS)).json()["result"]


async def settled(http: httpx.AsyncClient, task_id: str) -> Any:
    """The task of MCP when it does not work any more."""
    with anyio.fail_after(WAIT_S):
        while (task := await mcp(http, "tasks/get", {"taskId": task_id}))["status"] == "working":
            await anyio.sleep(0.01)
    return task


async def begun(http: httpx.AsyncClient, tool: str) -> tuple[str, str, list[str]]:
    """A task of MCP that asks, its thread, and the keys of its questions."""
    sent = {"name": "x"} if tool == "both" else {"messages": "x"}
    task_id = (await mcp(http, "tools/call", {"name": tool, "arguments": sent}))["taskId"]
    keys = list((await settled(http, task_id))["inputRequests"])
    (thread,) = (await http.post("/threads/search", json={"limit": 1})).json()
    return task_id, thread["thread_id"], keys


async def resumed(http: httpx.AsyncClient, thread_id: str) -> list[dict[str, Any]]:
    """The events of AG-UI after an answer to the question of a thread."""
    interrupts = (await http.get(f"/threads/{thread_id}")).json()["interrupts"]
    (interrupt_id,) = [each["id"] for several in interrupts.values() for each in several]
    resume = [{"interruptId": interrupt_id, "status": "resolved", "payload": "blue"}]
    return await Page(http, "ask", thread_id=thread_id).run(resume=resume)


async def test_the_question_of_a_cancelled_task_stays_open_for_other_surfaces(http: httpx.AsyncClient) -> None:
    """Contract, A2A and Tasks: the task takes no answer, and the thread waits on."""
    asked = (await a2a(http, "SendMessage", said()))["result"]["task"]
    canceled = (await a2a(http, "CancelTask", {"id": asked["id"]}))["result"]
    told = await resumed(http, asked["contextId"])
    task_id, thread_id, _ = await begun(http, "ask")
    await mcp(http, "tasks/cancel", {"taskId": task_id})
    answered = await resumed(http, thread_id)

    assert text(told) == text(answered) == "You chose 'blue'.|"
    assert (await a2a(http, "GetTask", {"id": asked["id"]}))["result"]["status"] == canceled["status"]
    assert (await mcp(http, "tasks/get", {"taskId": task_id}))["status"] == "cancelled"


async def test_an_answer_that_saw_a_task_before_its_cancel_is_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract, A2A: a canceled task takes no answer, also not one that is on its way."""
    asked = (await a2a(http, "SendMessage", said()))["result"]["task"]
    once, has_looked, is_canceled = IdempotencyKeys.once, anyio.Event(), anyio.Event()
    answers: list[Any] = []

    @asynccontextmanager
    async def held(self: IdempotencyKeys, *arguments: Any) -> AsyncIterator[KeyedResult]:
        has_looked.set()
        await is_canceled.wait()
        async with once(self, *arguments) as result:
            yield result

    async def answer() -> None:
        answers.append(await a2a(http, "SendMessage", said("this", taskId=asked["id"])))

    monkeypatch.setattr(IdempotencyKeys, "once", held)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        await has_looked.wait()
        canceled = (await a2a(http, "CancelTask", {"id": asked["id"]}))["result"]
        is_canceled.set()
    runs = (await http.get(f"/threads/{asked['contextId']}/runs")).json()

    assert canceled["status"]["state"] == "TASK_STATE_CANCELED"
    assert answers[0]["error"]["code"] == -32004
    assert len(runs) == 1


async def test_answers_to_two_questions_at_once_both_count(http: httpx.AsyncClient) -> None:
    """Contract, Tasks: each request answers one question of the same run, and the task goes on with both."""
    task_id, _, keys = await begun(http, "both")

    async def update(key: str) -> None:
        responses = {key: {"action": "accept", "content": {"answer": "y"}}}
        await mcp(http, "tasks/update", {"taskId": task_id, "inputResponses": responses})

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(update, key)

    assert len(keys) == 2
    assert (await settled(http, task_id))["status"] == "completed"
