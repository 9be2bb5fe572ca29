"""Messages that are decoded without pydantic equal those that pydantic makes."""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer

from threadkeep.base import json
from threadkeep.persistence import messages
from threadkeep.persistence.serializer import Serializer

OURS, STOCK = Serializer(), JsonPlusSerializer()
HOW = "model_validate_json"

text = st.text(st.characters(codec="utf-8"), max_size=20)
plain = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | text
nested = st.dictionaries(text, plain | st.lists(plain, max_size=2), max_size=3)
block = st.fixed_dictionaries({"type": st.just("text"), "text": text})
common = {
    "content": text | st.lists(block, min_size=1, max_size=2),
    "additional_kwargs": nested,
    "response_metadata": nested,
    "id": st.none() | text,
    "name": st.none() | text,
}
call = st.fixed_dictionaries({"name": text, "args": nested, "id": st.none() | text})
usage = st.fixed_dictionaries({name: st.integers(0, 999) for name in ("input_tokens", "output_tokens", "total_tokens")})
any_message: st.SearchStrategy[BaseMessage] = st.one_of(
    st.builds(HumanMessage, **common),
    st.builds(SystemMessage, **common),
    st.builds(ToolMessage, **common, tool_call_id=text, artifact=plain, status=st.sampled_from(["success", "error"])),
    st.builds(AIMessage, **common, tool_calls=st.lists(call, max_size=2), usage_metadata=st.none() | usage),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(found=st.lists(any_message, max_size=3))
def test_messages_are_written_and_read_as_the_stock_serializer_does(found: list[BaseMessage]) -> None:
    """Ours: byte for byte, and field for field."""
    written = OURS.dumps_typed(found)

    assert written == STOCK.dumps_typed(found)
    assert _inside(OURS.loads_typed(written)) == _inside(STOCK.loads_typed(written))
    assert orjson.loads(json.dumps(found)) == orjson.loads(json.dumps([one.model_dump() for one in found]))


def _inside(found: list[BaseMessage]) -> list[tuple[object, ...]]:
    return [(type(one), one.__dict__, one.model_fields_set, one.model_extra) for one in found]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", additional_kwargs={"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}),
        AIMessage("a field more", further=1),
        AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None}]),
        AIMessageChunk("a part"),
        ToolMessage("not plain", tool_call_id="1", artifact=uuid.UUID(int=1)),
    ],
    ids=lambda message: message.text or "calls",
)
def test_a_message_with_further_fields_is_left_to_pydantic(message: BaseMessage) -> None:
    """Ours: as the stock serializer has it."""
    written = OURS.dumps_typed([message])

    assert written == STOCK.dumps_typed([message])
    assert _inside(OURS.loads_typed(written)) == _inside(STOCK.loads_typed(written))
    assert orjson.loads(json.dumps(message)) == orjson.loads(json.dumps(message.model_dump()))


def test_message_within_a_message_stays_one() -> None:
    """Ours: the stock serializer makes a dictionary of it."""
    message = ToolMessage("outer", tool_call_id="1", artifact=HumanMessage("within"))

    assert OURS.loads_typed(OURS.dumps_typed([message])) == [message]
    assert STOCK.loads_typed(OURS.dumps_typed([message])) == [message]


def test_message_that_was_changed_in_place_is_written_as_it_is_now() -> None:
    """Ours: nothing is remembered between two writes."""
    message = AIMessage("before")
    OURS.dumps_typed([message])

    message.content = "after"

    assert OURS.loads_typed(OURS.dumps_typed([message]))[0].content == "after"


@pytest.mark.parametrize(
    "changed",
    [
        {"content": 1},
        {"content": [1]},
        {"id": 1},
        {"response_metadata": "none"},
        {"additional_kwargs": "none"},
        {"usage_metadata": {"further": 1}},
        {"tool_calls": [{"name": "f", "args": {}, "id": "1"}]},
        {"tool_calls": ["f"]},
        {"further": 1},
    ],
    ids=str,
)
def test_fields_that_a_constructor_checks_are_left_to_it(changed: Mapping[str, Any]) -> None:
    """Ours: a row that was tampered with becomes no message that pydantic would not have made."""
    fields = AIMessage("hello", id="1").model_dump()

    assert messages.decode_message([*messages.KINDS[AIMessage], {**fields}, HOW]) == AIMessage("hello", id="1")
    assert messages.decode_message([*messages.KINDS[AIMessage], {**fields, **changed}, HOW]) is None


def test_only_messages_are_created_by_name() -> None:
    """Ours: whatever a row names."""
    assert messages.decode_message(["os", "system", {"command": "true"}, HOW]) is None


@pytest.mark.parametrize(
    "written",
    [
        [["langchain_core.messages.human"], "HumanMessage", {}, ""],
        ["langchain_core.messages.human", "HumanMessage", [], ""],
        ["langchain_core.messages.human", "HumanMessage", {"content": {"a": 1}}, ""],
        ["os", "system", {"command": "true"}, ""],
    ],
    ids=str,
)
def test_row_of_another_form_is_read_as_the_stock_serializer_does(written: object) -> None:
    """Ours: a row may hold anything."""
    row = "msgpack", ormsgpack.packb(ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(written)))

    assert OURS.loads_typed(row) == STOCK.loads_typed(row)
