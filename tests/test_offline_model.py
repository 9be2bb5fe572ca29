"""The rules of the offline model: what a message makes it call, and say."""

import time

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from threadkeep import agent
from threadkeep.offline_model import MAX_TOOL_CALLS, answer

TOOL_NAMES = set(agent.TOOLS_BY_NAME)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("17*23", [("calculator", {"expression": "17*23"})]),
        ("What is 17 times 23?", [("calculator", {"expression": "17 * 23"})]),
        ("calculate 1,000 * 3.", [("calculator", {"expression": "1000 * 3"})]),
        ("what is 2^10 (I forgot)?", [("calculator", {"expression": "2**10"})]),
        ("what's 3 \u00d7 4 \u2212 1?", [("calculator", {"expression": "3 * 4 - 1"})]),
        ("what time is it?", [("clock", {"zone": "UTC"})]),
        ("Tell me the time in New York", [("clock", {"zone": "New York"})]),
        ("what time is it in Berlin and Tokyo?", [("clock", {"zone": "Berlin"}), ("clock", {"zone": "Tokyo"})]),
        ("remember that 2+2=4.", [("remember", {"fact": "2+2=4"})]),
        ("do you remember anything?", [("recall", {})]),
        ("ask the operator: may we go?", [("ask_human", {"question": "May we go?"})]),
        ("What is 2024-05-01?", []),
        ("my phone is 555-1234", []),
        ("I lived there 1999-2003 and liked it", []),
        ("hello", []),
        ("", []),
    ],
)
def test_a_message_wants_these_tools(text: str, calls: list[tuple[str, dict[str, str]]]) -> None:
    """Ours: the same message always leads to the same calls."""
    said = answer([HumanMessage(text)], TOOL_NAMES)

    assert [(call["name"], call["args"]) for call in said.tool_calls] == calls
    assert bool(said.text) is not bool(calls)


@pytest.mark.parametrize(
    ("text", "name"),
    [("my name is ada", "ada"), ("Call me Ada Lovelace, please", "Ada Lovelace"), ("My name's Zoë.", "Zoë")],
)
def test_a_name_is_understood(text: str, name: str) -> None:
    """Ours."""
    said = answer([HumanMessage(text), AIMessage("…"), HumanMessage("do you know what my name is? Who am I?")], [])

    assert said.text == f"Your name is {name}."


def test_any_other_message_gets_an_answer_that_says_what_this_is() -> None:
    """Ours: nobody should take the rules for a language model."""
    said = answer([HumanMessage("Write me a poem")], TOOL_NAMES)

    assert "You wrote: “Write me a poem”" in said.text
    assert "offline model" in said.text


def test_a_tool_that_is_not_there_is_not_called() -> None:
    """Ours: the model calls only what it was bound to."""
    assert answer([HumanMessage("what is 2+2?")], ["clock"]).tool_calls == []


@pytest.mark.parametrize(
    "unit", ["(", "1 ", "1+", "what time is it in A", "remember ", " ", "ask a human ", "my name is A "]
)
def test_a_huge_message_is_read_in_no_time(unit: str) -> None:
    """Ours: the rules run in the event loop, so no message may hold it."""
    began = time.perf_counter()
    said = answer([HumanMessage(unit * (1_000_000 // len(unit)))], TOOL_NAMES)

    assert time.perf_counter() - began < 0.5
    assert len(said.tool_calls) <= MAX_TOOL_CALLS
