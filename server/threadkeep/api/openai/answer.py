"""Answer: reads the items of an answer from the events of a run. All outputs of the OpenAI API come from this reader.

The events are those of the stream modes `messages-tuple` and `updates`. The reader is a pure function of them: every reader
of the same log gets the same pieces, while the run goes on, after it, and in another process.

An item is a text, a refusal, some reasoning or a call of a tool. Only one item is open at a time. If two models speak at
once, the second message waits until the first one has ended.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import orjson

from threadkeep.api.agents.content import fields_of
from threadkeep.api.agents.pieces import calls_of, returned_messages, text_pieces
from threadkeep.api.agents.questions import Question, question_text
from threadkeep.api.openai.question_calls import QUESTION_KEYS, QUESTION_TOOL, call_id_of
from threadkeep.base import json

Kind: TypeAlias = Literal["text", "refusal", "reasoning", "call", "own_call"]
"""`call`: of a tool of the client. `own_call`: of a tool that the graph has executed itself."""
MODES: Final = ("messages-tuple", "updates")
"""The stream modes of a run whose answer is to be read."""
ASSISTANT_ROLES: Final = frozenset({"assistant", "ai"})
LIMIT_REASONS: Final[Mapping[str, str]] = {
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "SAFETY": "content_filter",
}
"""The reason for which a model stopped too soon, by the providers' words."""


@dataclass(slots=True, eq=False)
class Item:
    """One item of an answer."""

    kind: Kind
    message_id: str
    number: int = 0
    """Its number among the items of its kind in its message, from 0."""
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list[str])
    ended: bool = False
    cut_off: bool = False
    """The item is incomplete, because the process that executed the run has died."""
    output: str | None = None
    """The result of a tool call that the graph made itself."""
    failed: bool = False
    """Whether a tool of the graph raised an error."""
    is_question: bool = False
    """A question of the graph. It is not a message of the state."""
    is_unnamed: bool = False
    """A node returned it without an id. In the state it has an id that is not known here."""

    @property
    def text(self) -> str:
        """The text, or the arguments of a call as JSON."""
        return "".join(self.pieces)


class Piece(NamedTuple):
    """A step of an answer: an item began, grew by some text, or ended."""

    step: Literal["began", "grew", "ended"]
    item: Item
    text: str = ""


@dataclass(slots=True)
class _Speaker:
    """A message that a model is still streaming."""

    open_item: Item | None = None
    calls: dict[object, Item] = field(default_factory=dict[object, Item])
    counts: dict[Kind, int] = field(default_factory=dict[Kind, int])
    node: str = ""
    is_unnamed: bool = False


