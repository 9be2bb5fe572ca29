"""A chat in the browser: the requests of agent-chat-ui and `useStream`, in the order in which a person causes them."""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import httpx
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from clients.node import needs_node, run_script
from conftest import serving
from graphs import Gate
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

PAGE = {"origin": "http://localhost:3000"}


def chat(gate: Gate) -> StateGraph[Any, Any, Any, Any]:
    """Answers each message; on "wait" it waits at `gate`, on "block" for ever, on "approve" it asks, on "fail" it fails."""
    numbers, never = count(), Gate()

    async def answer(state: MessagesState) -> dict[str, Any]:
        text = state["messages"][-1].text
        if text in {"wait", "block"}:
            get_stream_writer()({"progress": "waiting"})
            await (gate if text == "wait" else never).pass_through()
        if text == "approve":
            assert interrupt({"action": "delete"}) == {"decisions": [{"type": "approve"}]}
        if text == "fail":
            raise ValueError("the model failed")
        said = AIMessage(f"you said {text}", id=f"answer-{next(numbers)}")
        return {"messages": [await GenericFakeChatModel(messages=iter([said])).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph


@pytest.fixture
async def chat_url(settings: Settings, gate: Gate) -> AsyncIterator[str]:
    """The URL of a server of the graph `chat`."""
    async with serving(settings, {"chat": as_loaded_graph("chat", chat(gate), where="tests")}) as url:
        yield url


@needs_node
async def test_chat_in_the_browser_goes_as_its_users_expect(chat_url: str, gate: Gate) -> None:
    """Protocol: chat.mjs: first message, edit, regenerate, reload, question, error, queue, stop."""
    await run_script("chat", chat_url, "1x", {"open the gate": gate.open})


async def test_page_may_ask_and_may_read_what_the_hook_needs(http: httpx.AsyncClient) -> None:
    """Protocol: preflight; without Content-Location exposed, `onRunCreated` and reconnect-on-mount are dead."""
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
    preflight = await http.options("/threads/any/runs/stream", headers=PAGE | wanted)
    answer = await http.post("/runs/wait", json={"assistant_id": "chain", "input": {"items": []}}, headers=PAGE)
    refused = await http.get("/threads/no-uuid", headers=PAGE)

    assert preflight.status_code == 200
    assert {"content-type", "x-api-key"} <= set(preflight.headers["access-control-allow-headers"].split(","))
    assert "content-location" in answer.headers["access-control-expose-headers"]
    for each in (preflight, answer, refused):
        assert each.headers["access-control-allow-origin"] == PAGE["origin"]
