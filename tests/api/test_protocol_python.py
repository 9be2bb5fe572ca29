"""The protocol v2 through langgraph_sdk's `threads.stream`: a thread is watched, whatever runs on it."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import anyio
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from graphs import Gate
from protocol_graphs import PROTOCOL_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

WORDS = "one two three four"


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server of the protocol's graphs."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in PROTOCOL_GRAPHS.items()}
    async with serving(settings, loaded) as url:
        yield url


@pytest.fixture(params=["sse", "websocket"])
async def transport(request: pytest.FixtureRequest) -> Any:
    """Both ways to the events."""
    return request.param


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def texts(messages: Any) -> list[list[str]]:
    """The tokens of each message. They are read beside the iterator: it waits for its reader, and they for it."""
    found: list[list[str]] = []

    async def read(message: Any, into: list[str]) -> None:
        into.extend([token async for token in message.text])

    async with anyio.create_task_group() as tasks:
        async for message in messages:
            found.append([])
            tasks.start_soon(read, message, found[-1])
    return found


async def test_messages_come_token_by_token(client: LangGraphClient, transport: Any) -> None:
    """Protocol: `thread.messages` streams each message's text as it is made; `thread.output` are the last values."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
            await thread.run.start(input=said("hello"))
            messages = await texts(thread.messages)
            output = await thread.output

    assert messages == [["one ", "two ", "three ", "four"]]
    assert [message["content"] for message in output["messages"]] == ["hello", WORDS]


async def test_values_come_step_by_step(client: LangGraphClient, transport: Any) -> None:
    """Protocol: `thread.values` gives the state after each step."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="telling", transport=transport) as thread:
            await thread.run.start(input={"text": "it is"})
            values = [state async for state in thread.values]

    assert [state for state in values if state][-1] == {"text": "it is told"}


async def test_updates_custom_and_checkpoints_come(client: LangGraphClient, transport: Any) -> None:
    """Ours: the channels on which the reference is silent have their events."""
    found: dict[str, list[Any]] = {}
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="telling", transport=transport) as thread:
            await thread.run.start(input={"text": "it is"})
            async for event in thread.subscribe(["updates", "custom", "checkpoints", "tasks"]):
                found.setdefault(event["method"], []).append(event["params"]["data"])

    assert found["updates"] == [{"node": "tell", "values": {"text": "it is told"}}]
    assert found["custom"] == [{"name": "progress", "payload": {"done": 1}}, {"payload": "plain"}]
    assert [(one["source"], one["step"]) for one in found["checkpoints"]] == [("input", -1), ("loop", 0), ("loop", 1)]
    assert [one["name"] for one in found["tasks"]] == ["tell", "tell"]


async def test_a_named_custom_channel_has_its_own_events(client: LangGraphClient) -> None:
    """Protocol: `thread.extensions[name]` are the custom events of that name."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="telling") as thread:
            await thread.run.start(input={"text": "it is"})
            told = [item async for item in thread.extensions["progress"]]

    assert told == [{"name": "progress", "payload": {"done": 1}}]


async def test_a_tool_call_is_streamed_from_its_first_argument_to_its_output(
    client: LangGraphClient, transport: Any
) -> None:
    """Protocol: a message's tool calls come in pieces, and the tool's own run on `tools`."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
            await thread.run.start(input=said("a sum, please"))
            items: list[tuple[str, Any]] = []
            async for channel, item in thread.interleave_projections(["messages", "tool_calls"]):
                items.append((channel, item))
            called = next(item for channel, item in items if channel == "tool_calls")
            first, last = (item for channel, item in items if channel == "messages")
            calls = await first.tool_calls
            text = await last.text
            output = await called.output

    assert (called.name, called.input) == ("add", {"a": 2, "b": 3})
    assert output["content"] == "5"
    assert [(call["name"], call["args"], call["id"]) for call in calls] == [("add", {"a": 2, "b": 3}, "call-1")]
    assert text == WORDS


async def test_a_subgraph_has_a_handle_of_its_own(client: LangGraphClient, transport: Any) -> None:
    """Protocol: `thread.subgraphs` gives each subgraph, with its messages and its end."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="crew", transport=transport) as thread:
            await thread.run.start(input=said("hello"))
            spoken: list[list[str]] = []
            names: list[str | None] = []

            async def read(handle: Any) -> None:
                spoken.extend(await texts(handle.messages))

            async with anyio.create_task_group() as tasks:
                async for handle in thread.subgraphs:
                    names.append(handle.graph_name)
                    tasks.start_soon(read, handle)
            await thread.output

    assert (names, spoken) == (["agent"], [["one ", "two ", "three ", "four"]])


