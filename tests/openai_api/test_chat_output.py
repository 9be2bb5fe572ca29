"""The chunks and the completion of an answer, from the events of its run."""

from typing import Any

import orjson

from threadkeep.api.openai.answer import AnswerReader
from threadkeep.api.openai.chat_output import ChatChunks, ChatCompletion, CompletionHead
from threadkeep.base import ids

CALLS = 20


def _chunk(number: int, call: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A chunk of a message that calls a tool."""
    chunks = [] if call is None else [{"name": None, "args": "", "id": None, "index": 0, **call}]
    message = {"type": "AIMessageChunk", "id": f"message-{number}", "content": "", "tool_call_chunks": chunks, **more}
    return orjson.dumps([message, {"langgraph_node": "agent"}])


def _call(number: int) -> list[bytes]:
    """The events of one message with one call."""
    return [
        _chunk(number, {"name": "weather", "id": f"call-{number}"}),
        _chunk(number, {"args": "{}"}),
        _chunk(number, chunk_position="last"),
    ]


def test_calls_of_messages_that_follow_each_other_stay_apart() -> None:
    """Ours: calls were lost, and their arguments went to another call, because indices were kept by memory addresses."""
    head = CompletionHead(run_id=ids.uuid7(), thread_id=None, model="agent")
    reader = AnswerReader({"weather"})
    completion, chunks, frames = ChatCompletion(head, reader), ChatChunks(head, reader, include_usage=False), b""
    for number in range(CALLS):
        for event in _call(number):
            pieces = reader.read("messages", event)
            completion.add(pieces)
            frames += chunks.frames(pieces)
            del pieces  # as after the next event of a run
    completion.add(reader.finish(success=True))

    expected = [(f"call-{number}", "{}") for number in range(CALLS)]
    calls = orjson.loads(completion.body())["choices"][0]["message"]["tool_calls"]
    sent = [orjson.loads(frame.removeprefix(b"data: ")) for frame in frames.split(b"\n\n") if frame]
    deltas = [delta for each in sent for delta in each["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == expected
    assert [(delta["index"], delta["id"]) for delta in deltas if "id" in delta] == [
        (number, f"call-{number}") for number in range(CALLS)
    ]
