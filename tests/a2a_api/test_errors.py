"""Errors: JSON-RPC errors with their reasons in HTTP 200, and HTTP statuses for what concerns any request."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from a2a_api.conftest import Rpc, loaded_graphs, said
from conftest import serving
from threadkeep.project import Http, Project
from threadkeep.settings import Settings

UNKNOWN = "01900000-0000-7000-8000-000000000000"


def info(reason: str, **metadata: str) -> list[Any]:
    """The data of an error of A2A."""
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return [{"@type": kind, "reason": reason, "domain": "a2a-protocol.org", "metadata": metadata}]


@pytest.mark.parametrize("method", ["GetTask", "CancelTask", "SubscribeToTask", "tasks/get", "tasks/resubscribe"])
@pytest.mark.parametrize("task_id", [UNKNOWN, "no id"])
async def test_an_unknown_task(rpc: Rpc, method: str, task_id: str) -> None:
    """Contract: -32001 with ErrorInfo."""
    error = (await rpc("echo", method, {"id": task_id}))["error"]

    assert error == {"code": -32001, "message": "Task not found", "data": info("TASK_NOT_FOUND", taskId=task_id)}


async def test_a_task_of_another_agent_is_not_there(rpc: Rpc) -> None:
    """Contract: -32001, for a message too."""
    task = (await rpc("echo", "SendMessage", said()))["result"]["task"]
    for method, params in (("GetTask", {"id": task["id"]}), ("SendMessage", said("x", taskId=task["id"]))):
        assert (await rpc("ask", method, params))["error"]["code"] == -32001
    assert (await rpc("echo", "SendMessage", said("x", taskId=UNKNOWN)))["error"]["code"] == -32001


async def test_a_run_of_another_surface_is_no_task(http: httpx.AsyncClient, rpc: Rpc) -> None:
    """Ours: not even if its metadata says so, or its thread's."""
    task = (await rpc("echo", "SendMessage", said()))["result"]["task"]
    forged = {"source": "a2a", "chain": {"id": task["id"], "run_id": task["id"]}}
    body = {"assistant_id": "echo", "input": {"messages": []}, "metadata": forged}
    run = (await http.post(f"/threads/{task['contextId']}/runs", json=body)).json()
    await http.get(f"/threads/{task['contextId']}/runs/{run['run_id']}/join")

    assert (await rpc("echo", "GetTask", {"id": run["run_id"]}))["error"]["code"] == -32001
    assert (await rpc("echo", "GetTask", {"id": task["id"]}))["result"] == task


async def test_an_ended_task_takes_nothing(rpc: Rpc) -> None:
    """Contract: -32004 for a message and a subscription, -32002 for a cancel."""
    task_id = (await rpc("echo", "SendMessage", said()))["result"]["task"]["id"]
    sent = await rpc("echo", "SendMessage", said("more", taskId=task_id))
    subscribed = await rpc("echo", "SubscribeToTask", {"id": task_id})
    canceled = await rpc("echo", "CancelTask", {"id": task_id})

    assert (sent["error"]["code"], sent["error"]["data"][0]["reason"]) == (-32004, "UNSUPPORTED_OPERATION")
    assert subscribed["error"]["code"] == -32004
    assert (canceled["error"]["code"], canceled["error"]["data"]) == (
        -32002,
        info("TASK_NOT_CANCELABLE", taskId=task_id),
    )


async def test_task_and_context_have_to_match(rpc: Rpc) -> None:
    """Contract: -32602 with the field."""
    asked = (await rpc("ask", "SendMessage", said()))["result"]["task"]
    error = (await rpc("ask", "SendMessage", said("x", taskId=asked["id"], contextId=str(uuid4()))))["error"]

    assert error["code"] == -32602
    assert error["data"][0]["fieldViolations"][0]["field"] == "message.contextId"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "message"),
        ({"message": "x"}, "message"),
        (said(messageId=""), "message.messageId"),
        (said(messageId="x" * 256), "message.messageId"),
        (said(role="ROLE_NONE"), "message.role"),
        (said(role=["ROLE_USER"]), "message.role"),
        (said(role=None), "message.role"),
        (said(parts=[]), "message.parts"),
        (said(parts=[{}]), "message.parts[0].text"),
        (said(parts=[{"text": "a", "url": "b"}]), "message.parts[0].url"),
        (said(parts=[{"raw": "not base64!", "mediaType": "image/png"}]), "message.parts[0].raw"),
        (said(parts=[{"raw": "\N{SNOWMAN}", "mediaType": "image/png"}]), "message.parts[0].raw"),
        (said(contextId="x" * 256), "params"),
        (said() | {"configuration": {"historyLength": -1}}, "configuration.historyLength"),
        (said() | {"configuration": {"returnImmediately": "yes"}}, "configuration.returnImmediately"),
    ],
)
async def test_wrong_parameters_name_their_field(rpc: Rpc, params: Any, field: str) -> None:
    """Contract: -32602 with BadRequest."""
    error = (await rpc("echo", "SendMessage", params))["error"]

    assert error["code"] == -32602
    assert error["data"][0]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert error["data"][0]["fieldViolations"][0]["field"] == field


