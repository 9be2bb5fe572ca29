"""POST /query: one question, one answer."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langgraph.graph import StateGraph
from typing_extensions import TypedDict

from conftest import serving
from threadkeep import agent
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A server of the built-in agent."""
    graphs = {"agent": as_loaded_graph("agent", agent.build(), where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield http


async def test_conversation_goes_on_by_its_thread(http: httpx.AsyncClient) -> None:
    """Ours: memory in a thread, and in no other."""
    first = (await http.post("/query", json={"query": "My name is Ada."})).json()

    second = await http.post("/query", json={"query": "What is my name?", "thread_id": first["thread_id"]})
    stranger = await http.post("/query", json={"query": "What is my name?"})

    assert set(first) == {"response", "thread_id", "run_id"}
    assert "Ada" in second.json()["response"]
    assert second.json()["thread_id"] == first["thread_id"]
    assert "Ada" not in stranger.json()["response"]
    assert stranger.json()["thread_id"] != first["thread_id"]


async def test_question_may_come_as_query_parameters(http: httpx.AsyncClient) -> None:
    """Ours: as in the original test, whose endpoint took them so."""
    answer = await http.post("/query", params={"query": "What is 17 * 23?", "user_id": "u1"})

    assert answer.status_code == 200
    assert "391" in answer.json()["response"]


async def test_a_missing_thread_is_not_found(http: httpx.AsyncClient) -> None:
    """Ours: a mistyped id does not silently begin a new conversation."""
    answer = await http.post("/query", json={"query": "hi", "thread_id": "6b1c5b0e-3f4e-4b5e-9a53-3b8b8f4d7c11"})

    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.parametrize("body", [b"{", b'{"query": ""}', b'{"query": 1}', b"[]", b'{"query":"x","thread_id":"y"}'])
async def test_bad_question_gets_a_clear_error(http: httpx.AsyncClient, body: bytes) -> None:
    """Ours: every error is JSON with `detail` and `code`."""
    answer = await http.post("/query", content=body)

    assert answer.status_code == 422
    assert set(answer.json()) >= {"detail", "code"}


async def test_a_question_of_the_agent_is_reported(http: httpx.AsyncClient) -> None:
    """Ours: an interrupt can't be answered here; the answer says where."""
    answer = await http.post("/query", json={"query": "Ask a human whether to go on."})

    assert (answer.status_code, answer.json()["code"]) == (409, "interrupted")
    assert answer.json()["interrupts"][0]["value"]["action_requests"][0]["args"] == {"question": "Whether to go on?"}


MESSAGES: dict[str, tuple[Any, str]] = {
    "texts": (["one", "two"], "two"),
    "pair": ([["user", "hi"], ["assistant", "hello"]], '["assistant","hello"]'),
    "blocks": (
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "In "}, "this context", {"type": "text", "text": 5}],
            }
        ],
        "In this context",
    ),
    "no content": ([{"role": "assistant"}], '{"role":"assistant"}'),
    "null": ([{"role": "assistant", "content": None}], "null"),
    "object": ({"first": "x"}, '{"first":"x"}'),
    "text": ("all of it", "all of it"),
    "numbers": ([1, 2], "2"),
}
"""Question -> the `messages` of the state, and the response."""


class AnyMessages(TypedDict):
    messages: Any


async def _answer(state: AnyMessages) -> AnyMessages:
    return {"messages": MESSAGES[state["messages"][-1]["content"]][0]}


async def test_messages_of_any_shape_have_a_response(settings: Settings) -> None:
    """Ours: texts among content blocks and messages that are not objects were answered with 500."""
    graph: Any = (
        StateGraph(AnyMessages).add_node("answer", _answer).set_entry_point("answer").set_finish_point("answer")
    )
    graphs = {"agent": as_loaded_graph("agent", graph.compile(), where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        answers = {question: await http.post("/query", json={"query": question}) for question in MESSAGES}

    assert {question: answer.json().get("response") for question, answer in answers.items()} == {
        question: text for question, (_, text) in MESSAGES.items()
    }
