"""Chat Completions: a run without a thread, or on the thread that the request names."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.agents.answer_stream import AnswerStream
from threadkeep.api.agents.content import text_of
from threadkeep.api.agents.run_end import run_end
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.openai.answer import AnswerReader, Piece
from threadkeep.api.openai.chat_output import ChatChunks, ChatCompletion, CompletionHead
from threadkeep.api.openai.conversation_history import (
    DIGEST_KEY,
    Continuation,
    Outcome,
    SentMessages,
    continue_thread,
    split_messages,
)
from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.api.openai.message_input import Message, chat_messages
from threadkeep.api.openai.message_runs import ThreadInput, prepare_run
from threadkeep.api.openai.models import assistant_of, headers_of
from threadkeep.api.openai.request_settings import SettingsBody, chat_tools, check_metadata, refuse, tool_names
from threadkeep.api.openai.run_answer import answer_pieces, failure_of
from threadkeep.api.openai.streaming import AnswerResult, error_frame
from threadkeep.api.openai.thread_names import NamedThread, named_thread
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import run_headers
from threadkeep.api.streaming import StreamReader
from threadkeep.base.problems import ThreadExists
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.runs.service import Authorized, RunHandle

THREAD_REQUIRED = "the graph asks a question: name a thread (X-Thread-Id), so that the next message can be the answer"


class StreamOptions(BaseModel):
    """The options of a stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """No effect."""


class ChatBody(SettingsBody):
    """The body of a chat completion."""

    messages: list[dict[str, Any]]
    stream_options: StreamOptions | None = None
    n: int | None = None
    """Only 1."""
    logprobs: bool | None = None
    """Refused if true."""
    modalities: list[str] | None = None
    """Only text."""
    functions: list[Any] | None = None
    """Refused: use `tools`."""
    function_call: str | dict[str, Any] | None = None
    """Refused: use `tool_choice`."""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    logit_bias: dict[str, Any] | None = None
    """No effect."""
    prediction: dict[str, Any] | None = None
    """No effect."""
    web_search_options: dict[str, Any] | None = None
    """Refused: the server searches nothing."""


class ChatAnswer(TypedDict):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any]
    service_tier: str
    system_fingerprint: str | None
    langgraph: dict[str, Any]


@dataclass(slots=True)
class _ChatRun:
    """A request and the decision about its history."""

    call: AuthorizedRequest[ChatBody, None]
    messages: list[Message]
    tools: list[dict[str, Any]]
    named: NamedThread | None
    outcome: Outcome | None = None
    """None: no thread is named, or the request was answered before."""
    sent: SentMessages = field(init=False)

    def __post_init__(self) -> None:
        self.sent = split_messages(self.messages)

    def thread_id(self, handle: RunHandle) -> UUID | None:
        """Return the thread of the run, or None if the run has no thread that is kept."""
        return None if self.named is None or self.outcome == "aside" else handle.thread_id

    def headers(self, handle: RunHandle) -> dict[str, str]:
        """Return the headers of the response."""
        headers = headers_of(self.call)
        if self.outcome is not None:
            headers["x-threadkeep-history"] = self.outcome
        if thread_id := self.thread_id(handle):
            headers |= {"x-thread-id": str(thread_id), **run_headers(thread_id, handle.run_id)}
        return headers


async def create(call: AuthorizedRequest[ChatBody, None]) -> Response:
    """POST /v1/chat/completions: send messages to a graph and get a chat completion, or a stream of its chunks.

    `X-Thread-Id` names a thread that stores the conversation. With `X-Conversation-Id` you send the whole
    conversation each time, and the thread follows it. Without a thread nothing is stored.
    """
    body = call.body
    _check(body)
    chat = _ChatRun(call, chat_messages(body.messages), chat_tools(body.tools), _named(call))
    handle = await _start(chat)
    reader = AnswerReader(tool_names(chat.tools), [message["id"] for message in chat.messages])
    head = CompletionHead(run_id=handle.run_id, thread_id=chat.thread_id(handle), model=body.model)
    if not body.stream:
        return AnswerResult(lambda: _completion(handle, reader, head), call, handle, chat.headers(handle))
    options = body.stream_options or StreamOptions()
    chunks = ChatChunks(head, reader, include_usage=bool(options.include_usage))
    reading = StreamReader(handle.execution, call.state.settings)
    frames = _frames(handle, reader, chunks, reading)
    return AnswerStream(frames, call, error_frame, headers=chat.headers(handle), cancels=handle, reading=reading)


def _check(body: ChatBody) -> None:
    """Raise InvalidParameter if the body has a parameter that this server does not support."""
    check_metadata(body.metadata)
    if not body.messages:
        raise InvalidParameter("must have at least one message", param="messages")
    refuse((body.n or 1) != 1, "n", "the server returns exactly one answer")
    refuse(body.logprobs, "logprobs", "graphs do not return probabilities")
    refuse(body.top_logprobs, "top_logprobs", "graphs do not return probabilities")
    refuse("audio" in (body.modalities or ()), "modalities", "answers are text")
    refuse(body.functions, "functions", "use tools")
    refuse(body.function_call, "function_call", "use tool_choice")
    refuse(
        body.web_search_options,
        "web_search_options",
        "the server does not search the web: give the graph a tool for it",
    )


