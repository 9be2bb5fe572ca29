"""The events of a run: each kind of AG-UI, and what state and messages the page has in the end."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client

from agui.pages import Page, of_type, text, types
from threadkeep.api.agui.state_delta import state_delta

WEATHER = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}


async def test_a_text_is_streamed_and_kept_under_one_id(http: httpx.AsyncClient) -> None:
    """Contract, Events: tokens, both snapshots, and the client's own ids."""
    page = Page(http, "echo", thread_id="notes of today")
    events = await page.say("hello")
    start, end = events[0], events[-1]
    (message,) = of_type(events, "TEXT_MESSAGE_START")

    assert (start["threadId"], start["protocolVersion"]) == ("notes of today", "1.0")
    assert end == {
        "type": "RUN_FINISHED",
        "threadId": "notes of today",
        "runId": start["runId"],
        "outcome": {"type": "success"},
    }
    assert text(events) == "You said: hello|"
    assert len(of_type(events, "TEXT_MESSAGE_CONTENT")) == 3
    assert page.messages[1] == {"id": message["messageId"], "role": "assistant", "content": "You said: hello"}
    assert types(events)[:3] == ["RUN_STARTED", "STATE_SNAPSHOT", "STEP_STARTED"]
    assert types(events)[-3:] == ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]


async def test_any_text_is_read_by_a_client_that_splits_lines_as_python_does(http: httpx.AsyncClient) -> None:
    """Contract, Events: U+2028, U+2029 and U+0085 end no line, in ids neither."""
    page, said = Page(http, "echo", thread_id="\u2028"), "a\u2028b\u2029c\x85d \N{SNOWMAN}"
    events = await page.say(said)

    assert text(events) == f"You said: {said}|"
    assert [message["content"] for message in page.messages] == [said, f"You said: {said}"]
    assert (await page.run(resume=[{"interruptId": "x", "status": "cancelled"}]))[-1]["code"] == "unknown_interrupt"


async def test_only_new_messages_go_in(http: httpx.AsyncClient) -> None:
    """Contract, Messages: pages send all of them each time."""
    page = Page(http, "echo")
    await page.say("one")
    await page.say("two")
    page.messages.append({"id": "r", "role": "reasoning", "content": "hm"})
    page.messages.append({"id": "a", "role": "activity", "activityType": "x", "content": {}})
    events = await page.say("three")

    assert text(events) == "You said: one / two / three|"
    assert [message["role"] for message in page.messages] == ["user", "assistant"] * 3


async def test_the_last_answer_is_made_anew(http: httpx.AsyncClient) -> None:
    """Contract, Messages: from the checkpoint before the user's last message."""
    page = Page(http, "echo")
    await page.say("one")
    await page.say("two")
    first, shown = page.messages[:3], page.messages
    page.messages = first
    events = await page.run()

    assert text(events) == "You said: one / two|"
    assert [message["id"] for message in page.messages[:3]] == [message["id"] for message in shown[:3]]
    assert page.messages[3]["id"] != shown[3]["id"]
    assert len(page.messages) == 4
    page.messages = page.messages[:1]
    assert text(await page.run()) == "You said: one|"
    assert len(page.messages) == 2


async def test_nodes_are_steps_and_the_state_comes_in_pieces(http: httpx.AsyncClient) -> None:
    """Contract, Events: tasks of one node that overlap are one step; a delta after each step."""
    page = Page(http, "steps", state={"count": 4})
    events = await page.say("go")
    state: Any = of_type(events, "STATE_SNAPSHOT")[0]["snapshot"]
    workers = [f"worker {number}" for number in range(3)]

    assert [event["stepName"] for event in of_type(events, "STEP_STARTED")] == ["count", "worker", "sum_up"]
    assert [event["stepName"] for event in of_type(events, "STEP_FINISHED")] == ["count", "worker", "sum_up"]
    assert state == {"count": 4, "log": []}
    assert [event["delta"] for event in of_type(events, "STATE_DELTA")] == [
        [{"op": "replace", "path": "/count", "value": 5}, {"op": "add", "path": "/log/-", "value": "counted"}],
        [{"op": "add", "path": "/log/-", "value": each} for each in workers],
        [{"op": "add", "path": "/notes", "value": {"a/b": [1, 2], "~": None}}],
    ]
    assert page.state == {"count": 5, "log": ["counted", *workers], "notes": {"a/b": [1, 2], "~": None}}
    assert text(events) == "one two|all done|"


