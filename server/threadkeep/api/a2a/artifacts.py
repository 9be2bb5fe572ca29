"""Artifacts: the output of a run, read from its events.

The reader is a pure function of the events. So every reader of the same run gets the same pieces, during the run, after it
and in another process. Two models may speak at once. Then the second message waits until the first one has ended.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

import orjson
from anyio import to_thread

from threadkeep.api.a2a.messages import Part, parts_of_message
from threadkeep.api.agents.pieces import returned_messages
from threadkeep.base import json

# Not sets: a graph may put any JSON in the place of a type, and a set would have to hash it.
AI_TYPES: Final = ("ai", "AIMessageChunk")
AI_ROLES: Final = ("ai", "assistant")


class Piece(NamedTuple):
    """Parts that are appended to the artifact, or that replace it."""

    parts: Sequence[Part]
    append: bool


@dataclass(slots=True)
class _Speech:
    """A model's message that is not yet complete."""

    node: str
    parts: list[Part] = field(default_factory=list[Part])
    """Parts that wait until the message before has ended."""
    ended: bool = False


class ArtifactReader:
    """Reads the events of a run whose graph has messages. The artifact is its last AI message that has content."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        """The artifact so far."""
        self._open: dict[str, _Speech] = {}
        """Incomplete and waiting messages by id. The first message is being streamed."""
        self._streamed_id: str | None = None
        """The id of the message that the artifact has."""
        self._seen: set[str] = set()
        self._unnamed = 0

    async def read_apart(self, name: str, data: bytes) -> list[Piece]:
        """The pieces that an event adds. A large event is read in a thread."""
        if len(data) <= json.INLINE_BYTES:
            return self.read(name, data)
        return await to_thread.run_sync(self.read, name, data)

    def read(self, name: str, data: bytes) -> list[Piece]:
        """The pieces that an event adds."""
        if name == "messages" or name.startswith("messages|"):
            message, metadata = cast("tuple[dict[str, Any], dict[str, Any]]", json.loads(data))
            return [*self._read_message(message, str(metadata.get("langgraph_node", "")))]
        if name == "updates":
            return [*self._read_updates(cast("dict[str, Any]", json.loads(data)))]
        if name == "metadata" and orjson.loads(data).get("attempt", 1) > 1:
            self._open, self._streamed_id = {}, None  # another process executes the run again, from its last checkpoint
        return []

    def _read_message(self, message: dict[str, Any], node: str) -> Iterator[Piece]:
        if message.get("type") not in AI_TYPES:
            return
        message_id = str(message.get("id"))
        self._seen.add(message_id)
        parts = parts_of_message(message)
        yield from self._add(message_id, node, parts)
        # A whole message is its own end. Of chunks, LangChain marks the last one.
        if message["type"] == "ai" or message.get("chunk_position") == "last":
            yield from self._end(message_id)

    def _read_updates(self, updates: dict[str, Any]) -> Iterator[Piece]:
        """Read the values that nodes returned. They end the nodes' messages, and contain the messages that are plain dicts."""
        for node, returned in updates.items():
            # A list, because `_end` deletes entries. A model without the mark of the last chunk ends here, with its
            # node.
            for message_id in [key for key, speech in self._open.items() if speech.node == node]:
                yield from self._end(message_id)
            for update in cast("list[Any]", returned) if isinstance(returned, list) else [returned]:
                for message in _plain_messages(update):
                    yield from self._read_plain(message)

    def _read_plain(self, message: Mapping[str, Any]) -> Iterator[Piece]:
        """Read a message that a node returned as a dict. LangGraph's `messages` mode does not stream it."""
        message_id = message.get("id")
        if not isinstance(message_id, str):
            self._unnamed += 1
            message_id = f"unnamed-{self._unnamed}"
        if message_id not in self._seen:
            self._seen.add(message_id)
            yield from self._add(message_id, "", parts_of_message({**message, "type": "ai"}))
            yield from self._end(message_id)

    def _add(self, message_id: str, node: str, parts: Sequence[Part]) -> Iterator[Piece]:
        if not parts:
            return
        speech = self._open.setdefault(message_id, _Speech(node))
        # One artifact can't show two messages at once, so the second one waits.
        if next(iter(self._open)) != message_id:
            speech.parts += parts
            return
        yield self._tell(message_id, parts)

    def _tell(self, message_id: str, parts: Sequence[Part]) -> Piece:
        append = self._streamed_id == message_id
        # A later message replaces the artifact: the answer of an agent is its last message.
        if not append:
            self._streamed_id, self.parts = message_id, []
        for part in parts:
            _append(self.parts, part)
        return Piece(parts, append)

    def _end(self, message_id: str) -> Iterator[Piece]:
        speech = self._open.get(message_id)
        if speech is None:
            return
        speech.ended = True
        # Waiting messages may have ended too, and are sent now in the order in which they began.
        while self._open and (first := next(iter(self._open.items())))[1].ended:
            del self._open[first[0]]
            if self._open:
                yield from self._tell_waiting()

    def _tell_waiting(self) -> Iterator[Piece]:
        message_id, speech = next(iter(self._open.items()))
        if speech.parts:
            yield self._tell(message_id, speech.parts)


def _append(parts: list[Part], part: Part) -> None:
    """Add a part. Text that follows text continues it."""
    if part.keys() == {"text"} and parts and parts[-1].keys() == {"text"}:
        parts[-1] = {"text": parts[-1]["text"] + part["text"]}
    else:
        parts.append(part)


def last_message_parts(messages: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts of the last AI message of a state that has content, after the last message of the user."""
    for message in reversed(messages):
        kind = message.get("type") or message.get("role")
        if kind in ("human", "user"):
            return []
        if kind in AI_ROLES and (parts := parts_of_message({**message, "type": "ai"})):
            return parts
    return []


def _plain_messages(update: object) -> list[dict[str, Any]]:
    """Return the AI messages of a node's update after its last other message."""
    messages_after: list[dict[str, Any]] = []
    for message in returned_messages(update):
        role = message.get("role") or message.get("type")
        if role in AI_ROLES:
            messages_after.append(message)
        elif role != "tool":
            messages_after.clear()
    return messages_after