async def test_an_interrupt_is_streamed_with_its_value_and_answered(client: LangGraphClient, transport: Any) -> None:
    """Protocol: `thread.interrupts` has the question (the reference leaves `value` empty), `run.respond` goes on."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="asking_text", transport=transport) as thread:
            await thread.run.start(input={"text": "it is"})
            async for _ in thread.values:
                pass
            asked = list(thread.interrupts)
            await thread.run.respond("Ada")
            output = await thread.output

    assert [(one["value"], one["namespace"]) for one in asked] == [({"question": "who?"}, [])]
    assert output == {"text": "it is told Ada"}


async def test_a_failed_run_has_its_reason(client: LangGraphClient, transport: Any) -> None:
    """Protocol: lifecycle `failed` carries the error's text."""
    with anyio.fail_after(10):
        async with client.threads.stream(assistant_id="failing", transport=transport) as thread:
            await thread.run.start(input={"items": []})
            with pytest.raises(RuntimeError, match="Run errored: the node failed"):
                await thread.output


async def test_a_watcher_that_comes_back_gets_the_rest_and_nothing_twice(
    client: LangGraphClient, gate: Gate, transport: Any
) -> None:
    """Ours: `since` goes on behind a position, in the middle of a message."""
    thread_id = str(uuid4())
    with anyio.fail_after(10):
        async with client.threads.stream(thread_id, assistant_id="agent", transport=transport) as thread:
            await thread.run.start(input=said("wait"))
            first: list[Any] = []
            async for event in thread.events:
                first.append(event)
                if event.get("method") == "messages" and "two " in str(event["params"]["data"]):
                    break
        await gate.entered()
        rest = await _until_completed(client, thread_id, since=first[-1]["seq"], gate=gate, transport=transport)
        whole = await _until_completed(client, thread_id, since=0, gate=gate, transport=transport)

    seen = [event["event_id"] for event in [*first, *rest] if event.get("type") == "event"]
    assert seen == [event["event_id"] for event in whole if event.get("type") == "event"]
    assert len(seen) == len(set(seen))


async def _until_completed(
    client: LangGraphClient, thread_id: str, *, since: int, gate: Gate, transport: Any
) -> list[Any]:
    channels = ["values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"]
    found: list[Any] = []
    async with client.threads.stream(thread_id, assistant_id="agent", transport=transport) as thread:
        opened: Any = thread  # the SDK's own way to a place: it has no public one
        handle = opened._transport.open_event_stream({"channels": channels, "since": since})
        await handle.ready
        gate.open()
        async for event in handle.events:
            found.append(event)
            if event.get("method") == "lifecycle" and event["params"]["data"]["event"] == "completed":
                await handle.close()
                break
    return found


async def test_two_watchers_get_the_same_events(client: LangGraphClient, url: str) -> None:
    """Ours: any number of watchers, each from the beginning, with the same ids and places."""
    thread_id = str(uuid4())
    found: dict[str, list[Any]] = {}

    async def watch(name: str) -> None:
        async with (
            get_client(url=url, api_key=None) as other,
            other.threads.stream(thread_id, assistant_id="agent") as thread,
        ):
            events: AsyncIterator[Any] = thread.subscribe(["messages", "values", "lifecycle"])
            async for event in events:
                found.setdefault(name, []).append((event["event_id"], event["seq"]))
                if event["method"] == "lifecycle" and event["params"]["data"]["event"] == "completed":
                    return

    with anyio.fail_after(10):
        await client.threads.create(thread_id=thread_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, "one")
            tasks.start_soon(watch, "two")
            async with client.threads.stream(thread_id, assistant_id="agent") as thread:
                await thread.run.start(input=said("hello"))
                await thread.output

    assert found["one"] == found["two"]
    assert len(found["one"]) > 8
