"""Two keys and scopes: what is another's is not there, and a method needs the permission for what it does."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from a2a_api.conftest import loaded_graphs, said
from conftest import WAIT_S, serving
from threadkeep.auth.api_keys import generate_key
from threadkeep.settings import Settings
from threadkeep.tables import api_keys


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """A server that asks for keys."""
    async with serving(module_settings.model_copy(update={"auth_type": "api_key"}), loaded_graphs()) as url:
        yield url


class Caller:
    """Calls methods with the key of an identity."""

    def __init__(self, http: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.http, self.headers = http, headers

    async def __call__(self, agent: str, method: str, params: Any = None) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        answer = await self.http.post(f"/a2a/{agent}", json=body, headers=self.headers)
        return answer.json() if answer.status_code == 200 else answer.status_code

    async def task(self, agent: str = "ask", **more: Any) -> Any:
        return (await self(agent, "SendMessage", said(**more)))["result"]["task"]


async def caller(settings: Settings, http: httpx.AsyncClient, identity: str, *scopes: str) -> Caller:
    secret, row = generate_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return Caller(http, {"authorization": f"Bearer {secret}"})


@pytest.fixture(scope="module")
async def ada(module_settings: Settings, http: httpx.AsyncClient) -> Caller:
    return await caller(module_settings, http, "ada")


@pytest.fixture(scope="module")
async def bob(module_settings: Settings, http: httpx.AsyncClient) -> Caller:
    return await caller(module_settings, http, "bob")


async def test_another_users_task_is_not_there(ada: Caller, bob: Caller) -> None:
    """Contract: exactly as what is not there, text too."""
    task = await ada.task()
    for method, params in (
        ("GetTask", {"id": task["id"]}),
        ("CancelTask", {"id": task["id"]}),
        ("SubscribeToTask", {"id": task["id"]}),
        ("SendMessage", said("mine", taskId=task["id"])),
        ("SendMessage", said("mine", taskId=task["id"], contextId=task["contextId"])),
    ):
        answer = await bob("ask", method, params)
        error = answer["error"]
        assert (error["code"], error["message"]) == (-32001, "Task not found"), method

    assert (await bob("ask", "ListTasks"))["result"]["totalSize"] == 0
    mine = (await ada("ask", "ListTasks"))["result"]
    assert [each["id"] for each in mine["tasks"]] == [task["id"]]
    assert (await ada("ask", "GetTask", {"id": task["id"]}))["result"] == task


async def test_another_users_context_is_not_there(ada: Caller, bob: Caller) -> None:
    """Contract: a thread's id of another is refused, and a name of a context means the caller's own."""
    hers = await ada.task("echo", text="hers", contextId="notes")
    his = await bob.task("echo", text="his", contextId="notes")
    refused = await bob("echo", "SendMessage", said("x", contextId=(await ada.task("echo"))["contextId"]))

    assert (hers["contextId"], his["contextId"]) == ("notes", "notes")
    assert his["artifacts"][0]["parts"] == [{"text": "You said: his"}]
    assert refused["error"]["code"] == -32602
    same = said("again", contextId="notes", messageId="one")
    answers = [(await each("echo", "SendMessage", same))["result"]["task"]["id"] for each in (ada, bob, ada)]
    assert answers[0] == answers[2] != answers[1]


async def test_another_users_assistant_is_no_agent(ada: Caller, bob: Caller) -> None:
    """Contract: 404."""
    made = (await ada.http.post("/assistants", json={"graph_id": "echo"}, headers=ada.headers)).json()["assistant_id"]
    for method, params in (("SendMessage", said()), ("ListTasks", {}), ("GetTask", {"id": str(uuid4())})):
        assert await bob(made, method, params) == 404
        assert await bob(str(uuid4()), method, params) == 404
    assert (await ada(made, "SendMessage", said()))["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_each_method_needs_what_it_does(module_settings: Settings, http: httpx.AsyncClient, ada: Caller) -> None:
    """Contract: 403 is an HTTP status, and nothing is read or done."""
    task = await ada.task()
    reads = await caller(module_settings, http, "ada", "threads.read")
    starts = await caller(module_settings, http, "ada", "threads.create_run", "threads.create")

    assert "result" in await reads("ask", "GetTask", {"id": task["id"]})
    refused = [
        await reads("ask", "SendMessage", said()),
        await reads("ask", "CancelTask", {"id": task["id"]}),
        await reads("ask", "ListTasks"),
        await starts("ask", "GetTask", {"id": task["id"]}),
        await starts("ask", "SubscribeToTask", {"id": task["id"]}),
        await starts("ask", "SendMessage", said("x", taskId=task["id"])),
    ]
    assert refused == [403] * 6
    assert "result" in await starts("echo", "SendMessage", said())
    assert (await ada("ask", "GetTask", {"id": task["id"]}))["result"] == task
    async with httpx.AsyncClient(base_url=http.base_url, timeout=WAIT_S) as nobody:
        answer = await nobody.post("/a2a/ask", json={"jsonrpc": "2.0", "id": 1, "method": "ListTasks"})
    assert (answer.status_code, answer.headers["www-authenticate"].split(" ")[0]) == (401, "Bearer")