def _named(call: AuthorizedRequest[ChatBody, None]) -> NamedThread | None:
    settings, caller = call.state.settings, call.caller
    metadata: Mapping[str, Any] = call.body.metadata or {}
    return named_thread(call.request.headers, metadata, project=settings.project_id, identity=caller.identity)


async def _start(chat: _ChatRun) -> RunHandle:
    """Authorize the caller, and start the run that continues the conversation."""
    call, named = chat.call, chat.named
    # An unknown model is refused before any permission or thread is looked at.
    assistant_of(call.assistants, call.body.model)
    readable = None
    if named is not None:
        value: dict[str, Any] = {"thread_id": named.thread_id, "run_id": None, "metadata": {}}
        # The run continues what the thread contains, so the caller must be allowed to read it.
        readable = await call.authorize("threads.read", value)
    authorized = await call.state.runs.authorize(call.caller, _request(chat))
    # Without an answer in it, the conversation is most likely new. This saves the reads of the thread.
    if named is not None and chat.sent.new and not chat.sent.before and call.idempotency_key is None:
        try:
            return await _start_conversation(chat, authorized)
        # It is not new, so the thread is read below.
        except ThreadExists:
            pass

    async def continuation(allowed: Authorized) -> Continuation:
        if named is None or readable is None:
            return Continuation(outcome="imported", messages=chat.messages)
        reader = ThreadReader(call=call, filters=readable.narrowed(allowed.threads))
        continued = await continue_thread(reader, named, chat.sent)
        if not continued.messages:
            raise InvalidParameter("must end with a message that is not the assistant's", param="messages")
        if continued.outcome == "aside" and allowed.request.key is not None:
            raise InvalidParameter("Idempotency-Key can't be used with these messages", param="messages")
        chat.outcome = continued.outcome
        return continued

    prepare = prepare_run(call, call.body.model, ThreadInput(system=_system(chat)), continuation)
    return await call.state.runs.start_authorized(call.caller, authorized, prepare)


async def _start_conversation(chat: _ChatRun, authorized: Authorized) -> RunHandle:
    """Start the first run of a new thread, without reading the thread before. Raise ThreadExists if it is not new."""
    call, imported = chat.call, Continuation(outcome="imported", messages=chat.sent.all)
    first = replace(authorized, request=replace(authorized.request, new_thread_only=True))

    async def continuation(_: Authorized) -> Continuation:
        return imported

    prepare = prepare_run(call, call.body.model, ThreadInput(system=_system(chat)), continuation)
    handle = await call.state.runs.start_authorized(call.caller, first, prepare)
    chat.outcome = imported.outcome
    return handle


def _system(chat: _ChatRun) -> str | None:
    """Return the text of the system messages for a thread. Without a thread they stay among the messages."""
    # A thread has one system message. A newer text replaces it.
    texts = [text_of(message["content"]) for message in chat.messages if message["role"] == "system"]
    return "\n\n".join(texts) if texts and chat.named is not None else None


def _request(chat: _ChatRun) -> RunRequest:
    """Return the run request before the thread is read."""
    call, named = chat.call, chat.named
    settings = {"api": "chat", **call.body.settings("messages", "stream_options", "tools")}
    if chat.tools:
        settings["tools"] = chat.tools
    marks = {DIGEST_KEY: chat.sent.digest} if named is not None and named.owner == "client" else {}
    return RunRequest(
        spec=GraphRunOptions(input={"messages": chat.messages}),
        assistant=call.body.model,
        thread_id=named.thread_id if named else None,
        create_thread=named is not None,
        temporary=named is None,
        read_by_caller=True,
        is_answered_at_end=not call.body.stream,
        configurable={**call.forwarded_headers, "openai": settings, **marks},
        key=call.idempotency_key,
    )


async def _completion(handle: RunHandle, reader: AnswerReader, head: CompletionHead) -> bytes:
    """Wait for the end of the run, and return the completion as JSON. Raise RunFailed."""
    completion = ChatCompletion(head, reader)
    # Nothing is sent before the end, so the events may come many at a time.
    async for _, pieces in answer_pieces(handle.events(in_batches=True), reader):
        completion.add(pieces)
    completion.add(await _end(handle, reader, head))
    return completion.body()


async def _frames(
    handle: RunHandle, reader: AnswerReader, chunks: ChatChunks, reading: StreamReader
) -> AsyncGenerator[bytes]:
    """Yield the frames of a streamed completion. Raise RunFailed, also after some frames."""
    async for position, pieces in answer_pieces(handle.events(), reader):
        reading.position = position
        if frames := chunks.frames(pieces):
            yield frames
    yield chunks.last_frames(await _end(handle, reader, chunks.head))


async def _end(handle: RunHandle, reader: AnswerReader, head: CompletionHead) -> Sequence[Piece]:
    """Return the last pieces of the answer. Raise RunFailed, or InvalidParameter if the graph asks a question without a thread."""
    end = await run_end(handle)
    if not end.is_success:
        raise failure_of(end)
    # Without a thread nothing is stored, so no later request could answer.
    if reader.questions and head.thread_id is None:
        raise InvalidParameter(THREAD_REQUIRED, param="messages", code="thread_required")
    return reader.finish(success=True)