@dataclass(slots=True)
class Usage:
    """Tokens of all models of a run."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: Mapping[str, Any]) -> None:
        """Count the `usage_metadata` of a message, or of a piece of one."""
        self.input_tokens += _count(usage, "input_tokens")
        self.output_tokens += _count(usage, "output_tokens")
        details = {**fields_of(usage.get("input_token_details")), **fields_of(usage.get("output_token_details"))}
        self.cached_tokens += _count(details, "cache_read")
        self.cache_write_tokens += _count(details, "cache_creation")
        self.reasoning_tokens += _count(details, "reasoning")


def _count(usage: Mapping[str, Any], name: str) -> int:
    count = usage.get(name)
    return count if isinstance(count, int) else 0


class AnswerReader:
    """Reads the events of one run, in order, and then its end."""

    def __init__(self, client_tools: Collection[str], input_ids: Collection[str] = ()) -> None:
        """`client_tools`: the names of the tools that the client executes. `input_ids`: of the messages that it sent."""
        self.usage = Usage()
        self.limit_reason: str | None = None
        """`length` or `content_filter` if the last model stopped for that."""
        self.questions: list[Question] = []
        self._client_tools = frozenset(client_tools)
        # A node may return the messages of the input again.
        self._seen = set(input_ids)
        self._speakers: dict[str, _Speaker] = {}
        self._queue: deque[Item] = deque()
        """Incomplete items. The first item is being sent."""
        self._undecided: dict[str, Item] = {}
        """Calls without a result, by id."""
        self._unnamed = 0
        """Messages without an id."""

    def read(self, name: str, data: bytes) -> Sequence[Piece]:
        """Return the pieces that one event of the run adds."""
        # The events of a subgraph have its namespace after the bar.
        if name == "messages" or name.startswith("messages|"):
            message, metadata = cast("tuple[dict[str, Any], dict[str, Any]]", json.loads(data))
            return self._read_message(message, str(metadata.get("langgraph_node", "")))
        if name == "updates":
            return [*self._read_updates(cast("dict[str, Any]", json.loads(data)))]
        if name == "metadata":
            # Each attempt begins with this event.
            return [*self._restart()] if orjson.loads(data).get("attempt", 1) > 1 else ()
        return ()

    def finish(self, *, success: bool) -> Sequence[Piece]:
        """Return the pieces at the end of the run: open items, the client's calls and the graph's questions."""
        pieces = [*self._end_all()]
        if not success:
            return pieces
        if not self.questions:
            # No tool of the graph has answered these calls, so they are for the client.
            for item in self._undecided.values():
                item.kind = "call"
                pieces += self._whole(item)
            return pieces
        for question in self.questions:
            pieces += self._whole(self._question_item(question))
        return pieces

    def _question_item(self, question: Question) -> Item:
        """Return a question as text, or as a call if the client has declared the tool for questions."""
        message_id = call_id_of(question)
        if QUESTION_TOOL not in self._client_tools:
            return Item("text", message_id, pieces=[question_text(question, QUESTION_KEYS)], is_question=True)
        arguments = [json.dumps(question.value).decode()]
        return Item("call", message_id, call_id=message_id, name=QUESTION_TOOL, pieces=arguments, is_question=True)

    def _read_message(self, message: dict[str, Any], node: str) -> Sequence[Piece]:
        kind = message.get("type")
        if kind == "tool":
            return [*self._read_result(message)]
        if kind not in ("ai", "AIMessageChunk"):
            return ()
        message_id = str(message.get("id"))
        self._seen.add(message_id)
        speaker = self._speakers.get(message_id)
        if speaker is None:
            speaker = self._speakers[message_id] = _Speaker(node=node)
        return [*self._read_chunk(message_id, speaker, message)]

    def _read_chunk(self, message_id: str, speaker: _Speaker, message: dict[str, Any]) -> Iterator[Piece]:
        self._observe(message)
        for kind, text in text_pieces(message):
            yield from self._add_text(message_id, speaker, kind, text)
        if message["type"] == "ai":
            for call_id, name, arguments in calls_of(message):
                # A complete call has no index, so its id takes the place.
                whole = {"id": call_id, "name": name, "args": arguments, "index": call_id}
                yield from self._add_call(message_id, speaker, whole)
        else:
            for piece in message.get("tool_call_chunks") or ():
                yield from self._add_call(message_id, speaker, piece)
        if message["type"] == "ai" or message.get("chunk_position") == "last":
            yield from self._end_message(message_id)

    def _observe(self, message: dict[str, Any]) -> None:
        """Store the parts that are sent at the end."""
        if usage := message.get("usage_metadata"):
            self.usage.add(fields_of(usage))
        if response := fields_of(message.get("response_metadata")):
            reason = response.get("finish_reason") or response.get("stop_reason")
            if reason is not None:
                # The last model decides, so an ordinary reason takes an earlier limit back.
                self.limit_reason = LIMIT_REASONS.get(str(reason))

    def _add_text(self, message_id: str, speaker: _Speaker, kind: Kind, text: str) -> Iterator[Piece]:
        item = speaker.open_item
        if item is None or item.kind != kind:
            if item is not None:
                yield from self._end(item)
            item = speaker.open_item = self._new_item(message_id, speaker, kind)
            yield from self._begin(item)
        yield from self._grow(item, text)

    def _add_call(self, message_id: str, speaker: _Speaker, piece: dict[str, Any]) -> Iterator[Piece]:
        """Read a call or a chunk of a call. A client's call is sent at once. An unknown call waits until its owner is known."""
        key: object = piece.get("index")
        item = speaker.calls.get(key)
        # A provider may give several calls the same index.
        if item is None or (piece.get("id") and piece["id"] != item.call_id):
            item = self._new_item(message_id, speaker, "own_call")
            # A provider may give calls no id, but a client needs one for its result.
            item.call_id = piece.get("id") or f"call_{message_id}_{item.number}"
            item.name = piece.get("name") or ""
            speaker.calls[key] = item
            if item.name in self._client_tools:
                item.kind = "call"
                if speaker.open_item is not None:
                    yield from self._end(speaker.open_item)
                speaker.open_item = item
                yield from self._begin(item)
            else:
                self._undecided[item.call_id] = item
        elif piece.get("name") and not item.name:
            item.name = piece["name"]
        if text := piece.get("args"):
            yield from self._grow(item, text)

    def _new_item(self, message_id: str, speaker: _Speaker, kind: Kind) -> Item:
        number = speaker.counts.get(kind, 0)
        speaker.counts[kind] = number + 1
        return Item(kind, message_id, number, is_unnamed=speaker.is_unnamed)

    def _read_result(self, message: dict[str, Any]) -> Iterator[Piece]:
        """Read the result of a tool. Its call was of the graph itself, so call and result are one item."""
        item = self._undecided.pop(str(message.get("tool_call_id")), None)
        if item is not None:
            content = message.get("content")
            item.output = content if isinstance(content, str) else json.dumps(content).decode()
            item.failed = message.get("status") == "error"
            yield from self._whole(item)

    def _read_updates(self, updates: dict[str, Any]) -> Iterator[Piece]:
        """Read the values that nodes returned. They have the messages that are plain dicts, which LangGraph's mode `messages` omits."""
        for node, returned in updates.items():
            if node == "__interrupt__":
                self._add_questions(returned)
                continue
            # A node that has returned says no more, even if its model has sent no last chunk.
            for message_id in [key for key, speaker in self._speakers.items() if speaker.node == node]:
                yield from self._end_message(message_id)
            for update in cast("list[Any]", returned) if isinstance(returned, list) else [returned]:
                for message in _plain_messages(update):
                    yield from self._read_plain(message)

    def _add_questions(self, interrupts: object) -> None:
        known = {question.interrupt_id for question in self.questions}
        for each in cast("list[dict[str, Any]]", interrupts) if isinstance(interrupts, list) else []:
            if each["id"] not in known:
                self.questions.append(Question(each["id"], each.get("value")))

    def _read_plain(self, message: dict[str, Any]) -> Iterator[Piece]:
        """Read a message that a node returned as a plain dict."""
        message_id = message.get("id")
        is_unnamed = not isinstance(message_id, str)
        if not isinstance(message_id, str):
            self._unnamed += 1
            message_id = f"unnamed-{self._unnamed}"
        # The message was streamed before, or is of the input.
        elif message_id in self._seen:
            return
        self._seen.add(message_id)
        if message["role"] == "tool":
            yield from self._read_result(message)
            return
        speaker = self._speakers[message_id] = _Speaker(is_unnamed=is_unnamed)
        yield from self._read_chunk(message_id, speaker, {**message, "type": "ai"})

    def _restart(self) -> Iterator[Piece]:
        """Another process executes the run again from its last checkpoint. Items that were sent stay as they are."""
        for item in self._queue:
            item.cut_off = not item.ended
        self._undecided = {}
        yield from self._end_all()
        self._speakers = {}

    def _end_all(self) -> Iterator[Piece]:
        # A copy, because the end of a message removes its speaker.
        for message_id in [*self._speakers]:
            yield from self._end_message(message_id)

    def _end_message(self, message_id: str) -> Iterator[Piece]:
        speaker = self._speakers.pop(message_id, None)
        if speaker is not None and speaker.open_item is not None:
            yield from self._end(speaker.open_item)

    def _whole(self, item: Item) -> Iterator[Piece]:
        """Add an item that is already complete."""
        item.ended = True
        self._queue.append(item)
        if len(self._queue) == 1:
            yield from self._tell()

    def _begin(self, item: Item) -> Iterator[Piece]:
        self._queue.append(item)
        if len(self._queue) == 1:
            yield Piece("began", item)

    def _grow(self, item: Item, text: str) -> Iterator[Piece]:
        item.pieces.append(text)
        if self._queue and self._queue[0] is item:
            yield Piece("grew", item, text)

    def _end(self, item: Item) -> Iterator[Piece]:
        if item.ended:
            return
        item.ended = True
        if self._queue and self._queue[0] is item:
            yield Piece("ended", self._queue.popleft())
            yield from self._tell()

    def _tell(self) -> Iterator[Piece]:
        """Return the pieces that waited for the end of the item before them."""
        while self._queue:
            item = self._queue[0]
            yield Piece("began", item)
            if text := item.text:
                yield Piece("grew", item, text)
            if not item.ended:
                return
            yield Piece("ended", self._queue.popleft())


def _plain_messages(update: object) -> list[dict[str, Any]]:
    """Return the plain dicts or pairs among the messages of a node's update, after the last one of another role."""
    messages_after: list[dict[str, Any]] = []
    for message in returned_messages(update):
        role = str(message.get("role") or message.get("type"))
        if role in ASSISTANT_ROLES or role == "tool":
            messages_after.append({**message, "role": role})
        else:
            # A node may return its whole input. Only the messages after the last one of a user are new.
            messages_after.clear()
    return messages_after