async def test_what_nodes_write_is_custom(http: httpx.AsyncClient) -> None:
    """Contract, Events: the name is the value's, or `custom`."""
    events = await Page(http, "steps").say("go")

    assert [(event["name"], event["value"]) for event in of_type(events, "CUSTOM")] == [
        ("progress", {"name": "progress", "progress": 1}),
        ("custom", "half"),
    ]


async def test_a_state_that_the_page_did_not_change_goes_through_no_reducer(http: httpx.AsyncClient) -> None:
    """Contract, State: the page sends back what it was told."""
    page = Page(http, "steps")
    await page.say("go")
    log = list(page.state["log"])
    page.state = {**page.state, "count": 10, "unknown": 1}
    await page.say("go")

    assert page.state["count"] == 11
    assert page.state["log"] == log * 2


async def test_tools_of_the_graph_are_called_and_answered(http: httpx.AsyncClient) -> None:
    """Contract, Events: TOOL_CALL_* with the message that calls, and its result."""
    page = Page(http, "agent")
    events = await page.say("add")
    calls = [event for event in events if event["type"].startswith("TOOL_CALL")]
    result = page.messages[2]

    assert calls == [
        {
            "type": "TOOL_CALL_START",
            "toolCallId": "call-add",
            "toolCallName": "add",
            "parentMessageId": page.messages[1]["id"],
        },
        {"type": "TOOL_CALL_ARGS", "toolCallId": "call-add", "delta": '{"a": 2,'},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "call-add", "delta": ' "b": 3}'},
        {"type": "TOOL_CALL_END", "toolCallId": "call-add"},
        {
            "type": "TOOL_CALL_RESULT",
            "messageId": result["id"],
            "toolCallId": "call-add",
            "role": "tool",
            "content": "5",
        },
    ]
    assert page.messages[1]["toolCalls"] == [
        {"id": "call-add", "type": "function", "function": {"name": "add", "arguments": '{"a":2,"b":3}'}}
    ]
    assert text(events) == "It is 5.|"
    assert events[-1]["outcome"] == {"type": "success"}


async def test_a_failed_tool_is_told_as_an_error(http: httpx.AsyncClient) -> None:
    """Contract, Events: the page sees which tool failed."""
    page = Page(http, "agent")
    await page.say("add negative numbers")

    assert "no negative numbers" in page.messages[2]["error"]


async def test_a_tool_of_the_page_ends_the_run_and_its_result_continues(http: httpx.AsyncClient) -> None:
    """Contract, Events: a page's tool has no result: the run simply ends."""
    page = Page(http, "agent")
    events = await page.say("weather", tools=[WEATHER])
    call_id = of_type(events, "TOOL_CALL_START")[0]["toolCallId"]

    assert not of_type(events, "TOOL_CALL_RESULT")
    assert events[-1]["outcome"] == {"type": "success", "pendingToolCallIds": [call_id]}
    page.messages = [*page.messages, {"id": "t1", "role": "tool", "toolCallId": call_id, "content": "sunny"}]
    assert text(await page.run(tools=[WEATHER])) == "It is sunny.|"
    assert page.messages[2] == {"id": "t1", "role": "tool", "toolCallId": call_id, "content": "sunny"}


async def test_reasoning_comes_before_the_text(http: httpx.AsyncClient) -> None:
    """Contract, Events: REASONING_*."""
    page = Page(http, "think")
    events = await page.say("hello")
    reasoning = [event for event in events if event["type"].startswith("REASONING")]

    assert types(reasoning) == [
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
    ]
    assert "".join(event.get("delta", "") for event in reasoning) == "so, well"
    assert types(events).index("REASONING_END") < types(events).index("TEXT_MESSAGE_START")
    assert reasoning[0]["messageId"] != page.messages[1]["id"]
    assert page.messages[1]["content"] == "here it is"


@pytest.mark.parametrize(
    ("agent", "expected"), [("plain", "a plain dict|"), ("hidden", "in the open|"), ("parent", "You said: hello|")]
)
async def test_a_message_that_nobody_streamed_is_told_once(http: httpx.AsyncClient, agent: str, expected: str) -> None:
    """Contract, Events: from the state; the tokens of a subgraph are told as they come."""
    assert text(await Page(http, agent).say("hello")) == expected


