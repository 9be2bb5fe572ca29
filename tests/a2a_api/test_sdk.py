"""The official clients: `a2a-sdk` of PyPI and `@a2a-js/sdk` of npm, each in 1.0 and in 0.3."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.helpers import new_text_message
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError

from a2a_api.conftest import events_of, message, sdk_client, text_of
from clients.node import FOLDER, needs_node, run_script
from graphs import Gate

VERSIONS = ["1.0", "0.3"]
STATE = pb.TaskState


async def task_of(client: Client, request: pb.SendMessageRequest) -> Any:
    """The task of a client that does not stream."""
    [event] = await events_of(client, request)
    return event.task


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_python_sdk(http: httpx.AsyncClient, version: str) -> None:
    """Contract: send, get, list, input-required answered, errors."""
    client = await sdk_client(http, "echo", version, streaming=False)
    first = await task_of(client, message("one"))
    second = await task_of(client, message("two", context_id=first.context_id))
    read = await client.get_task(pb.GetTaskRequest(id=second.id))
    assert first.status.state == STATE.TASK_STATE_COMPLETED
    assert text_of(second.artifacts[0].parts) == "You said: one / two"
    assert read == second
    assert [(each.role, text_of(each.parts)) for each in read.history] == [(pb.Role.ROLE_USER, "two")]
    if version == "1.0":
        listed = await client.list_tasks(pb.ListTasksRequest(context_id=first.context_id, page_size=1))
        assert ([task.id for task in listed.tasks], listed.total_size) == ([second.id], 2)

    ask = await sdk_client(http, "ask", version, streaming=False)
    asked = await task_of(ask, message())
    assert asked.status.state == STATE.TASK_STATE_INPUT_REQUIRED
    assert asked.status.message.parts[0].text == "Which one?"
    answered = await task_of(ask, message("this", task_id=asked.id, context_id=asked.context_id))
    assert text_of(answered.artifacts[0].parts) == "You chose 'this'."
    with pytest.raises(UnsupportedOperationError):
        await task_of(ask, message("more", task_id=asked.id))
    with pytest.raises(TaskNotCancelableError):
        await ask.cancel_task(pb.CancelTaskRequest(id=asked.id))
    with pytest.raises(TaskNotFoundError):
        await ask.get_task(pb.GetTaskRequest(id=str(uuid4())))
    waiting = await task_of(ask, message())
    canceled = await ask.cancel_task(pb.CancelTaskRequest(id=waiting.id))
    assert canceled.status.state == STATE.TASK_STATE_CANCELED


async def test_the_python_sdk_reads_any_text_from_a_stream(http: httpx.AsyncClient) -> None:
    """Contract, What clients do: it takes U+2028, U+2029 and U+0085 for ends of lines."""
    client = await sdk_client(http, "echo")
    *events, last = await events_of(client, message("a\u2028b\u2029c\x85d \N{SNOWMAN}"))

    assert text_of(events[0].task.history[0].parts) == "a\u2028b\u2029c\x85d \N{SNOWMAN}"
    told = "".join(text_of(event.artifact_update.artifact.parts) for event in events[1:])
    assert told == "You said: a\u2028b\u2029c\x85d \N{SNOWMAN}"
    assert last.status_update.status.state == STATE.TASK_STATE_COMPLETED


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_python_sdk_streams_and_subscribes(http: httpx.AsyncClient, version: str, gate: Gate) -> None:
    """Contract: no event with an empty payload; what is missing after the client left."""
    client = await sdk_client(http, "echo", version)
    events = await events_of(client, message())
    pieces = [event.artifact_update for event in events[1:-1]]
    assert [event.WhichOneof("payload") for event in events] == [
        "task", "artifact_update", "artifact_update", "artifact_update", "status_update",
    ]  # fmt: skip
    assert "".join(text_of(piece.artifact.parts) for piece in pieces) == "You said: hello"
    assert [piece.append for piece in pieces] == [False, True, True]
    assert events[-1].status_update.status.state == STATE.TASK_STATE_COMPLETED

    gated = await sdk_client(http, "gated", version)
    stream = gated.send_message(message())
    task_id = (await anext(stream)).task.id
    await anext(stream)
    await stream.aclose()
    told: list[Any] = []
    async for event in gated.subscribe(pb.SubscribeToTaskRequest(id=task_id)):
        told.append(event)
        gate.open()
    assert told[0].task.id == task_id
    assert told[-1].status_update.status.state == STATE.TASK_STATE_COMPLETED


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_python_sdk_sends_and_gets_parts(http: httpx.AsyncClient, version: str) -> None:
    """Contract: files and data, in both versions."""
    client = await sdk_client(http, "show", version, streaming=False)
    request = message("look")
    request.message.parts.add(raw=b"picture", media_type="image/png", filename="a.png")
    request.message.parts.add(url="https://files.example/a.pdf", media_type="application/pdf")
    task = await task_of(client, request)
    shown = task.artifacts[0].parts

    assert (shown[1].raw, shown[1].media_type, shown[1].filename) == (b"picture", "image/png", "a.png")
    assert shown[2].url == "https://files.example/a.pdf"
    assert shown[3].WhichOneof("content") == "data"
    assert list(task.history[0].parts) == list(request.message.parts)

    total = await sdk_client(http, "sum", version, streaming=False)
    numbers = message()
    del numbers.message.parts[:]
    numbers.message.parts.add().data.struct_value.update({"numbers": [1, 2]})
    assert (await task_of(total, numbers)).artifacts[0].parts[0].data.struct_value["total"] == 3


async def test_the_first_steps_of_the_guide(url: str) -> None:
    """docs/how-to/a2a.md. Ours: a helper of the SDK that calls the client an agent is understood too."""
    client = await ClientFactory(ClientConfig()).create_from_url(f"{url}/a2a/echo")
    async with client:
        for text in (new_text_message("hello", role=pb.Role.ROLE_USER), new_text_message("hello")):
            events = [event async for event in client.send_message(pb.SendMessageRequest(message=text))]
            assert events[-1].status_update.status.state == STATE.TASK_STATE_COMPLETED
            assert events[0].task.history[0].role == text.role


_missing = not (FOLDER / "node_modules" / "@a2a-js" / "sdk").exists()


@needs_node
@pytest.mark.skipif(_missing, reason="@a2a-js/sdk is missing: make clients")
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_sdk_of_npm(url: str, version: str, gate: Gate) -> None:
    """Contract: what the script expects in that version."""
    await run_script("a2a", url, "1x", {"open the gate": gate.open}, more=[version])
