"""Two keys and their scopes: what is another's is not there, by any way of naming it."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from mcp_client import post
from mcp_graphs import MCP_GRAPHS
from threadkeep.auth.api_keys import generate_key
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

FORMS: dict[str, Any] = {"elicitation": {}}
TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
NOT_THERE = str(uuid.UUID(int=7))


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    """A server that asks for keys, whose calls become tasks at once."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in MCP_GRAPHS.items()}
    changes = {"auth_type": "api_key", "mcp_task_after_s": 0}
    async with serving(module_settings.model_copy(update=changes), loaded) as url:
        yield url


async def _http(settings: Settings, url: str, identity: str, *scopes: str) -> httpx.AsyncClient:
    secret, row = generate_key(identity, "test", scopes, None)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
        await api_keys.create(conn, row)
    return httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}, timeout=WAIT_S * 2)


@pytest.fixture(scope="module")
async def ada(module_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with await _http(module_settings, url, "ada") as http:
        yield http


@pytest.fixture(scope="module")
async def bob(module_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with await _http(module_settings, url, "bob") as http:
        yield http


async def _call(http: httpx.AsyncClient, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await post(http, "tools/call", {"name": tool, "arguments": arguments}, **more)
    return answer.json()


async def test_without_a_key_nothing_is_told(url: str) -> None:
    """Contract, Who: 401 with `WWW-Authenticate`, before anything is read."""
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/mcp", content=b"{")
        metadata = await http.get("/.well-known/oauth-protected-resource")

    assert (answer.status_code, metadata.status_code) == (401, 404)
    assert answer.headers["www-authenticate"] == 'Bearer realm="threadkeep"'


async def test_anothers_thread_is_not_there(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    """Contract, Who: the same answer as for what is not there, text too."""
    hers = await _call(ada, "echo", {"messages": "hers"})
    asked = await _call(ada, "name", {})
    threads = [each["result"]["structuredContent"]["thread_id"] for each in (hers, asked)]
    missing = await _call(bob, "echo", {"messages": "x", "thread_id": NOT_THERE})
    no_answer = await _call(bob, "name", {"resume": "x", "thread_id": NOT_THERE})

    assert missing["result"]["isError"]
    assert await _call(bob, "echo", {"messages": "x", "thread_id": threads[0]}) == missing
    assert await _call(bob, "name", {"resume": "x", "thread_id": threads[1]}) == no_answer
    assert (await _call(ada, "name", {"resume": "Ada", "thread_id": threads[1]}))["result"]["isError"] is False


async def test_anothers_state_and_task_are_refused(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    """Contract, Questions, Tasks: a state is bound to its principal; another's task is unknown."""
    asked = (await _call(ada, "name", {}, capabilities=FORMS))["result"]
    params = {"name": "name", "arguments": {}, "requestState": asked["requestState"]}
    stolen = (await post(bob, "tools/call", params, capabilities=FORMS)).json()
    task = (await _call(ada, "count", {"name": "x"}, capabilities=TASKS))["result"]
    ids = (task["taskId"], NOT_THERE, "no id")
    methods = ("tasks/get", "tasks/cancel", "tasks/update")
    answers = [
        await post(bob, method, {"taskId": task_id, "inputResponses": {}}, capabilities=TASKS)
        for method in methods
        for task_id in ids
    ]
    own = (await post(ada, "tasks/get", {"taskId": task["taskId"]}, capabilities=TASKS)).json()

    assert stolen["error"]["code"] == -32602
    assert task["resultType"] == "task"
    assert {answer.status_code for answer in answers} == {400}
    assert [answer.json()["error"] for answer in answers] == [{"code": -32602, "message": "Task not found"}] * 9
    assert own["result"]["taskId"] == task["taskId"]


async def test_tools_are_the_callers_own(ada: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    """Contract, Agents: the graphs' own, and those that the caller may read."""
    await ada.post("/assistants", json={"graph_id": "count", "name": "hers"})
    names = [
        {tool["name"] for tool in (await post(http, "tools/list")).json()["result"]["tools"]} for http in (ada, bob)
    ]
    unknown = await _call(bob, "hers", {"name": "x"})
    missing = await _call(bob, "none", {"name": "x"})

    assert names[0] - names[1] == {"hers"}
    assert {"echo", "report"} <= names[1]
    assert (await _call(ada, "hers", {"name": "x"}))["result"]["structuredContent"]["calls"] == 1
    assert unknown["error"] == missing["error"] | {"message": "Unknown tool: hers"}


SCOPES: list[tuple[tuple[str, ...], list[int]]] = [
    (("threads.create_run", "threads.create"), [200, 200, 403]),
    (("threads.create_run",), [403, 403, 403]),
    (("threads.read",), [403, 403, 200]),
    (("assistants.search", "assistants.read"), [403, 403, 403]),
]


@pytest.mark.parametrize(("scopes", "statuses"), SCOPES)
async def test_scopes_hold_here_too(
    module_settings: Settings, url: str, scopes: tuple[str, ...], statuses: list[int]
) -> None:
    """Contract, Who: 403 is the HTTP status. A list has only what the caller may run."""
    async with await _http(module_settings, url, "eve", *scopes) as http:
        tools = await post(http, "tools/list")
        call = await post(http, "tools/call", {"name": "count", "arguments": {"name": "x"}})
        answer = await post(http, "tools/call", {"name": "name", "arguments": {"resume": "x", "thread_id": NOT_THERE}})

    assert [tools.status_code, call.status_code, answer.status_code] == statuses


async def test_an_answer_names_its_run(ada: httpx.AsyncClient) -> None:
    """Ours: `Content-Location`, by which the log has the ids of the run."""
    answer = await post(ada, "tools/call", {"name": "count", "arguments": {"name": "x"}})
    thread_id = answer.json()["result"]["structuredContent"]["thread_id"]
    run = (await ada.get(answer.headers["content-location"])).json()

    assert (run["thread_id"], run["metadata"]["source"]) == (thread_id, "mcp")


async def test_quotas_count_here_too(module_settings: Settings) -> None:
    """Contract, Who: 429 with `Retry-After`."""
    loaded = {"count": as_loaded_graph("count", MCP_GRAPHS["count"], where="tests")}
    changes = {"auth_type": "api_key", "max_requests_per_principal": 1}
    async with (
        serving(module_settings.model_copy(update=changes), loaded) as url,
        await _http(module_settings, url, "carl") as carl,
    ):
        answers = [await post(carl, "tools/list") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["retry-after"]) > 0
