"""Responses: on a thread, in the background, resumed by their ids, through OpenAI's own client."""

import json
from typing import Any
from uuid import uuid4

import anyio
import httpx
import openai as sdk
import psycopg
import pytest
from openai import AsyncOpenAI

from conftest import serving
from graphs import Gate
from openai_api.test_chat import IMAGE, WEATHER
from openai_graphs import OPENAI_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

FIELDS = {
    "background", "completed_at", "conversation", "created_at", "error", "frequency_penalty", "id",
    "incomplete_details", "instructions", "langgraph", "max_output_tokens", "max_tool_calls", "metadata", "model",
    "object", "output", "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key",
    "reasoning", "safety_identifier", "service_tier", "status", "store", "temperature", "text", "tool_choice", "tools",
    "top_logprobs", "top_p", "truncation", "usage", "user",
}  # fmt: skip
TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]


async def create(openai: AsyncOpenAI, model: str, text: Any = "hello", **more: Any) -> Any:
    return await openai.responses.create(model=model, input=text, **more)


async def streamed(openai: AsyncOpenAI, model: str, text: Any = "hello", **more: Any) -> list[Any]:
    """The events of a response."""
    return [event async for event in await openai.responses.create(model=model, input=text, stream=True, **more)]


def plain(response: Any) -> dict[str, Any]:
    """A response without what differs between two runs."""
    shown = response.model_dump()
    for name in ("id", "created_at", "completed_at", "langgraph"):
        shown.pop(name)
    for item in shown["output"]:
        item.pop("id")
    return shown


async def test_a_response_has_every_field(http: httpx.AsyncClient) -> None:
    """Contract, The object: what was not sent is told with OpenAI's defaults."""
    answer = (await http.post("/v1/responses", json={"model": "echo", "input": "hello"})).json()

    assert answer.keys() == FIELDS
    assert answer["output"] == [
        {
            "id": answer["output"][0]["id"],
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "You said: hello", "annotations": [], "logprobs": []}],
        }
    ]
    assert {name: answer[name] for name in ("status", "error", "store", "background", "truncation", "tools")} == {
        "status": "completed",
        "error": None,
        "store": True,
        "background": False,
        "truncation": "disabled",
        "tools": [],
    }
    assert answer["text"] == {"format": {"type": "text"}}
    assert answer["reasoning"] == {"effort": None, "summary": None}
    assert answer["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    }
    assert (await http.get(f"/v1/responses/{answer['id']}")).json() == answer


async def test_what_was_sent_is_told_back(openai: AsyncOpenAI) -> None:
    """Contract, The object."""
    answer = await create(
        openai, "echo", tools=TOOLS, temperature=0.5, metadata={"a": "b"}, instructions="be short", user="u"
    )

    assert answer.tools[0].model_dump() == TOOLS[0] | {"description": None} | {
        name: None for name in answer.tools[0].model_dump() if name not in {*TOOLS[0], "description"}
    }
    assert (answer.temperature, answer.metadata, answer.instructions, answer.user) == (
        0.5,
        {"a": "b"},
        "be short",
        "u",
    )


@pytest.mark.parametrize(
    "model", ["agent", "ask", "cut", "echo", "fail", "fail-late", "plain", "refuse", "silent", "think", "twice"]
)
async def test_waiting_streaming_and_retrieving_agree(openai: AsyncOpenAI, model: str) -> None:
    """Contract, Events: all outputs are made by one reader."""
    waited = await create(openai, model)
    events = await streamed(openai, model)
    last = events[-1].response

    assert plain(last) == plain(waited)
    assert (await openai.responses.retrieve(waited.id)).model_dump() == waited.model_dump()
    assert (await openai.responses.retrieve(last.id)).model_dump() == last.model_dump()
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    done = [event.item.model_dump() for event in events if event.type == "response.output_item.done"]
    assert done == [item.model_dump() for item in last.output]


@pytest.mark.parametrize(
    ("model", "types"),
    [
        ("echo", ["content_part.added", *["output_text.delta"] * 3, "output_text.done", "content_part.done"]),
        ("refuse", ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]),
    ],
)
async def test_events_of_a_message(openai: AsyncOpenAI, model: str, types: list[str]) -> None:
    """Contract, Events: a message."""
    events = await streamed(openai, model)

    assert [event.type.removeprefix("response.") for event in events[3:-2]] == types
    assert events[2].item.content == []
    assert events[-1].type == "response.completed"


