"""Tasks of A2A whose process is killed."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from faults.servers import Place, Quick, Replica, free_port, replicas

EVENTS = 8
"""Read before the process is killed."""


async def test_a_task_is_followed_at_another_process_after_a_kill(place: Place) -> None:
    """Issue 19: subscribe on another process and after a restart. The run begins anew there, and so does the artifact."""
    message = {"messageId": "one", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    async with replicas(place, 1, Quick().settings) as (first,), _client(first) as here:
        second = Replica(place, Quick().settings, free_port())
        try:
            async with _stream(here, "SendStreamingMessage", {"message": message}) as results:
                seen = [await anext(results) for _ in range(EVENTS)]
                await second.start()
                await first.kill()
            task_id = seen[0]["task"]["id"]
            async with _client(second) as elsewhere:
                async with _stream(elsewhere, "SubscribeToTask", {"id": task_id}) as results:
                    rest = [result async for result in results]
                same = {**message, "contextId": rest[0]["task"]["contextId"]}
                again = await _call(elsewhere, "SendMessage", {"message": same})
                task = await _call(elsewhere, "GetTask", {"id": task_id})
        finally:
            await second.kill()

    assert again["task"] == task
    assert rest[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert _text(rest) == task["artifacts"][0]["parts"][0]["text"]
    assert any(not event["artifactUpdate"]["append"] for event in rest[1:-1])


def _client(replica: Replica) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=replica.url, timeout=60)


def _body(method: str, params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def _call(http: httpx.AsyncClient, method: str, params: Any) -> Any:
    return (await http.post("/a2a/telling", json=_body(method, params))).json()["result"]


@asynccontextmanager
async def _stream(http: httpx.AsyncClient, method: str, params: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The results of a stream."""
    async with http.stream("POST", "/a2a/telling", json=_body(method, params)) as answer:

        async def results() -> AsyncIterator[Any]:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))["result"]

        yield results()


def _text(events: list[Any]) -> str:
    """The text of the artifact, as a client puts it together."""
    text = "".join(part["text"] for artifact in events[0]["task"].get("artifacts", []) for part in artifact["parts"])
    for event in events[1:-1]:
        update = event["artifactUpdate"]
        added = "".join(part["text"] for part in update["artifact"]["parts"])
        text = text + added if update["append"] else added
    return text
