"""Push notifications: webhooks of a task, with token and credentials, at input-required and at the end."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from a2a.types import a2a_pb2 as pb

from a2a_api.conftest import Rpc, events_of, loaded_graphs, message, said, sdk_client
from conftest import WAIT_S, serving
from duties.test_webhooks import Receiver, listening
from graphs import Gate
from threadkeep.auth.api_keys import generate_key
from threadkeep.persistence.encryption import AesGcmCipher
from threadkeep.persistence.key_rotation import rotate
from threadkeep.postgres.connection import Connection
from threadkeep.project import Http, Project, Webhooks
from threadkeep.settings import Settings
from threadkeep.tables import api_keys

CONFIG = "CreateTaskPushNotificationConfig"


def project(settings: Settings, **http: Any) -> Project:
    """A project whose webhooks may be sent to this machine."""
    webhooks = Webhooks.model_validate({"url": {"disable_loopback": False, "require_https": False}})
    return Project.model_construct(root=settings.data_dir, graphs={}, http=Http(**http), webhooks=webhooks)


@pytest.fixture(scope="module")
async def url(module_settings: Settings) -> AsyncIterator[str]:
    async with serving(module_settings, loaded_graphs(), project(module_settings)) as url:
        yield url


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver(socket.create_server(("127.0.0.1", 0)))
    async with listening(receiver):
        yield receiver


def told(receiver: Receiver) -> list[Any]:
    """The tasks that came."""
    return [body.get("task", body) for _, _, body in receiver.got]


async def test_a_task_is_told_when_it_asks_and_when_it_has_ended(rpc: Rpc, receiver: Receiver) -> None:
    """Contract: a StreamResponse of 1.0, with the token and the credentials."""
    config = {
        "url": f"{receiver.url}/hook",
        "token": "secret-token",
        "authentication": {"scheme": "Bearer", "credentials": "secret-credentials"},
    }
    params = said() | {"configuration": {"taskPushNotificationConfig": config}}
    asked = (await rpc("ask", "SendMessage", params))["result"]["task"]
    await receiver.has(1)
    done = (await rpc("ask", "SendMessage", said("this", taskId=asked["id"])))["result"]["task"]
    bodies = await receiver.has(2)

    assert bodies == [{"task": asked}, {"task": done}]
    path, headers, _ = receiver.got[0]
    assert path == "/hook"
    assert headers["content-type"] == "application/a2a+json"
    assert headers["x-a2a-notification-token"] == "secret-token"
    assert headers["authorization"] == "Bearer secret-credentials"


async def test_secrets_are_encrypted_at_rest(settings: Settings, receiver: Receiver) -> None:
    """docs/how-to/encryption.md: with a key of the operator, and sent and told back as they were. Rotated like checkpoints."""
    key, new = "k" * 16, "n" * 16
    settings = Settings.model_validate({**settings.model_dump(exclude_unset=True), "aes_key": key})
    secrets = {"token": "secret-token", "authentication": {"scheme": "Bearer", "credentials": "secret-credentials"}}
    stored = "SELECT token || credentials FROM task_pushes WHERE chain_id = %(task_id)s"
    async with (
        serving(settings, loaded_graphs(), project(settings)) as url,
        httpx.AsyncClient(base_url=url) as http,
        await Connection.connect(str(settings.database_uri), autocommit=True) as conn,
    ):

        async def call(method: str, params: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return (await http.post("/a2a/ask", json=body)).json()["result"]

        task_id = (await call("SendMessage", said()))["task"]["id"]
        made = await call(CONFIG, {"taskId": task_id, "url": f"{receiver.url}/hook", **secrets})
        read = await call("GetTaskPushNotificationConfig", {"taskId": task_id, "id": made["id"]})
        await call("SendMessage", said("this", taskId=task_id))
        await receiver.has(1)
        sealed = await (await conn.execute(stored, {"task_id": task_id})).fetchone()
        rotation = await rotate(conn, AesGcmCipher((new.encode(), key.encode())))
        rotated = await (await conn.execute(stored, {"task_id": task_id})).fetchone()

    assert made == read == {"id": made["id"], "taskId": task_id, "url": f"{receiver.url}/hook", **secrets}
    _, headers, _ = receiver.got[0]
    assert headers["x-a2a-notification-token"] == "secret-token"
    assert headers["authorization"] == "Bearer secret-credentials"
    assert "secret" not in str(sealed)
    assert rotation.unreadable == 0
    assert rotated != sealed
    assert "secret" not in str(rotated)


async def test_data_failures_and_cancels_are_told(rpc: Rpc, receiver: Receiver, gate: Gate) -> None:
    """Contract: at the end, whatever the end is."""
    with_config = {"configuration": {"taskPushNotificationConfig": {"url": receiver.url}}}
    ended = [
        (await rpc("sum", "SendMessage", said(parts=[{"data": {"numbers": [2]}}]) | with_config))["result"]["task"],
        (await rpc("fail", "SendMessage", said() | with_config))["result"]["task"],
    ]
    await receiver.has(2)
    asked = (await rpc("ask", "SendMessage", said() | with_config))["result"]["task"]
    await receiver.has(3)
    canceled = (await rpc("ask", "CancelTask", {"id": asked["id"]}))["result"]
    await receiver.has(4)

    by_id = {task["id"]: task for task in told(receiver)[:2]}
    assert by_id == {task["id"]: task for task in ended}
    assert told(receiver)[2:] == [asked, canceled]


async def test_configs_are_kept_and_deleted(rpc: Rpc, receiver: Receiver, gate: Gate) -> None:
    """Contract: Create, Get, List, Delete. A deleted one is told nothing."""
    immediate = {"configuration": {"returnImmediately": True}}
    task_id = (await rpc("gated", "SendMessage", said() | immediate))["result"]["task"]["id"]
    made = [
        (await rpc("gated", CONFIG, {"taskId": task_id, "id": name, "url": f"{receiver.url}/{name}", "token": "t"}))
        for name in ("one", "two")
    ]
    one = {"id": "one", "taskId": task_id, "url": f"{receiver.url}/one", "token": "t"}
    assert made[0]["result"] == one
    assert (await rpc("gated", "GetTaskPushNotificationConfig", {"taskId": task_id, "id": "one"}))["result"] == one
    listed = (await rpc("gated", "ListTaskPushNotificationConfigs", {"taskId": task_id}))["result"]
    assert ([each["id"] for each in listed["configs"]], listed["nextPageToken"]) == (["one", "two"], "")
    page = {"taskId": task_id, "pageSize": 1}
    first = (await rpc("gated", "ListTaskPushNotificationConfigs", page))["result"]
    rest = await rpc("gated", "ListTaskPushNotificationConfigs", page | {"pageToken": first["nextPageToken"]})
    assert [each["id"] for each in rest["result"]["configs"]] == ["two"]
    for _ in range(2):
        deleted = await rpc("gated", "DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "two"})
        assert deleted["result"] == {}
    missing = await rpc("gated", "GetTaskPushNotificationConfig", {"taskId": task_id, "id": "two"})
    assert missing["error"]["code"] == -32001
    gate.open()
    await receiver.has(1)

    assert [path for path, _, _ in receiver.got] == ["/one"]
    assert told(receiver)[0]["status"]["state"] == "TASK_STATE_COMPLETED"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"url": ""}, "url"),
        ({"url": "ftp://x.example"}, "url"),
        ({"url": "http://169.254.169.254/"}, "url"),
        ({"url": "https://x.example", "token": "a\nb"}, "token"),
        ({"url": "https://x.example", "authentication": {"scheme": "a b"}}, "authentication.scheme"),
        ({"url": "https://x.example", "authentication": {"credentials": "x"}}, "authentication.scheme"),
    ],
)
async def test_a_config_that_is_refused(rpc: Rpc, config: Any, field: str) -> None:
    """Contract: the policy of our webhooks. With a message nothing runs."""
    context = str(uuid4())
    params = said(contextId=context) | {"configuration": {"taskPushNotificationConfig": config}}
    error = (await rpc("echo", "SendMessage", params))["error"]

    assert error["code"] == -32602
    place = f"configuration.taskPushNotificationConfig.{field}"
    assert error["data"][0]["fieldViolations"][0]["field"] == place
    assert (await rpc("echo", "ListTasks", {"contextId": context}))["result"]["totalSize"] == 0


@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_the_sdk_sets_and_gets_configs(http: httpx.AsyncClient, receiver: Receiver, version: str) -> None:
    """Contract: both versions. In 0.3 the body is a task."""
    config = pb.TaskPushNotificationConfig(url=receiver.url, token="t", id="mine")
    client = await sdk_client(http, "ask", version, streaming=False, push_notification_config=config)
    [event] = await events_of(client, message())
    task_id = event.task.id
    await receiver.has(1)
    get = pb.GetTaskPushNotificationConfigRequest(task_id=task_id, id="mine")
    found = await client.get_task_push_notification_config(get)
    added = await client.create_task_push_notification_config(
        pb.TaskPushNotificationConfig(task_id=task_id, url=receiver.url, id="other")
    )
    listed = await client.list_task_push_notification_configs(
        pb.ListTaskPushNotificationConfigsRequest(task_id=task_id)
    )
    await client.delete_task_push_notification_config(
        pb.DeleteTaskPushNotificationConfigRequest(task_id=task_id, id="other")
    )

    assert (found.url, found.token, added.id) == (receiver.url, "t", "other")
    assert [each.id for each in listed.configs] == ["mine", "other"]
    [(_, headers, body)] = receiver.got
    assert headers["x-a2a-notification-token"] == "t"
    if version == "0.3":
        assert (body["kind"], body["id"], body["status"]["state"]) == ("task", task_id, "input-required")
        assert headers["content-type"] == "application/json"
    else:
        assert body["task"]["id"] == task_id


async def test_without_webhooks_nothing_can_be_told(module_settings: Settings) -> None:
    """Contract: -32003, and the card says so."""
    graphs = {"echo": loaded_graphs()["echo"]}
    async with (
        serving(module_settings, graphs, project(module_settings, disable_webhooks=True)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        card = (await http.get("/a2a/echo/.well-known/agent-card.json")).json()
        params = said() | {"configuration": {"taskPushNotificationConfig": {"url": "https://x.example"}}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
        answer = (await http.post("/a2a/echo", json=body)).json()

    assert card["capabilities"]["pushNotifications"] is False
    assert (answer["error"]["code"], answer["error"]["data"][0]["reason"]) == (
        -32003,
        "PUSH_NOTIFICATION_NOT_SUPPORTED",
    )


@asynccontextmanager
async def _keyed(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Ada and Bob."""
    changed = settings.model_copy(update={"auth_type": "api_key"})
    async with serving(changed, loaded_graphs(), project(settings)) as url:
        clients: list[httpx.AsyncClient] = []
        for identity in ("ada", "bob"):
            secret, row = generate_key(identity, "test", (), None)
            async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
                await api_keys.create(conn, row)
            clients.append(httpx.AsyncClient(base_url=url, headers={"x-api-key": secret}, timeout=WAIT_S))
        async with clients[0], clients[1]:
            yield clients[0], clients[1]


async def test_configs_of_others_are_not_there(module_settings: Settings, receiver: Receiver) -> None:
    """Contract: secrets are not told to others."""

    async def call(http: httpx.AsyncClient, method: str, params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await http.post("/a2a/ask", json=body)).json()

    async with _keyed(module_settings) as (ada, bob):
        task_id = (await call(ada, "SendMessage", said()))["result"]["task"]["id"]
        config = {"taskId": task_id, "id": "one", "url": receiver.url, "token": "t"}
        made = await call(ada, CONFIG, config)
        refused = [
            await call(bob, CONFIG, config),
            await call(bob, "GetTaskPushNotificationConfig", {"taskId": task_id, "id": "one"}),
            await call(bob, "ListTaskPushNotificationConfigs", {"taskId": task_id}),
            await call(bob, "DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "one"}),
        ]
        listed = await call(ada, "ListTaskPushNotificationConfigs", {"taskId": task_id})

    assert made["result"] == config
    assert [answer["error"]["code"] for answer in refused] == [-32001] * 4
    assert listed["result"]["configs"] == [config]
