"""Streams: the events of a run, as both SDKs parse them."""

import json
from typing import Any

import anyio
import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from graphs import Gate


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


async def events(client: LangGraphClient, graph: str, graph_input: Any, **options: Any) -> list[tuple[str, Any]]:
    """All events of a run on a new thread."""
    thread = await client.threads.create()
    parts = client.runs.stream(thread["thread_id"], graph, input=graph_input, **options)
    return [(part.event, part.data) async for part in parts]


async def test_a_stream_begins_with_metadata_and_has_the_state_after_each_step(client: LangGraphClient) -> None:
    """Protocol: `values`, the default mode; no `end` event."""
    (first, *others) = await events(client, "chain", {"items": ["in"]})

    assert first[0] == "metadata"
    assert set(first[1]) == {"run_id", "attempt"}
    assert others == [
        ("values", {"items": ["in"]}),
        ("values", {"items": ["in", "first"]}),
        ("values", {"items": ["in", "first", "second"]}),
    ]


async def test_updates_name_the_node(client: LangGraphClient) -> None:
    """Protocol: `updates`."""
    received = await events(client, "chain", {"items": []}, stream_mode="updates")

    assert received[1:] == [
        ("updates", {"first": {"items": ["first"]}}),
        ("updates", {"second": {"items": ["second"]}}),
    ]


async def test_several_modes_come_in_one_stream(client: LangGraphClient) -> None:
    """Protocol: any set of modes."""
    received = await events(client, "writing", {"items": []}, stream_mode=["updates", "custom", "values"])

    assert received[1:] == [
        ("values", {"items": []}),
        ("custom", {"progress": 1}),
        ("updates", {"write": {"items": ["written"]}}),
        ("values", {"items": ["written"]}),
    ]


async def test_mode_lifecycle_of_the_sdks_is_accepted(client: LangGraphClient) -> None:
    """Ours: both SDKs have it, and LangGraph sends nothing in it (langgraph issue 7986)."""
    modes: Any = ["values", "lifecycle"]
    received = await events(client, "writing", {"items": []}, stream_mode=modes)

    assert received[1:] == [("values", {"items": []}), ("values", {"items": ["written"]})]


async def test_tokens_come_one_by_one_with_their_metadata(client: LangGraphClient) -> None:
    """Protocol: `messages-tuple`."""
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    received = await events(client, "speaking", messages, stream_mode="messages-tuple")

    tokens = [data for name, data in received if name == "messages"]
    assert "".join(chunk["content"] for chunk, _ in tokens) == "word0 word1 word2 word3 word4"
    assert len(tokens) >= 5
    chunk, metadata = tokens[0]
    assert chunk["type"] == "AIMessageChunk"
    assert metadata["langgraph_node"] == "speak"
    assert {"run_id", "thread_id", "assistant_id", "graph_id", "langgraph_step"} <= set(metadata)


async def test_messages_mode_sends_the_message_so_far(client: LangGraphClient) -> None:
    """Protocol: `messages`: metadata once, then partial messages."""
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    received = await events(client, "speaking", messages, stream_mode="messages")

    names = [name for name, _ in received[1:]]
    assert names[0] == "messages/metadata"
    assert set(names[1:]) == {"messages/partial"}
    assert received[-1][1][0]["content"] == "word0 word1 word2 word3 word4"
    assert received[-1][1][0]["type"] == "ai"


async def test_tasks_checkpoints_and_debug_have_their_events(client: LangGraphClient) -> None:
    """Protocol: `tasks`, `checkpoints`, `debug`; a checkpoint's config holds the ids and nothing of the server's."""
    received = await events(client, "chain", {"items": []}, stream_mode=["tasks", "checkpoints", "debug"])

    tasks = [data for name, data in received if name == "tasks"]
    assert [task["name"] for task in tasks] == ["first", "first", "second", "second"]
    assert tasks[1]["result"] == {"items": ["first"]}
    checkpoints = [data for name, data in received if name == "checkpoints"]
    assert [checkpoint["next"] for checkpoint in checkpoints] == [["__start__"], ["first"], ["second"], []]
    assert {"thread_id", "checkpoint_id", "checkpoint_ns"} <= set(checkpoints[-1]["config"]["configurable"])
    assert not [key for key in checkpoints[-1]["config"]["configurable"] if key.startswith("__")]
    assert {data["type"] for name, data in received if name == "debug"} == {"checkpoint", "task", "task_result"}


async def test_events_mode_is_langchains_own(client: LangGraphClient) -> None:
    """Protocol: `events`, beside another mode."""
    received = await events(client, "chain", {"items": []}, stream_mode=["events", "values"])

    kinds = [data["event"] for name, data in received if name == "events"]
    assert (kinds[0], kinds[-1]) == ("on_chain_start", "on_chain_end")
    assert [data for name, data in received if name == "values"][-1] == {"items": ["first", "second"]}


async def test_events_of_subgraphs_have_their_namespace(client: LangGraphClient) -> None:
    """Protocol: `stream_subgraphs`: the name carries the namespace."""
    received = await events(client, "parent", {"items": []}, stream_mode="updates", stream_subgraphs=True)

    (inner,) = [name for name, _ in received if name.startswith("updates|child:")]
    assert dict(received)[inner] == {"inner": {"items": ["first"]}}
    assert dict(await events(client, "parent", {"items": []}, stream_mode="updates")).keys() == {"metadata", "updates"}


