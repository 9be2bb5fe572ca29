"""A page: sends what `@ag-ui/client` sends, and holds the events to the types of `ag-ui-protocol` and to its order."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from ag_ui.core.events import Event
from pydantic import TypeAdapter

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
OPENERS = {
    "TEXT_MESSAGE_START": ("text", "messageId"),
    "REASONING_START": ("span", "messageId"),
    "REASONING_MESSAGE_START": ("reasoning", "messageId"),
    "TOOL_CALL_START": ("call", "toolCallId"),
    "STEP_STARTED": ("step", "stepName"),
}
INNER = {
    "TEXT_MESSAGE_CONTENT": ("text", "messageId"),
    "REASONING_MESSAGE_CONTENT": ("reasoning", "messageId"),
    "TOOL_CALL_ARGS": ("call", "toolCallId"),
}
CLOSERS = {
    "TEXT_MESSAGE_END": ("text", "messageId"),
    "REASONING_END": ("span", "messageId"),
    "REASONING_MESSAGE_END": ("reasoning", "messageId"),
    "TOOL_CALL_END": ("call", "toolCallId"),
    "STEP_FINISHED": ("step", "stepName"),
}
ENDS = {"RUN_FINISHED", "RUN_ERROR"}


def user(text: Any, message_id: str | None = None) -> dict[str, Any]:
    """A message of the user."""
    return {"id": message_id or str(uuid4()), "role": "user", "content": text}


def check(events: Sequence[Mapping[str, Any]]) -> None:
    """Each event has its type, and what is opened is closed once, as `verifyEvents` of `@ag-ui/client` has it."""
    opened: set[tuple[str, str]] = set()
    assert events[0]["type"] == "RUN_STARTED"
    assert [event["type"] in ENDS for event in events] == [False] * (len(events) - 1) + [True]
    for event in events:
        typed = EVENT.validate_python(event)
        assert typed.model_dump(mode="json", by_alias=True) == event, "a field that the type does not have"
        assert "delta" not in event or event["delta"], "an empty piece"
        for kinds, is_open in ((OPENERS, False), (INNER, True), (CLOSERS, True)):
            if key := kinds.get(event["type"]):
                thing = (key[0], event[key[1]])
                assert (thing in opened) == is_open, event
                (opened.add if kinds is OPENERS else opened.discard if kinds is CLOSERS else str)(thing)
    assert events[-1]["type"] == "RUN_ERROR" or not opened


@dataclass
class Page:
    """A conversation of one page."""

    http: httpx.AsyncClient
    agent: str
    thread_id: str = field(default_factory=lambda: str(uuid4()))
    messages: list[dict[str, Any]] = field(default_factory=list)
    state: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, **more: Any) -> dict[str, Any]:
        """The body of a request, as HttpAgent sends it."""
        empty = {"tools": [], "context": [], "forwardedProps": {}}
        ids = {"threadId": self.thread_id, "runId": str(uuid4()), "protocolVersion": "1.0"}
        return {**ids, "messages": self.messages, "state": self.state, **empty, **more}

    async def say(self, text: Any, **more: Any) -> list[dict[str, Any]]:
        """The events of a run after a new message of the user."""
        self.messages = [*self.messages, user(text)]
        return await self.run(**more)

    async def run(self, query: str = "", **more: Any) -> list[dict[str, Any]]:
        """The events of a run. The page then has its messages and its state."""
        async with self.stream(query, **more) as events, aclosing(events):
            told = [event async for event in events]
        check(told)
        for event in told:
            if event["type"] == "MESSAGES_SNAPSHOT":
                self.messages = event["messages"]
            if event["type"] == "STATE_SNAPSHOT":
                self.state = event["snapshot"]
        return told

    @asynccontextmanager
    async def stream(self, query: str = "", **more: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a run as they come."""
        path = f"/ag-ui/{self.agent}{query}"
        async with self.http.stream("POST", path, json=self.body(**more), headers=self.headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                answer.raise_for_status()
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield _events(answer)

    async def refused(self, **more: Any) -> httpx.Response:
        """The answer to a request that is refused before the stream."""
        return await self.http.post(f"/ag-ui/{self.agent}", json=self.body(**more), headers=self.headers)


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def types(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of events."""
    return [event["type"] for event in events]


def of_type(events: Sequence[Mapping[str, Any]], *wanted: str) -> list[Mapping[str, Any]]:
    """The events of some types."""
    return [event for event in events if event["type"] in wanted]


def text(events: Sequence[Mapping[str, Any]]) -> str:
    """All text that was told, message by message."""
    return "".join(
        event["delta"] if event["type"] == "TEXT_MESSAGE_CONTENT" else "|"
        for event in of_type(events, "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END")
    )