@pytest.mark.parametrize(
    "params",
    [{"pageSize": 0}, {"pageSize": 101}, {"pageToken": "x"}, {"status": "DONE"}, {"statusTimestampAfter": "soon"},
     {"historyLength": -1}],
)  # fmt: skip
async def test_wrong_parameters_of_a_list(rpc: Rpc, params: Any) -> None:
    """Contract: pageSize 1 to 100, opaque token."""
    assert (await rpc("echo", "ListTasks", params))["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("part", "media_type"),
    [
        ({"raw": "dGNr", "mediaType": "application/x-unknown"}, "application/x-unknown"),
        ({"raw": "dGNr"}, "application/octet-stream"),
        ({"text": "a", "mediaType": "text/html"}, "text/html"),
    ],
)
async def test_a_media_type_that_the_card_does_not_name(rpc: Rpc, part: Any, media_type: str) -> None:
    """Contract: -32005."""
    error = (await rpc("echo", "SendMessage", said(parts=[part])))["error"]

    assert (error["code"], error["data"]) == (-32005, info("CONTENT_TYPE_NOT_SUPPORTED", mediaType=media_type))
    wanted = said() | {"configuration": {"acceptedOutputModes": ["application/zip"]}}
    assert (await rpc("echo", "SendMessage", wanted))["error"]["code"] == -32005


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"id": 1, "method": "GetTask"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "GetTask"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": []}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "gettask"}', -32601),
    ],
)
async def test_errors_of_json_rpc(http: httpx.AsyncClient, body: bytes, code: int) -> None:
    """Contract: -32700, -32600 and -32601 as JSON-RPC has them."""
    answer = await http.post("/a2a/echo", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)


async def test_versions(rpc: Rpc) -> None:
    """Contract: any version but 1.0 and 0.3 is -32009. Without one the method decides."""
    for version in ("1.0", "0.3", "1.0.1", ""):
        assert "result" in await rpc("echo", "SendMessage", said(), headers={"A2A-Version": version})
    error = (await rpc("echo", "SendMessage", said(), headers={"A2A-Version": "99.0"}))["error"]
    assert (error["code"], error["data"]) == (-32009, info("VERSION_NOT_SUPPORTED", supportedVersions="1.0, 0.3"))


async def test_info_lists_the_surface(http: httpx.AsyncClient) -> None:
    """Contract: `/info`."""
    assert "a2a" in (await http.get("/info")).json()["surfaces"]


async def test_an_unknown_agent_is_404(http: httpx.AsyncClient) -> None:
    """Contract: for cards and methods. A JSON-RPC error rides along."""
    for name in ("nobody", UNKNOWN):
        body = {"jsonrpc": "2.0", "id": 3, "method": "SendMessage", "params": said()}
        answer = await http.post(f"/a2a/{name}", json=body)
        assert (answer.status_code, answer.json()["id"]) == (404, 3)
        assert answer.json()["error"]["message"] == f"Agent {name!r} not found"
        assert (await http.get(f"/a2a/{name}/.well-known/agent-card.json")).status_code == 404


async def test_a_body_that_is_no_json(http: httpx.AsyncClient) -> None:
    """Contract: 415, with -32005."""
    answer = await http.post("/a2a/echo", content=b"hello", headers={"content-type": "text/plain"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, -32005)


async def test_without_authentication_there_is_no_extended_card(rpc: Rpc) -> None:
    """Contract: else -32004."""
    for method in ("GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"):
        assert (await rpc("echo", method))["error"]["code"] == -32004


@pytest.fixture
async def without_a2a(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    project = Project.model_construct(root=module_settings.data_dir, graphs={}, http=Http(disable_a2a=True))
    async with (
        serving(module_settings, {"echo": loaded_graphs()["echo"]}, project) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield http


async def test_the_surface_may_be_turned_off(without_a2a: httpx.AsyncClient) -> None:
    """Contract: `http.disable_a2a`. Cards go with it."""
    answer = await without_a2a.post("/a2a/echo", json={})
    paths = ("/a2a/echo/.well-known/agent-card.json", "/.well-known/agent-card.json")

    assert answer.status_code == 404
    assert [(await without_a2a.get(path)).status_code for path in paths] == [404, 404]
    assert "a2a" not in (await without_a2a.get("/info")).json()["surfaces"]
    assert "/a2a/{assistant_id}" not in (await without_a2a.get("/openapi.json")).json()["paths"]