async def test_two_models_at_once_are_two_messages(http: httpx.AsyncClient) -> None:
    """Contract, Events: each piece names its message."""
    events = await Page(http, "twice").say("hello")
    texts: dict[str, str] = {}
    for event in of_type(events, "TEXT_MESSAGE_CONTENT"):
        texts[event["messageId"]] = texts.get(event["messageId"], "") + event["delta"]

    assert sorted(texts.values()) == ["one two", "three four"]


async def test_parts_that_are_no_text_go_in_and_come_out(http: httpx.AsyncClient) -> None:
    """Contract, Messages: blocks of LangChain in, parts of AG-UI out."""
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}},
        {"type": "document", "source": {"type": "url", "value": "https://example.org/a.pdf"}},
        {"type": "audio", "source": {"type": "data", "value": "AAAA", "mimeType": "audio/wav"}},
        {"type": "video", "source": {"type": "file", "value": "file-1"}},
    ]
    page = Page(http, "describe")
    answer = text(await page.say(parts))

    assert page.messages[0]["content"] == parts
    assert "'type': 'image', 'base64': 'AAAA', 'mime_type': 'image/png'" in answer
    assert "'type': 'file', 'url': 'https://example.org/a.pdf'" in answer
    assert "'type': 'video', 'file_id': 'file-1'" in answer


async def test_parts_of_older_clients_are_understood(http: httpx.AsyncClient) -> None:
    """Contract, Messages: `binary` was AG-UI's part before 1.0."""
    page = Page(http, "silent")
    old = {"type": "binary", "mimeType": "image/png", "data": "AAAA", "filename": "a.png"}
    await page.say([{"type": "text", "text": "look"}, old])

    assert page.messages[0]["content"][1] == {
        "type": "image",
        "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"},
        "metadata": {"filename": "a.png"},
    }


async def test_the_result_of_a_tool_may_be_an_image(http: httpx.AsyncClient) -> None:
    """Contract, Events: TOOL_CALL_RESULT with parts."""
    events = await Page(http, "look").say("hello")
    (result,) = of_type(events, "TOOL_CALL_RESULT")

    assert result["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}},
    ]


async def test_tools_and_context_reach_the_graph(http: httpx.AsyncClient) -> None:
    """Contract, State: in the keys that its input has, and always in `configurable`; `forwardedProps.config` is heeded."""
    context = [{"description": "Where", "value": "Oslo"}]
    props = {"config": {"configurable": {"flavour": "sweet"}}, "more": 1}
    page = Page(http, "shown")
    await page.say("hello", tools=[WEATHER], context=context, forwardedProps=props)
    seen = page.state["seen"]

    assert seen["tools"] == [WEATHER]
    assert seen["ag-ui"] == {"tools": [WEATHER], "context": context}
    assert seen["copilotkit"] == {"actions": [WEATHER], "context": context}
    assert seen["ag_ui"] == {"tools": [WEATHER], "context": context, "forwarded_props": props}
    assert seen["flavour"] == "sweet"


async def test_a_graph_without_messages_gets_the_state(http: httpx.AsyncClient) -> None:
    """Contract, State: keys that the input schema knows."""
    page = Page(http, "double", state={"number": 3, "other": 1})
    events = await page.run()

    assert page.state == {"number": 6}
    assert not of_type(events, "MESSAGES_SNAPSHOT")


@pytest.mark.parametrize("agent", ["fail", "fail-late"])
async def test_a_graph_that_raises_is_a_run_error(http: httpx.AsyncClient, agent: str) -> None:
    """Contract, Errors of graphs: class and message."""
    events = await Page(http, agent).say("hello")

    assert events[-1] == {
        "type": "RUN_ERROR",
        "message": "ValueError: the node failed",
        "code": "ValueError",
    }


async def test_the_text_of_an_unknown_error_is_told_to_nobody(http: httpx.AsyncClient) -> None:
    """Contract, Errors of graphs: a request id in its place. The replay tells the same."""
    page, run_id = Page(http, "leak"), str(uuid4())
    events = await page.say("hello", runId=run_id)

    assert events[-1]["code"] == "Leak"
    assert events[-1]["message"].startswith("Leak: An internal error occurred (request id: ")
    assert await page.run(runId=run_id) == events


