"""The built-in agent on a language model: at a real endpoint on loopback, where the packages are installed."""

import json
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
import uvicorn
from langchain_core.messages import AIMessageChunk
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from threadkeep import agent
from threadkeep.base.problems import StartupError

HAS_MODELS = find_spec("langchain") is not None and find_spec("langchain_openai") is not None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.skipif(find_spec("langchain") is not None, reason="the packages for language models are installed")
def test_a_model_whose_packages_are_missing_stops_the_start() -> None:
    """Ours: nothing falls back to the offline model."""
    with pytest.raises(StartupError, match=r'pip install "threadkeep\[models\]"'):
        agent.build("openai:gpt-5", "http://127.0.0.1:9/v1")


@pytest.mark.skipif(not HAS_MODELS, reason="the packages for language models are not installed")
def test_a_model_that_can_not_be_made_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a missing key and an unknown provider are told at start, not at the first run."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for model in ("openai:gpt-5", "nobody:nothing"):
        with pytest.raises(StartupError, match=model):
            agent.build(model)


@pytest.mark.skipif(not HAS_MODELS, reason="the packages for language models are not installed")
async def test_a_language_model_at_an_address_answers_streams_and_calls_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: any endpoint that speaks as OpenAI's can be the model."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    async with anyio.create_task_group() as tasks:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route(PATH, completions, methods=["POST"])]), port=0))
        ready = anyio.Event()
        tasks.start_soon(serve, server, ready)
        await ready.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        graph = agent.build("openai:small", f"http://127.0.0.1:{port}/v1")
        with anyio.fail_after(20):
            waited = await graph.ainvoke(QUESTION)
            stream = graph.astream(QUESTION, stream_mode="messages")
            chunks = [chunk async for chunk, _ in stream]
        server.should_exit = True

    assert [message.type for message in waited["messages"]] == ["human", "ai", "tool", "ai"]
    assert waited["messages"][-1].text == "It is 42 ."
    assert [chunk.text for chunk in chunks if isinstance(chunk, AIMessageChunk) and chunk.text] == [
        "It ",
        "is ",
        "42 ",
        ".",
    ]


PATH = "/v1/chat/completions"
QUESTION = {"messages": "six times seven?"}


async def serve(server: uvicorn.Server, ready: anyio.Event) -> None:
    """Serve; `ready` is set once the port is open, for which uvicorn has no event."""
    original = server.startup

    async def startup(*args: Any, **kwargs: Any) -> None:
        await original(*args, **kwargs)
        ready.set()

    server.startup = startup
    await server.serve()


async def completions(request: Request) -> Response:
    """A model that calls the calculator once and then says what came out of it."""
    body = await request.json()
    last = body["messages"][-1]
    call = {"name": "calculator", "arguments": '{"expression": "6*7"}'}
    calls = [{"index": 0, "id": "call_a", "type": "function", "function": call}]
    words = ["It ", "is ", f"{last['content']} ", "."]
    done = last["role"] == "tool"
    head = {"id": "c", "created": 1, "model": "small", "object": "chat.completion"}
    if not body.get("stream"):
        message = (
            {"role": "assistant", "content": "".join(words)} if done else {"role": "assistant", "tool_calls": calls}
        )
        return JSONResponse(head | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    deltas = [{"content": word} for word in words] if done else [{"role": "assistant", "tool_calls": calls}]

    async def events() -> AsyncIterator[str]:
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield f"data: {json.dumps(head | {'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
