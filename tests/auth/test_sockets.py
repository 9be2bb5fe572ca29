"""WebSockets authenticate the caller as every route does, and hide other users' threads."""

import json
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from auth.conftest import MakeKey
from conftest import serving
from threadkeep.api.routes import SOCKETS
from threadkeep.project import builtin_project
from threadkeep.settings import Settings

RUN: dict[str, Any] = {"assistant_id": "chain", "input": {"items": []}}
BUILTIN = builtin_project()
COMMANDS: tuple[dict[str, Any], ...] = (
    {"method": "run.start", "params": RUN},
    {"method": "agent.getTree", "params": {}},
    {"method": "input.respond", "params": {"interrupt_id": "x", "response": 1}},
    {"method": "subscription.subscribe", "params": {"channels": ["values", "lifecycle"]}},
)


def opened(url: str, path: str, key: str | None) -> connect:
    headers = {"x-api-key": key} if key else {}
    return connect(f"{url.replace('http', 'ws')}{path}", additional_headers=headers)


async def close_code(socket: ClientConnection) -> int | None:
    """How the server closes it."""
    with anyio.fail_after(5), suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code


@pytest.mark.parametrize("path", [one.path for one in SOCKETS])
async def test_a_socket_without_credentials_is_closed_with_the_reason(
    keyed_url: str, ada: httpx.AsyncClient, path: str
) -> None:
    """Issue: without a key, or with a wrong one, 4401, whatever the path names."""
    thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
    codes: list[int | None] = []
    for key in (None, "tk_wrong"):
        async with opened(keyed_url, path.format(thread_id=thread_id), key) as socket:
            codes.append(await close_code(socket))

    assert codes == [4401, 4401]


@pytest.mark.parametrize("path", [one.path for one in SOCKETS])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each["method"])
async def test_a_thread_of_another_user_is_not_found(
    keyed_url: str, ada: httpx.AsyncClient, make_key: MakeKey, path: str, command: dict[str, Any]
) -> None:
    """Issue: an error that says no more than of a thread that there is not, and nothing changed."""
    thread_id = (await ada.post("/threads", json={"metadata": {"note": "hers"}})).json()["thread_id"]
    await ada.post(f"/threads/{thread_id}/runs/wait", json=RUN)
    before = (await ada.get(f"/threads/{thread_id}")).json(), (await ada.get(f"/threads/{thread_id}/runs")).json()
    with anyio.fail_after(5):
        async with opened(keyed_url, path.format(thread_id=thread_id), await make_key("bob")) as socket:
            await socket.send(json.dumps({"id": 1} | command))
            answer = json.loads(await socket.recv())
    after = (await ada.get(f"/threads/{thread_id}")).json(), (await ada.get(f"/threads/{thread_id}/runs")).json()

    assert (answer["type"], answer["id"]) == ("error", 1)
    assert "not found" in answer["message"].lower()
    assert after == before


async def test_open_sockets_count_as_streams(settings: Settings, make_key: MakeKey) -> None:
    """Ours: the third is closed with 4429 while two are open; another principal's are not touched."""
    chosen = settings.model_copy(update={"auth_type": "api_key", "max_streams_per_principal": 2})
    path = "/threads/00000000-0000-4000-8000-000000000001/stream/events"
    hers, his = await make_key("ada"), await make_key("bob")
    command = json.dumps({"id": 1, "method": "nonsense"})
    async with serving(chosen) as url, opened(url, path, hers) as one, opened(url, path, hers) as two:
        for socket in (one, two):
            await socket.send(command)
            await socket.recv()
        async with opened(url, path, hers) as third, opened(url, path, his) as other:
            code = await close_code(third)
            await other.send(command)
            answer = json.loads(await other.recv())

    assert (code, answer["error"]) == (4429, "unknown_command")


async def test_commands_count_as_requests(settings: Settings, make_key: MakeKey) -> None:
    """Ours: the opening and each command count as requests. A command too many is refused, and the socket stays open."""
    chosen = settings.model_copy(update={"auth_type": "api_key", "max_requests_per_principal": 3})
    path = "/threads/00000000-0000-4000-8000-000000000001/stream/events"
    answers: list[dict[str, Any]] = []
    async with serving(chosen) as url, opened(url, path, await make_key("ada")) as socket:
        for command_id in range(4):
            await socket.send(json.dumps({"id": command_id, "method": "nonsense"}))
            answers.append(json.loads(await socket.recv()))

    assert [answer["id"] for answer in answers] == [0, 1, 2, 3]
    assert [answer["error"] for answer in answers] == ["unknown_command"] * 2 + ["unknown_error"] * 2
    assert answers[3]["message"] == "more than 3 requests within a minute: slow down"


async def test_disabled_routes_are_disabled_on_the_socket_too(settings: Settings) -> None:
    """Issue: `http.disable_runs` takes the commands that start runs away from the socket, and leaves its events."""
    switched = BUILTIN.model_copy(update={"http": BUILTIN.http.model_copy(update={"disable_runs": True})})
    async with serving(settings, project=switched) as url, httpx.AsyncClient(base_url=url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        answers: dict[str, Any] = {}
        with anyio.fail_after(5):
            async with opened(url, f"/threads/{thread_id}/stream/events", None) as socket:
                for command in COMMANDS:
                    await socket.send(json.dumps({"id": 1} | command))
                    answers[command["method"]] = json.loads(await socket.recv())
        thread = (await http.get(f"/threads/{thread_id}")).json()

    errors = {method: answer.get("error") for method, answer in answers.items()}
    assert errors == dict.fromkeys(("run.start", "agent.getTree", "input.respond"), "unknown_command") | {
        "subscription.subscribe": None
    }
    assert thread["status"] == "idle"