async def test_the_run_tells_where_it_came_from_and_the_langgraph_api_reads_it(
    http: httpx.AsyncClient, url: str
) -> None:
    """Contract, Marks; one engine."""
    page = Page(http, "echo")
    run_id = str(uuid4())
    await page.say("hello", runId=run_id)
    async with get_client(url=url, api_key=None) as client:
        (run,) = await client.runs.list(page.thread_id)
        thread = await client.threads.get(page.thread_id)

    assert run["metadata"]["source"] == "ag-ui"
    assert run["metadata"]["ag_ui"]["run_id"] == run_id
    assert "source" not in thread["metadata"]
    assert [message["id"] for message in thread["values"]["messages"]] == [each["id"] for each in page.messages]


async def test_a_client_of_the_langgraph_api_gets_the_events_of_its_protocol(http: httpx.AsyncClient, url: str) -> None:
    """Contract, For all three: what AG-UI starts is seen by the LangGraph API, without AG-UI's own events."""
    page = Page(http, "steps")
    await page.say("hello")
    async with get_client(url=url, api_key=None) as client:
        (run,) = await client.runs.list(page.thread_id)
        joined = [part async for part in client.runs.join_stream(page.thread_id, run["run_id"], last_event_id="-1")]
        nodes: dict[str, Any] = {"stream_mode": "nodes", "last_event_id": "-1"}
        modes = [part.event async for part in client.runs.join_stream(page.thread_id, run["run_id"], **nodes)]
        async for part in await client.threads.join_stream(page.thread_id, last_event_id="-1"):
            modes.append(part.event)
            if part.event == "metadata" and part.data.get("status") == "run_done":
                break

    assert {part.event for part in joined} == {"metadata", "messages", "values", "custom"}
    assert set(modes) == {"metadata", "messages", "values", "custom"}
    assert joined[-1].data["log"] == ["counted", "worker 0", "worker 1", "worker 2"]


async def test_a_run_of_another_surface_can_be_watched(http: httpx.AsyncClient, url: str) -> None:
    """Contract: a conversation is a thread, whoever asks."""
    async with get_client(url=url, api_key=None) as client:
        thread = await client.threads.create()
        messages = [{"role": "user", "content": "hello"}]
        ids: list[str] = []
        await client.runs.wait(
            thread["thread_id"],
            "echo",
            input={"messages": messages},
            on_run_created=lambda made: ids.append(made["run_id"]),
        )
        page = Page(http, "echo", thread_id=thread["thread_id"])
        events = await page.run(runId=ids[0])
        runs = await client.runs.list(thread["thread_id"])

    assert types(events) == ["RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert [message["content"] for message in page.messages] == ["hello", "not streamed"]
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"messages": [{"id": "1", "role": "nobody", "content": "x"}]}, 422, "messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, 422, "id"),
        ({"threadId": ""}, 422, "threadId"),
        ({"threadId": "x" * 256}, 422, "threadId"),
        ({"runId": ""}, 422, "runId"),
        ({"resume": [{"interruptId": "1", "status": "perhaps"}]}, 422, "status"),
        ({"forwardedProps": {"config": {"configurable": 1}}}, 422, "configurable"),
        ({"forwardedProps": {"config": {"recursion_limit": 0}}}, 422, "recursion_limit"),
    ],
)
async def test_a_request_that_is_wrong_is_refused_before_the_stream(
    http: httpx.AsyncClient, change: dict[str, Any], status: int, told: str
) -> None:
    """Contract: 422 names the place."""
    answer = await Page(http, "echo").refused(**change)

    assert answer.status_code == status
    assert told in answer.json()["detail"]


async def test_an_agent_that_is_not_there_is_404_and_another_method_405(http: httpx.AsyncClient) -> None:
    """Contract: before the stream."""
    answers = [await Page(http, name).refused() for name in ("none", str(uuid4()))]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert (await http.get("/ag-ui/echo")).status_code == 405


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ({"a": 1, "b": 2}, {"b": 2}, [{"op": "remove", "path": "/a"}]),
        ({"a": [1, 2, 3]}, {"a": [1]}, [{"op": "remove", "path": "/a/2"}, {"op": "remove", "path": "/a/1"}]),
        ({"x/~": {}}, {"x/~": {"y": 0}}, [{"op": "add", "path": "/x~1~0/y", "value": 0}]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, [{"op": "replace", "path": "/a/0/b", "value": 2}]),
        ([], {}, [{"op": "replace", "path": "", "value": {}}]),
    ],
)
def test_a_delta_is_a_json_patch(before: Any, after: Any, expected: Any) -> None:
    """RFC 6902."""
    assert state_delta(before, after) == expected
