"""Chat Completions without a thread, through OpenAI's own client."""

import json
from typing import Any

import anyio
import httpx
import openai as sdk
import pytest
from openai import AsyncOpenAI

from graphs import Gate

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


async def described(openai: AsyncOpenAI, messages: Any, **more: Any) -> Any:
    """What the graph was called with."""
    answer = await openai.chat.completions.create(model="describe", messages=messages, **more)
    return eval(answer.choices[0].message.content or "")  # noqa: S307 - a literal of our own graph


async def streamed(openai: AsyncOpenAI, model: str, **more: Any) -> list[Any]:
    """The chunks of a stream."""
    asked: Any = {"messages": HELLO, **more}
    return [chunk async for chunk in await openai.chat.completions.create(model=model, stream=True, **asked)]


def text_of(chunks: list[Any], field: str = "content") -> str:
    return "".join(getattr(chunk.choices[0].delta, field, None) or "" for chunk in chunks if chunk.choices)


async def test_models_are_the_graphs_that_take_messages(openai: AsyncOpenAI) -> None:
    """Contract, Models."""
    models = [model async for model in openai.models.list()]

    assert "echo" in {model.id for model in models}
    assert "ask/two" in {model.id for model in models}
    assert "chain" not in {model.id for model in models}
    assert {(model.object, model.owned_by) for model in models} == {("model", "threadkeep")}
    assert (await openai.models.retrieve("ask/two")).id == "ask/two"
    with pytest.raises(sdk.NotFoundError) as refused:
        await openai.models.retrieve("chain")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


async def test_an_assistant_is_a_model_by_its_id(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    """Contract, Models: nothing else is accepted."""
    made = (await http.post("/assistants", json={"graph_id": "echo", "name": "Named"})).json()
    found = await openai.models.retrieve(made["assistant_id"])
    answer = await openai.chat.completions.create(model=made["assistant_id"], messages=HELLO)

    assert (found.id, found.model_extra) == (made["assistant_id"], {"name": "Named"})
    assert answer.choices[0].message.content == "You said: hello"
    with pytest.raises(sdk.NotFoundError):
        await openai.chat.completions.create(model="Named", messages=HELLO)


async def test_an_answer_is_a_completion(openai: AsyncOpenAI) -> None:
    """Contract, What a run says."""
    answer = await openai.chat.completions.create(model="echo", messages=HELLO)
    extension: Any = (answer.model_extra or {})["langgraph"]

    assert answer.choices[0].message.content == "You said: hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
    assert extension == {"thread_id": None, "run_id": extension["run_id"], "interrupts": []}
    assert answer.id == f"chatcmpl-{extension['run_id'].replace('-', '')}"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("echo", "You said: hello"),
        ("plain", "a plain dict"),
        ("silent", ""),
        ("twice", "one two\n\nthree four"),
        ("hidden", "in the open"),
        ("think", "here it is"),
        ("agent", "It is 5."),
        ("parent", "You said: hello"),
    ],
)
async def test_waiting_and_streaming_agree(openai: AsyncOpenAI, model: str, text: str) -> None:
    """Contract, What a run says: one reader makes both."""
    answer = await openai.chat.completions.create(model=model, messages=HELLO)
    chunks = await streamed(openai, model)

    assert answer.choices[0].message.content == text
    assert text_of(chunks) == text
    assert answer.choices[0].message.tool_calls is None
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


async def test_tokens_are_sent_as_they_come(openai: AsyncOpenAI, gate: Gate) -> None:
    """Contract, Bytes."""
    stream = await openai.chat.completions.create(model="gated", messages=HELLO, stream=True)
    texts: list[str] = []
    async for chunk in stream:
        texts.append(chunk.choices[0].delta.content or "")
        if texts[-1] == "before ":
            gate.open()

    assert texts == ["", "before ", "after", ""]