async def test_an_interrupt_is_the_last_event(client: LangGraphClient) -> None:
    """Protocol: `__interrupt__` in values and updates."""
    received = await events(client, "asking", {"items": []}, stream_mode=["values", "updates"])

    (interrupt,) = dict(received)["values"]["__interrupt__"]
    assert interrupt["value"] == {"question": "which?"}
    assert set(interrupt) == {"value", "id", "response_schema"}
    assert {"__interrupt__": [interrupt]} in [data for name, data in received if name == "updates"]


async def test_failure_is_an_error_event(client: LangGraphClient) -> None:
    """Protocol: the last event of a failed run."""
    received = await events(client, "failing", {"items": []})

    assert received[-1] == ("error", {"error": "ValueError", "message": "the node failed"})


async def test_stateless_stream_needs_no_thread(client: LangGraphClient) -> None:
    """Protocol: POST /runs/stream."""
    received = [(part.event, part.data) async for part in client.runs.stream(None, "chain", input={"items": []})]

    assert received[-1] == ("values", {"items": ["first", "second"]})


async def test_frames_headers_and_ids_are_as_the_clients_read_them(http: httpx.AsyncClient) -> None:
    """Protocol: SSE framing, the two location headers, `id:` only when resumable."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "chain", "input": {"items": []}, "stream_resumable": True}

    answer = await http.post(f"/threads/{thread_id}/runs/stream", json=body)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    run = answer.headers["content-location"]
    assert answer.headers["location"] == f"{run}/stream"
    frames = answer.text.strip().split("\r\n\r\n")
    assert [frame.split("\r\n")[0] for frame in frames] == ["event: metadata"] + ["event: values"] * 3
    assert [frame.split("\r\n")[2] for frame in frames] == ["id: 1", "id: 2", "id: 3", "id: 4"]
    replay = await http.get(answer.headers["location"], headers={"last-event-id": "-1"})
    assert replay.text == answer.text
    rest = await http.get(answer.headers["location"], headers={"last-event-id": "2"})
    assert rest.text.startswith("event: values\r\n")
    assert rest.text.count("\r\nid: ") == 2


async def test_a_reader_that_joins_a_running_run_gets_its_further_events(client: LangGraphClient, gate: Gate) -> None:
    """Protocol: join stream, live."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "gated", input={"items": []})
    await gate.entered()
    received: list[tuple[str, Any]] = []

    async def read() -> None:
        joined = client.runs.join_stream(thread["thread_id"], run["run_id"])
        received.extend([(part.event, part.data) async for part in joined])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await _all_wait()
            gate.open()
    assert received[-1] == ("values", {"items": ["gated"]})


async def test_stateless_run_is_joined_and_stopped_by_its_headers_while_it_runs(
    http: httpx.AsyncClient, gate: Gate
) -> None:
    """Ours: a client that lost a stateless stream finds it again, where the reference's Location is a 404."""
    body = {"assistant_id": "gated", "input": {"items": ["in"]}}
    async with http.stream("POST", "/runs/stream", json=body) as lost:
        await gate.entered()
    run = lost.headers["content-location"]
    received: list[str] = []

    async def read(path: str) -> None:
        received.append((await http.get(path, headers={"last-event-id": "-1"})).text)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, lost.headers["location"])
            tasks.start_soon(read, f"{run}/join")
            await _all_wait()
            gate.open()
    stream, answer = sorted(received, key=len, reverse=True)
    assert lost.headers["location"] == f"{run}/stream"
    assert stream.startswith("event: metadata")
    assert stream.count('data: {"items":["in","gated"]}') == 1
    assert json.loads(answer) == {"items": ["in", "gated"]}
    assert (await http.get(f"{run}/join")).status_code == 404


async def test_stateless_run_is_cancelled_by_its_address(http: httpx.AsyncClient, gate: Gate) -> None:
    """Ours: a chat page that stops a stateless run sends what it sends for any other."""
    body = {"assistant_id": "gated", "input": {"items": ["in"]}}
    with anyio.fail_after(5):
        async with http.stream("POST", "/runs/stream", json=body) as stream:
            await gate.entered()
            path = f"{stream.headers['content-location']}/cancel"
            assert (await http.post(path, params={"wait": "true"})).status_code == 200
            text = "".join([part async for part in stream.aiter_text()])

    assert "gated" not in text.split("\r\n\r\n")[-2]
    assert (await http.post(path)).status_code == 404


async def _all_wait() -> None:
    """No task has anything to do. anyio looks every 0.1 s, as often as psycopg wakes: they may go on in step for ever."""
    blocked = False
    while not blocked:
        with anyio.move_on_after(0.13):
            await anyio.wait_all_tasks_blocked()
            blocked = True


@pytest.mark.parametrize(("on_disconnect", "status"), [("cancel", "interrupted"), ("continue", "success")])
async def test_lost_connection_stops_the_run_only_on_request(
    client: LangGraphClient, http: httpx.AsyncClient, gate: Gate, on_disconnect: str, status: str
) -> None:
    """Protocol: `on_disconnect`."""
    thread_id = (await client.threads.create())["thread_id"]
    body = {"assistant_id": "gated", "input": {"items": []}, "on_disconnect": on_disconnect}

    async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
        await gate.entered()
        run_id = answer.headers["content-location"].rsplit("/", 1)[1]
    if on_disconnect == "continue":
        gate.open()

    with anyio.fail_after(5):
        await client.runs.join(thread_id, run_id)
    assert (await client.runs.get(thread_id, run_id))["status"] == status