async def test_events_of_reasoning_and_calls(openai: AsyncOpenAI) -> None:
    """Contract, Events: reasoning is a summary, a call of the client is a function call, one of the graph an MCP call."""
    thought = [event.type.removeprefix("response.") for event in await streamed(openai, "think")]
    called = [
        event.type.removeprefix("response.") for event in await streamed(openai, "agent", "weather?", tools=TOOLS)
    ]
    own = [event.type.removeprefix("response.") for event in await streamed(openai, "agent")]

    assert thought[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    assert called[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert own[2:8] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]


async def test_a_tool_of_the_graph_that_fails_is_told(openai: AsyncOpenAI) -> None:
    """Contract, Tool calls: `mcp_call` with `error`."""
    answer = await create(openai, "agent", "a negative one")
    call: Any = answer.output[0]

    assert (call.type, call.name, call.server_label, call.output, call.status) == (
        "mcp_call",
        "add",
        "agent",
        None,
        "failed",
    )
    assert "no negative numbers" in call.error


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_fails_is_a_response(openai: AsyncOpenAI, stream: bool) -> None:
    """Contract, Status: POST answers 200 with it; without `type` the AI SDK reports a broken reply."""
    answer = (await streamed(openai, "fail"))[-1].response if stream else await create(openai, "fail")

    assert answer.status == "failed"
    assert answer.error.model_dump(exclude_unset=True) == {
        "code": "server_error",
        "message": "ValueError: the node failed",
        "type": "server_error",
        "param": None,
    }


async def test_a_model_out_of_tokens_leaves_an_incomplete_response(openai: AsyncOpenAI) -> None:
    """Contract, Status."""
    answer = (await streamed(openai, "cut"))[-1]

    assert (answer.type, answer.response.status) == ("response.incomplete", "incomplete")
    assert answer.response.incomplete_details.reason == "max_output_tokens"


async def test_the_bytes_of_a_stream(http: httpx.AsyncClient) -> None:
    """Contract, SSE: `event:` is the type, LF alone, `[DONE]`."""
    answer = await http.post("/v1/responses", json={"model": "echo", "input": "hello", "stream": True})
    frames = answer.text.split("\n\n")

    assert "\r" not in answer.text
    assert frames[-2:] == ["data: [DONE]", ""]
    for frame in frames[:-2]:
        event, data = frame.split("\n")
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    deltas = [json.loads(frame.split("\n")[1][6:]) for frame in frames[:-2] if "output_text.delta" in frame]
    assert [delta["delta"] for delta in deltas] == ["You ", "said: ", "hello"]
    assert all(delta["logprobs"] == [] and delta["content_index"] == 0 for delta in deltas)


async def test_a_response_goes_on_and_forks_by_its_id(openai: AsyncOpenAI) -> None:
    """Contract, `previous_response_id`: two responses after one do not know of each other."""
    first = await create(openai, "echo", "one")
    second = await create(openai, "echo", "two", previous_response_id=first.id)
    other = await create(openai, "echo", "three", previous_response_id=first.id)
    third = await create(openai, "echo", "four", previous_response_id=second.id)

    assert second.output_text == "You said: one / two"
    assert other.output_text == "You said: one / three"
    assert third.output_text == "You said: one / two / four"
    assert second.previous_response_id == first.id


async def test_two_at_once_after_one_do_not_know_of_each_other(openai: AsyncOpenAI) -> None:
    """Contract, `previous_response_id`."""
    first, texts = await create(openai, "echo", "one"), list[str]()

    async def go_on(text: str) -> None:
        texts.append((await create(openai, "echo", text, previous_response_id=first.id)).output_text)

    async with anyio.create_task_group() as tasks:
        for text in ("two", "three"):
            tasks.start_soon(go_on, text)

    assert sorted(texts) == ["You said: one / three", "You said: one / two"]


@pytest.mark.parametrize("previous", ["resp_" + "0" * 32, "resp_x", "msg_1"])
async def test_an_unknown_previous_response_is_refused(openai: AsyncOpenAI, previous: str) -> None:
    """Contract, Errors."""
    with pytest.raises(sdk.BadRequestError) as refused:
        await create(openai, "echo", previous_response_id=previous)

    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_a_deleted_response_is_not_found_and_takes_its_thread_along(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """Contract, Routes and Conversations: threads that only a response made go with their last one."""
    first = await create(openai, "echo", "one")
    second = await create(openai, "echo", "two", previous_response_id=first.id)
    thread_id = first.langgraph["thread_id"]
    deleted = await http.delete(f"/v1/responses/{first.id}")
    assert deleted.json() == {"id": first.id, "object": "response", "deleted": True}
    assert (await http.get(f"/threads/{thread_id}")).status_code == 200
    with pytest.raises(sdk.BadRequestError):
        await create(openai, "echo", previous_response_id=first.id)
    with pytest.raises(sdk.NotFoundError) as refused:
        await openai.responses.retrieve(first.id)
    assert refused.value.code == "not_found"
    await openai.responses.delete(second.id)

    assert (await http.get(f"/threads/{thread_id}")).status_code == 404


async def test_threads_of_responses_have_a_time_to_live(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Contract, Conversations: 30 days."""
    answer = await create(openai, "echo")
    thread = (await http.get(f"/threads/{answer.langgraph['thread_id']}", params={"include": "ttl"})).json()

    assert thread["ttl"]["ttl_minutes"] == 30 * 24 * 60


async def test_nothing_is_kept_of_a_response_that_is_not_stored(openai: AsyncOpenAI) -> None:
    """Contract, Routes: `store` false; what came before is input."""
    first = await create(openai, "echo", "one")
    answer = await create(openai, "echo", "two", store=False, previous_response_id=first.id)

    assert answer.output_text == "You said: one / two"
    assert (answer.store, answer.langgraph["thread_id"]) == (False, None)
    with pytest.raises(sdk.NotFoundError):
        await openai.responses.retrieve(answer.id)


async def test_instructions_hold_for_one_response(openai: AsyncOpenAI) -> None:
    """Contract, System text on a thread."""

    def systems(answer: Any) -> list[Any]:
        return [each[1] for each in eval(answer.output_text)["messages"] if each[0] == "system"]  # noqa: S307

    first = await create(openai, "describe", "one", instructions="be short")
    second = await create(openai, "describe", "two", instructions="be long", previous_response_id=first.id)
    third = await create(openai, "describe", "three", previous_response_id=second.id)

    assert [systems(each) for each in (first, second, third)] == [["be short"], ["be long"], []]


async def test_items_reach_the_graph_in_its_form(openai: AsyncOpenAI) -> None:
    """Contract, Messages in."""
    items: list[Any] = [
        {"role": "developer", "content": "be short"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "yes?"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "mcp_call", "id": "m1", "name": "add", "arguments": "{}", "output": "5", "server_label": "x"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": IMAGE["image_url"]["url"]},
            ],
        },
    ]
    shown = eval((await create(openai, "describe", items)).output_text)  # noqa: S307 - a literal of our own graph

    assert shown["messages"] == [
        ["system", "be short", None],
        ["human", "hi", None],
        ["ai", "yes?", None],
        ["tool", "sunny", None],
        ["ai", "", None],
        ["tool", "5", None],
        ["human", [{"type": "text", "text": "see"}, IMAGE], None],
    ]


async def test_tools_are_in_the_shape_of_chat_for_graphs(openai: AsyncOpenAI) -> None:
    """Contract, Settings."""
    shown = eval((await create(openai, "describe", tools=TOOLS, max_output_tokens=5)).output_text)  # noqa: S307

    assert shown["settings"]["tools"] == [{"type": "function", "function": {**WEATHER[0]["function"], "strict": False}}]
    assert shown["settings"]["max_output_tokens"] == 5


async def test_items_are_found_again_by_their_ids(openai: AsyncOpenAI) -> None:
    """Contract, Messages in: the AI SDK sends references instead of earlier answers."""
    for model in ("echo", "think", "agent", "plain", "ask"):
        first = await create(openai, model)
        references: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
        sent: list[Any] = [{"role": "user", "content": "hello"}, *references, {"role": "user", "content": "more"}]
        shown = eval((await create(openai, "describe", sent)).output_text)  # noqa: S307 - a literal of our own graph

        assert shown["messages"][-1] == ["human", "more", None]
        assert [each[1] for each in shown["messages"] if each[0] == "ai" and each[1]] == [first.output_text]


async def test_references_to_older_branches_are_found(openai: AsyncOpenAI) -> None:
    """Contract, Messages in: in any response of the caller that still exists."""
    first = await create(openai, "echo", "one")
    second = await create(openai, "echo", "two", previous_response_id=first.id)
    await create(openai, "echo", "three", previous_response_id=first.id)
    sent: list[Any] = [{"type": "item_reference", "id": second.output[0].id}, {"role": "user", "content": "more"}]

    assert (await create(openai, "echo", sent)).output_text == "You said: more"


async def test_a_question_is_answered_and_answered_anew(openai: AsyncOpenAI) -> None:
    """Contract, Questions."""
    asked = await create(openai, "ask")
    assert (asked.status, asked.output_text) == ("completed", "Which one?")
    assert asked.langgraph["interrupts"][0]["value"] == {"question": "Which one?"}
    red = await create(openai, "ask", "red", previous_response_id=asked.id)
    blue = await create(openai, "ask", "blue", previous_response_id=asked.id)

    assert (red.output_text, blue.output_text) == ("You chose 'red'.", "You chose 'blue'.")
    items = await openai.responses.input_items.list(blue.id)
    assert [item.content[0].text for item in items.data] == ["blue"]  # type: ignore[union-attr]


async def test_a_question_is_a_call_for_a_client_that_has_the_tool(openai: AsyncOpenAI) -> None:
    """Contract, Questions: `function_call_output` is the answer."""
    tools: list[Any] = [{"type": "function", "name": "langgraph_interrupt", "parameters": {}, "strict": False}]
    asked = await create(openai, "ask", tools=tools)
    call: Any = asked.output[0]
    answer: list[Any] = [{"type": "function_call_output", "call_id": call.call_id, "output": "red"}]
    with pytest.raises(sdk.BadRequestError):
        await create(openai, "ask", [answer[0] | {"call_id": "call_none"}], previous_response_id=asked.id)

    assert (call.type, json.loads(call.arguments)) == ("function_call", {"question": "Which one?"})
    assert (await create(openai, "ask", answer, previous_response_id=asked.id)).output_text == "You chose 'red'."


async def test_input_items_are_what_was_sent(openai: AsyncOpenAI) -> None:
    """Contract, Lists."""
    items: list[Any] = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    answer = await create(openai, "echo", items)
    page = await openai.responses.input_items.list(answer.id, limit=2)
    rest = await page.get_next_page()

    assert [item.content[0].text for item in page.data] == ["three", "two"]  # type: ignore[union-attr]
    assert [item.content[0].text for item in rest.data] == ["one"]  # type: ignore[union-attr]
    assert (page.has_more, rest.has_more) == (True, False)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_1"])
async def test_a_list_refuses_what_is_no_page(openai: AsyncOpenAI, http: httpx.AsyncClient, query: str) -> None:
    """Contract, Lists: anything else is 400."""
    answer = await create(openai, "echo")
    refused = await http.get(f"/v1/responses/{answer.id}/input_items?{query}")

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.split("=", maxsplit=1)[0])


async def test_a_response_in_the_background_is_polled(openai: AsyncOpenAI, gate: Gate) -> None:
    """Contract, Background."""
    queued = await create(openai, "gated", background=True)
    assert (queued.status, queued.output, queued.background) == ("queued", [], True)
    await gate.entered()
    assert (await openai.responses.retrieve(queued.id)).status == "in_progress"
    gate.open()
    with anyio.fail_after(5):
        while (done := await openai.responses.retrieve(queued.id)).status == "in_progress":
            await anyio.sleep(0.02)

    assert (done.status, done.output_text) == ("completed", "before after")


async def test_a_stream_in_the_background_is_left_and_taken_up(openai: AsyncOpenAI, gate: Gate) -> None:
    """Contract, Background: leaving stops nothing, `starting_after` goes on."""
    seen: list[Any] = []
    stream = await openai.responses.create(model="gated", input="hello", background=True, stream=True)
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    gate.open()
    run_id = seen[0].response.id
    rest = [
        event
        async for event in await openai.responses.retrieve(run_id, stream=True, starting_after=seen[-1].sequence_number)
    ]
    whole = [event async for event in await openai.responses.retrieve(run_id, stream=True)]

    assert [event.model_dump() for event in [*seen, *rest]] == [event.model_dump() for event in whole]
    assert whole[-1].type == "response.completed"


async def test_the_same_events_come_from_another_process_and_later(
    openai: AsyncOpenAI, module_settings: Settings, gate: Gate
) -> None:
    """Contract, Background: the events are a pure function of the run's events."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in OPENAI_GRAPHS.items()}
    async with serving(module_settings, loaded) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as elsewhere:
        stream = await openai.responses.create(model="gated", input="hello", background=True, stream=True)
        run_id, here, there = "", list[Any](), list[Any]()
        async for event in stream:
            run_id = run_id or event.response.id  # type: ignore[union-attr]
            here.append(event.model_dump())
            if event.type == "response.output_text.delta" and event.delta == "before ":
                gate.open()
        async for event in await elsewhere.responses.retrieve(run_id, stream=True):
            there.append(event.model_dump())

    assert here == there


async def test_a_stream_that_was_not_in_the_background_is_not_taken_up(openai: AsyncOpenAI) -> None:
    """Contract, Background: 400."""
    answer = await create(openai, "echo")
    with pytest.raises(sdk.BadRequestError):
        await openai.responses.retrieve(answer.id, stream=True)


async def test_a_response_is_cancelled(openai: AsyncOpenAI, gate: Gate) -> None:
    """Contract, Routes: cancel stops the run, and answers what has ended as it is."""
    queued = await create(openai, "gated", background=True)
    await gate.entered()
    cancelled = await openai.responses.cancel(queued.id)
    events = [event async for event in await openai.responses.retrieve(queued.id, stream=True)]

    assert (cancelled.status, cancelled.output_text) == ("cancelled", "before ")
    assert (await openai.responses.cancel(queued.id)).model_dump() == cancelled.model_dump()
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")  # type: ignore[union-attr]


async def test_a_client_that_goes_stops_its_response(url: str, openai: AsyncOpenAI, gate: Gate) -> None:
    """Contract, Status: its client left."""
    thread_id = str(uuid4())
    body = {"model": "gated", "input": "hello", "metadata": {"thread_id": thread_id}}
    async with httpx.AsyncClient(base_url=url) as leaving, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: leaving.post("/v1/responses", json=body))
        await gate.entered()
        tasks.cancel_scope.cancel()
    async with httpx.AsyncClient(base_url=url) as http:
        with anyio.fail_after(2):
            while (await http.get(f"/threads/{thread_id}/runs")).json()[0]["status"] == "running":
                await anyio.sleep(0.02)
        [run] = (await http.get(f"/threads/{thread_id}/runs")).json()

    assert (await openai.responses.retrieve(f"resp_{run['run_id'].replace('-', '')}")).status == "cancelled"


@pytest.fixture
async def expired(openai: AsyncOpenAI, module_settings: Settings) -> list[Any]:
    """Responses whose events were deleted by their age."""
    answers = [await create(openai, model) for model in ("echo", "agent", "think", "ask", "fail")]
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri), autocommit=True) as conn:
        await conn.execute("DELETE FROM run_events")
    return answers


