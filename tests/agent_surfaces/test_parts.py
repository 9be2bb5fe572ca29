"""What MCP, A2A and AG-UI share: ids of threads, contents of messages, questions and marks."""

import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import MessagesState, StateGraph

from threadkeep.api.agents.content import Media, content_blocks, media_block, message_content, text_block
from threadkeep.api.agents.marks import marks_of, run_marks
from threadkeep.api.agents.message_graphs import MessageGraphs
from threadkeep.api.agents.questions import Question, question_schema, question_text, questions_of, text_answer
from threadkeep.api.agents.thread_ids import derived_thread_id
from threadkeep.graphs import as_loaded_graph

THREAD = "0198c0de-0000-7000-8000-000000000001"
ACTIONS = {
    "action_requests": [
        {"name": "pay", "args": {"sum": 3}, "description": "Pay the bill"},
        {"name": "tell", "args": {}},
    ],
    "review_configs": [],
}


def test_a_uuid_is_the_id_of_the_thread() -> None:
    """Contract, Ids from clients."""
    assert derived_thread_id(THREAD, "default", "ada") == UUID(THREAD)


def test_another_text_stands_for_a_thread_of_its_principal() -> None:
    """Contract, Ids from clients: it never meets another principal's."""
    threads = {derived_thread_id("notes", project, who) for project in ("one", "two") for who in ("ada", "bob", None)}

    assert len(threads) == 6
    assert derived_thread_id("notes", "one", "ada") in threads


def test_text_alone_is_a_plain_string() -> None:
    """Contract, Messages in."""
    image = media_block(Media(mime_type="image/png", base64="AAAA", filename="a.png"))

    assert message_content([text_block("one"), text_block("two")]) == "one\ntwo"
    assert message_content([text_block("see"), image]) == [
        {"type": "text", "text": "see"},
        {"type": "image", "base64": "AAAA", "mime_type": "image/png", "filename": "a.png"},
    ]


@pytest.mark.parametrize(
    ("mime_type", "expected"),
    [
        ("image/png", "image"),
        ("audio/wav", "audio"),
        ("video/mp4", "video"),
        ("application/pdf", "file"),
        (None, "file"),
    ],
)
def test_the_type_of_a_block_follows_from_its_mime_type(mime_type: str | None, expected: str) -> None:
    """Contract, Messages in."""
    assert media_block(Media(mime_type=mime_type, url="https://example.org/x"))["type"] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hello", [{"type": "text", "text": "hello"}]),
        ("", []),
        (["a", {"type": "text", "text": "b"}], [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
            [{"type": "image", "base64": "AAAA", "mime_type": "image/png"}],
        ),
        (
            [{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}],
            [{"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "a.pdf"}],
        ),
        ([{"type": "thinking", "thinking": "hm"}], [{"type": "reasoning", "reasoning": "hm"}]),
        ([{"chart": 1}], [{"type": "non_standard", "value": {"chart": 1}}]),
        ([{"type": "image_url"}], [{"type": "non_standard", "value": {"type": "image_url"}}]),
        (None, []),
    ],
)
def test_the_content_of_any_provider_is_told_in_standard_blocks(content: Any, expected: Any) -> None:
    """Contract, Messages in: out, a `non_standard` block is data."""
    for kind in ("human", "ai"):
        assert content_blocks({"type": kind, "content": content}) == expected


def test_calls_of_tools_are_no_content() -> None:
    """Contract: they are told as calls."""
    call = {"type": "tool_call", "name": "add", "args": {}, "id": "1"}

    assert content_blocks({"type": "ai", "content": [call, {"type": "text", "text": "x"}]}) == [text_block("x")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Sure?", "Sure?"),
        ({"message": "one", "question": "two"}, "one"),
        ({"question": "two", "prompt": "three"}, "two"),
        ({"prompt": "three"}, "three"),
        ({"choices": [1]}, '{"choices":[1]}'),
        ({"message": 3}, '{"message":3}'),
        (None, "null"),
        (ACTIONS, 'Approve these actions?\n- pay({"sum":3}): Pay the bill\n- tell({})'),
    ],
)
def test_a_question_is_text(value: Any, text: str) -> None:
    """Contract, Questions out."""
    assert question_text(Question("1", value)) == text


@pytest.mark.parametrize("key", ["requestedSchema", "responseSchema", "response_schema"])
def test_a_question_has_the_schema_that_its_value_has(key: str) -> None:
    """Contract, Questions out."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}

    assert question_schema(Question("1", {key: schema})) == schema
    assert question_schema(Question("1", {key: "no schema"})) is None
    assert question_schema(Question("1", "Sure?")) is None


def test_actions_ask_for_one_decision_each() -> None:
    """Contract, Questions out: LangChain's human in the loop."""
    question = Question("1", ACTIONS)
    schema: Any = question_schema(question)

    assert schema["required"] == ["decisions"]
    assert (schema["properties"]["decisions"]["minItems"], schema["properties"]["decisions"]["maxItems"]) == (2, 2)
    assert text_answer(question, "Yes!") == {"decisions": [{"type": "approve"}, {"type": "approve"}]}
    assert text_answer(question, "too much")["decisions"] == [{"type": "reject", "message": "too much"}] * 2
    assert text_answer(question, '{"decisions": []}') == {"decisions": []}


def test_questions_are_read_from_a_thread_and_from_a_state() -> None:
    """A thread has them by task, a state has a list."""
    listed = [{"id": "1", "value": "a"}, {"id": "2"}]
    expected = [Question("1", "a"), Question("2", None)]

    assert questions_of(listed) == expected
    assert questions_of({"task": listed[:1], "other": listed[1:]}) == expected
    assert questions_of({}) == []


def test_a_run_tells_which_surface_it_came_from() -> None:
    """Contract, Marks."""
    marks = run_marks("ag-ui", {"run_id": "r"})

    assert marks == {"source": "ag-ui", "ag_ui": {"run_id": "r"}}
    assert marks_of(marks, "ag-ui") == {"run_id": "r"}
    assert marks_of(marks, "a2a") is None
    assert run_marks("mcp") == {"source": "mcp"}


def test_the_media_type_of_a_filename_does_not_depend_on_the_machine() -> None:
    """Ours: a file of the system, such as `/etc/mime.types`, may have been read before."""
    code = (
        "import mimetypes, sys; mimetypes.init(); mimetypes.add_type('application/x-mine', '.mine');"
        "from threadkeep.api.a2a.messages import TYPES; sys.exit('.mine' in TYPES or TYPES['.pdf'] != 'application/pdf')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_graph_that_could_not_be_built_is_built_again_later() -> None:
    """Ours: a factory that needs a service which is away at the start makes an agent without messages only for a while."""
    builds = 0

    def factory(config: RunnableConfig) -> Any:
        nonlocal builds
        del config
        builds += 1
        if builds == 1:
            raise ConnectionError("the service is away")
        return StateGraph(MessagesState).add_node("a", lambda _state: {}).set_entry_point("a").compile()

    loaded = {"late": as_loaded_graph("late", factory, where="tests")}
    at_once, later = MessageGraphs(loaded, retry_s=0.0), MessageGraphs(loaded)
    assert [await at_once.takes_messages("late") for _ in range(3)] == [False, True, True]
    assert builds == 2

    builds = 0
    assert [await later.takes_messages("late") for _ in range(3)] == [False, False, False]
    assert builds == 1