async def test_reasoning_and_refusals_have_fields_of_their_own(openai: AsyncOpenAI) -> None:
    """Contract, What a run says: only text is content."""
    thought = (await openai.chat.completions.create(model="think", messages=HELLO)).choices[0].message
    refused = (await openai.chat.completions.create(model="refuse", messages=HELLO)).choices[0].message

    assert (thought.content, (thought.model_extra or {})["reasoning_content"]) == ("here it is", "so, well")
    assert text_of(await streamed(openai, "think"), "reasoning_content") == "so, well"
    assert (refused.content, refused.refusal) == ("", "no")


async def test_calls_of_the_clients_tools_are_told_and_the_graphs_own_are_not(openai: AsyncOpenAI) -> None:
    """Contract, Tool calls: declared, or without a result when the run ends."""
    asked: Any = {"messages": [{"role": "user", "content": "weather?"}]}
    for tools in ({"tools": WEATHER}, {}):
        choice = (await openai.chat.completions.create(model="agent", **asked, **tools)).choices[0]
        calls: Any = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
            ("call-weather", "weather", '{"city": "Oslo"}')
        ]
        chunks = await streamed(openai, "agent", **asked, **tools)
        pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
        assert "".join(piece.function.arguments for piece in pieces) == '{"city": "Oslo"}'
        assert [piece.id for piece in pieces] == ["call-weather"] + [None] * (len(pieces) - 1)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_result_of_a_clients_tool_goes_on_to_the_graph(openai: AsyncOpenAI) -> None:
    """Contract, Messages in: `tool_calls` and `tool`."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages: Any = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = await openai.chat.completions.create(model="agent", messages=messages, tools=WEATHER)

    assert answer.choices[0].message.content == "It is sunny."


async def test_a_model_that_stops_too_soon_says_why(openai: AsyncOpenAI) -> None:
    """Contract, `finish_reason`."""
    assert (await openai.chat.completions.create(model="cut", messages=HELLO)).choices[0].finish_reason == "length"
    assert (await streamed(openai, "cut"))[-1].choices[0].finish_reason == "length"


async def test_messages_reach_the_graph_in_its_form(openai: AsyncOpenAI) -> None:
    """Contract, Messages in: each row of the table."""
    shown = await described(
        openai,
        [
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": "hi", "name": "ada"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},
        ],
    )

    assert shown["messages"] == [
        ["system", "be short", None],
        ["human", "hi", "ada"],
        ["ai", "yes?", None],
        ["human", "one\ntwo", None],
        ["human", [{"type": "text", "text": "see"}, IMAGE], None],
    ]


async def test_settings_are_there_for_graphs_that_want_them(openai: AsyncOpenAI) -> None:
    """Contract, Settings: a null is an absent field, unknown fields are passed over."""
    shown = await described(
        openai,
        HELLO,
        temperature=0.5,
        stop=["end"],
        tools=WEATHER,
        user="u",
        extra_body={"seed": None, "of_next_week": 1, "thread_id": "x"},
    )

    assert shown["settings"] == {
        "api": "chat",
        "temperature": 0.5,
        "stop": ["end"],
        "tools": WEATHER,
        "user": "u",
    }


CHUNK = {
    "object": "chat.completion.chunk",
    "model": "silent",
}


async def test_the_bytes_of_a_stream(http: httpx.AsyncClient) -> None:
    """Contract, Bytes: LF alone, one `data:` a frame, a finish_reason in each choice, usage where it is wanted."""
    body = {"model": "silent", "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    answer = await http.post("/v1/chat/completions", json=body)
    frames = answer.text.split("\n\n")
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]

    assert "\r" not in answer.text
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames[:-1])
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
        [],
    ]
    assert [chunk["usage"] and chunk["usage"]["total_tokens"] for chunk in chunks] == [None, None, 0]
    assert ["langgraph" in chunk for chunk in chunks] == [True, True, False]
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    assert "x-thread-id" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_fails_at_once_has_a_status_and_is_not_sent_again(
    http: httpx.AsyncClient, stream: bool
) -> None:
    """Contract, Errors: the SDKs send a 500 again unless they are told not to."""
    answer = await http.post("/v1/chat/completions", json={"model": "fail", "messages": HELLO, "stream": stream})

    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert answer.json() == {
        "error": {
            "message": "ValueError: the node failed",
            "type": "server_error",
            "param": None,
            "code": "run_failed",
        }
    }


async def test_a_failure_in_the_middle_is_in_the_stream_which_has_no_end(http: httpx.AsyncClient) -> None:
    """Contract, SSE: a stream with `[DONE]` is whole."""
    answer = await http.post("/v1/chat/completions", json={"model": "fail-late", "messages": HELLO, "stream": True})
    last = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))

    assert answer.status_code == 200
    assert last["error"]["code"] == "run_failed"
    assert "[DONE]" not in answer.text


async def test_a_question_needs_a_thread(openai: AsyncOpenAI) -> None:
    """Contract, Questions: Chat without a thread."""
    with pytest.raises(sdk.BadRequestError) as refused:
        await openai.chat.completions.create(model="ask", messages=HELLO)

    assert refused.value.code == "thread_required"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_stops_its_run(http: httpx.AsyncClient, gate: Gate, url: str, stream: bool) -> None:
    """Contract, A client that goes stops its run within a second."""
    body = {"model": "gated", "messages": HELLO, "stream": stream}
    async with httpx.AsyncClient(base_url=url) as leaving, anyio.create_task_group() as tasks:

        async def ask() -> None:
            async with leaving.stream("POST", "/v1/chat/completions", json=body) as answer:
                await answer.aread()

        tasks.start_soon(ask)
        await gate.entered()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(2):
        while gate.inside:
            await anyio.sleep(0.02)


MISUSES: list[tuple[Any, str, str]] = [
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hello"}, "messages", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "film"}]}]},
        "messages[0].content[1]",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        "messages[0].content[0]",
        "invalid_value",
    ),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"logprobs": True}, "logprobs", "unsupported_parameter"),
    ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].name", "missing_required_parameter"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "invalid_value"),
    ({"metadata": {"k" * 65: "x"}}, "metadata", "invalid_value"),
    ({"metadata": {"k": "x" * 513}}, "metadata.k", "invalid_value"),
    ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
    ({"metadata": {"thread_id": "x" * 256}}, "metadata.thread_id", "invalid_value"),
]


@pytest.mark.parametrize(("change", "param", "code"), MISUSES, ids=lambda each: str(each)[:60])
async def test_each_misuse_is_refused_with_its_place(
    http: httpx.AsyncClient, change: Any, param: str, code: str
) -> None:
    """Contract: what is wrong with a request is 400, with all four keys."""
    body = {"model": "echo", "messages": HELLO, **change}
    answer = await http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]

    assert answer.status_code == 400
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/files", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, None),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_other_paths_have_the_same_errors(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str | None
) -> None:
    """Contract, Errors: on every path below `/v1`."""
    answer = await http.request(method, path, json={} if method == "POST" else None)

    assert answer.status_code == status
    assert answer.json()["error"] == {
        "message": answer.json()["error"]["message"],
        "type": "invalid_request_error",
        "param": "model" if code == "model_not_found" else None,
        "code": code,
    }
    if status == 405:
        assert answer.headers["allow"] == "POST"
    assert (await http.get("/none")).json() == {"detail": "Not Found", "code": "not-found"}


async def test_bodies_that_are_no_json_are_refused_in_the_same_format(http: httpx.AsyncClient) -> None:
    """Contract, Errors: 415, and 400 for what can't be read."""
    form = await http.post("/v1/chat/completions", data={"model": "echo"})
    broken = await http.post("/v1/chat/completions", content="{", headers={"content-type": "application/json"})

    assert (form.status_code, form.json()["error"]["type"]) == (415, "invalid_request_error")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_value")