async def test_a_response_whose_events_are_gone_is_read_from_its_thread(openai: AsyncOpenAI, expired: Any) -> None:
    """Ours: events are kept for a day, responses for a month."""
    for answer in expired:
        found: Any = await openai.responses.retrieve(answer.id)
        for item in [*found.output, *answer.output]:  # a state has the arguments of a call as an object
            if item.type == "mcp_call":
                item.arguments = json.loads(item.arguments)
        assert found.model_dump(warnings=False) == answer.model_dump(warnings=False)


async def test_a_header_names_the_thread(openai: AsyncOpenAI) -> None:
    """Contract, Which thread: as for Chat."""
    headers = {"X-Conversation-Id": f"chat {uuid4()}"}
    await create(openai, "echo", "one", extra_headers=headers)
    both: list[Any] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "-"},
        {"role": "user", "content": "two"},
    ]
    answer = await create(openai, "echo", both, extra_headers=headers)
    title = await create(openai, "echo", "### Task: make a title", extra_headers=headers)

    assert answer.output_text == "You said: one / two"
    assert answer.conversation is not None
    assert (title.output_text, title.langgraph["thread_id"]) == ("You said: ### Task: make a title", None)


async def test_an_idempotency_key_makes_one_response(openai: AsyncOpenAI) -> None:
    """Contract, In general: one response."""
    headers = {"Idempotency-Key": str(uuid4())}
    one, other = [await create(openai, "echo", extra_headers=headers) for _ in range(2)]

    assert one.model_dump() == other.model_dump()


MISUSES: list[tuple[Any, str, str]] = [
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": [{"type": "film"}]}, "input[0]", "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "invalid_value"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "missing_required_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"background": True, "store": False}, "background", "unsupported_parameter"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "unsupported_value"),
    ({"conversation": "conv_" + "0" * 32, "previous_response_id": "resp_1"}, "previous_response_id", "invalid_value"),
    ({"max_output_tokens": "many"}, "max_output_tokens", "invalid_type"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "code"), MISUSES, ids=lambda each: str(each)[:60])
async def test_each_misuse_is_refused_with_its_place(
    http: httpx.AsyncClient, change: Any, param: str, code: str
) -> None:
    """Contract: refused, since ignoring them would be a lie."""
    answer = await http.post("/v1/responses", json={"model": "echo", "input": "hello", **change})

    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
