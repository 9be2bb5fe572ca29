"""Responses: a response is a run on a stored thread. It is resumed by its id, and may run in the background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response
from typing_extensions import TypedDict

from threadkeep.api.agents.answer_stream import AnswerStream
from threadkeep.api.agents.content import messages_of, text_of
from threadkeep.api.agents.questions import questions_of
from threadkeep.api.agents.thread_reader import ThreadReader
from threadkeep.api.openai.conversation_history import (
    DIGEST_KEY,
    Continuation,
    Outcome,
    continue_thread,
    fork,
    split_messages,
)
from threadkeep.api.openai.errors import InvalidParameter
from threadkeep.api.openai.message_input import Message
from threadkeep.api.openai.message_runs import ThreadInput, prepare_run
from threadkeep.api.openai.models import assistant_of, headers_of
from threadkeep.api.openai.object_ids import response_id, run_of_response, thread_of_conversation
from threadkeep.api.openai.paging import ListQuery, page
from threadkeep.api.openai.request_settings import SettingsBody, chat_tools, check_metadata, refuse
from threadkeep.api.openai.response_input import response_messages
from threadkeep.api.openai.response_object import API, ResponseHead
from threadkeep.api.openai.response_output import ResponseOutput
from threadkeep.api.openai.run_answer import answer_pieces
from threadkeep.api.openai.stored_responses import (
    NO_RUN,
    References,
    StoredResponse,
    events_of,
    finish,
    first_reference,
    frames_of,
    reader_of,
    require_response,
    settled_run,
    thread_of_response,
)
from threadkeep.api.openai.streaming import AnswerResult
from threadkeep.api.openai.thread_names import NamedThread, named_thread
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_response, run_headers
from threadkeep.api.streaming import StreamReader
from threadkeep.base import json
from threadkeep.base.problems import NotFound
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.request import GraphRunOptions, RunRequest
from threadkeep.runs.service import Authorized, RunHandle
from threadkeep.tables.runs import FINAL
from threadkeep.tables.threads import Ttl

THREAD_MARK: Final = {"openai_response": True}
"""The metadata of a thread that was made by a response. It goes with its last response."""
CANCEL_S: Final = 10.0
"""Seconds that a cancellation waits for the end of the run."""


class ConversationRef(BaseModel):
    """A conversation by its id."""

    model_config = ConfigDict(extra="ignore")

    id: str


class ResponseBody(SettingsBody):
    """The body of a response."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    """The system message for this response only."""
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    background: bool | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    """No effect."""
    include: list[str] | None = None
    """No effect."""
    prompt: dict[str, Any] | None = None
    """Refused: the server keeps no prompts."""

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the request names, in either form."""
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation


class ResponseQuery(BaseModel):
    """The query of a response."""

    model_config = ConfigDict(extra="ignore")

    stream: bool = False
    """Follow or replay the events of a response in the background."""
    starting_after: int | None = None
    """The number of the last event that the client has."""


class DeletedResponse(TypedDict):
    """A response that was deleted."""

    id: str
    object: str
    deleted: bool


@dataclass(slots=True, kw_only=True)
class _ResponseRun:
    """A request and the place where it continues."""

    call: AuthorizedRequest[ResponseBody, None]
    tools: list[dict[str, Any]]
    thread_id: UUID | None = None
    """The thread that the request names. None: it names none."""
    named: NamedThread | None = None
    """The thread, if a header or the metadata name it."""
    previous_run: UUID | None = None
    readable: Filters | None = None
    """The filters of the rows that the caller may read. None: nothing has to be read."""
    messages: list[Message] = field(default_factory=list[Message])
    outcome: Outcome | None = None

    @property
    def body(self) -> ResponseBody:
        return self.call.body

    @property
    def is_kept(self) -> bool:
        """Whether the run has a thread that is kept."""
        return self.body.is_stored and self.outcome != "aside"

    def head(self, handle: RunHandle) -> ResponseHead:
        """Return the fields that all events of the response share."""
        head = ResponseHead.of_run(handle.run) if handle.run is not None else None
        thread_id = handle.thread_id if self.is_kept else None
        if head is not None:
            return replace(head, thread_id=thread_id)
        graph_id = handle.execution.graph_id if handle.execution else ""
        return ResponseHead(run_id=handle.run_id, thread_id=thread_id, settings=_settings(self), graph_id=graph_id)

    def headers(self, handle: RunHandle) -> dict[str, str]:
        """Return the headers of the response."""
        headers = headers_of(self.call)
        if self.named is not None and self.outcome is not None:
            headers["x-threadkeep-history"] = self.outcome
        if self.is_kept:
            headers |= {"x-thread-id": str(handle.thread_id), **run_headers(handle.thread_id, handle.run_id)}
        return headers


async def create(call: AuthorizedRequest[ResponseBody, None]) -> Response:
    """POST /v1/responses: create a response of a graph on a stored thread, in the background if you like.

    `previous_response_id` continues from the checkpoint at which that response ended. `conversation` continues the newest
    state of a thread. With `store: false` nothing is stored.
    """
    response_run = await _read(call)
    handle = await _start(response_run)
    head = response_run.head(handle)
    reader = reader_of(head)
    output = ResponseOutput(head, reader)
    body, headers = call.body, response_run.headers(handle)
    if body.background and not body.stream:
        return json_response(head.fields("queued"), headers=headers)
    if not body.stream:
        return AnswerResult(lambda: _response(handle, output), call, handle, headers)
    if body.background:
        # Only recorded events, because the client may resume at another process, which has no others.
        events = events_of(handle, handle.recorded_events(), output, reader)
        # Without `cancels`: a background response goes on if its client disconnects.
        return AnswerStream(frames_of(events), call, output.error_frame, headers=headers)
    reading = StreamReader(handle.execution, call.state.settings)
    frames = frames_of(events_of(handle, handle.events(), output, reader), reading=reading)
    return AnswerStream(frames, call, output.error_frame, headers=headers, cancels=handle, reading=reading)


async def get(call: AuthorizedRequest[None, ResponseQuery]) -> Response:
    """GET /v1/responses/{response_id}: read a response, or stream the events of a background response.

    The events have the same numbers for every reader. `starting_after` is the number of the last event that you have.
    """
    stored = await _stored(call)
    if not call.query.stream:
        return json_response(await stored.fields(), headers=headers_of(call))
    if not stored.head.is_background:
        raise InvalidParameter("only the stream of a background response can be resumed", param="stream")
    reader = reader_of(stored.head, stored.run)
    output = ResponseOutput(stored.head, reader)
    events = events_of(stored.handle, stored.handle.recorded_events(), output, reader)
    # The first event has the number 0.
    after = -1 if call.query.starting_after is None else call.query.starting_after
    frames = frames_of(events, after=after)
    return AnswerStream(frames, call, output.error_frame, headers=headers_of(call))


async def cancel(call: AuthorizedRequest[None, None]) -> Response:
    """POST /v1/responses/{response_id}/cancel: stop a response. A response that has ended is returned unchanged."""
    named = _named(call)
    run_id = require_response(named)
    thread_id = await thread_of_response(call, run_id)
    value: dict[str, Any] = {"thread_id": thread_id, "run_id": run_id, "metadata": {}}
    readable = await call.authorize("threads.read", value)
    handle = await call.state.runs.cancel_if_active(call.caller, thread_id, run_id, reason="the response was cancelled")
    # The right to cancel is not the right to read the answer.
    handle = replace(handle, filters=handle.filters.narrowed(readable))
    await settled_run(handle, within_s=CANCEL_S)
    stored = await StoredResponse.of(call, handle, named)
    return json_response(await stored.fields(), headers=headers_of(call))


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /v1/responses/{response_id}: delete a response. If it is unfinished, it is stopped first.

    A thread that a response has created is deleted with its last response.
    """
    run_id = require_response(_named(call))
    thread_id = await thread_of_response(call, run_id)
    await call.state.runs.delete(call.caller, thread_id, run_id, own_thread=THREAD_MARK)
    deleted: DeletedResponse = {"id": response_id(run_id), "object": "response", "deleted": True}
    return json_response(deleted, headers=headers_of(call))


async def input_items(call: AuthorizedRequest[None, ListQuery]) -> Response:
    """GET /v1/responses/{response_id}/input_items: list the input items of a response."""
    stored = await _stored(call)
    return json_response(page(stored.input_items(), call.query), headers=headers_of(call))


def _named(call: AuthorizedRequest[Any, Any]) -> str:
    return str(call.request.path_params["response_id"])


async def _stored(call: AuthorizedRequest[Any, Any]) -> StoredResponse:
    """Return the response of the path. Raise ResourceNotFound if the caller has no such response."""
    run_id = require_response(_named(call))
    thread_id = await thread_of_response(call, run_id)
    handle = await call.state.runs.follow(call.caller, thread_id, run_id)
    return await StoredResponse.of(call, handle, _named(call))


async def _read(call: AuthorizedRequest[ResponseBody, None]) -> _ResponseRun:
    """Read a request and the response or conversation that it names. Raise InvalidParameter, ResourceNotFound or Forbidden."""
    body = call.body
    _check(body)
    assistant_of(call.assistants, body.model)
    response_run = _ResponseRun(call=call, tools=chat_tools(body.tools))
    await _find_thread(response_run)
    # A request that names neither reads nothing, so it needs no permission to read.
    read_from = response_run.thread_id or first_reference(body.input)
    if read_from is not None:
        value: dict[str, Any] = {"thread_id": read_from, "run_id": None, "metadata": {}}
        response_run.readable = await call.authorize("threads.read", value)
        sent = await References(call, {read_from: response_run.readable}).replace(body.input)
    else:
        sent = body.input
    response_run.messages = response_messages(sent, response_run.thread_id)
    return response_run


def _check(body: ResponseBody) -> None:
    """Raise InvalidParameter if the body has an unsupported parameter or contradicts itself."""
    check_metadata(body.metadata)
    refuse(body.prompt, "prompt", "the server stores no prompts: send instructions")
    refuse(body.top_logprobs, "top_logprobs", "graphs do not return probabilities")
    refuse(
        body.background and not body.is_stored, "background", "a background response must be stored: set store to true"
    )
    if body.conversation_id and body.previous_response_id:
        raise InvalidParameter("can't be used with conversation", param="previous_response_id")
    if not body.input:
        raise InvalidParameter("must not be empty", param="input")


async def _find_thread(response_run: _ResponseRun) -> None:
    """Set the thread that the request names: by a response, a conversation, a header or the metadata."""
    call, body = response_run.call, response_run.body
    if body.previous_response_id is not None:
        response_run.previous_run = run_of_response(body.previous_response_id)
        if response_run.previous_run is None:
            raise _previous_not_found(body.previous_response_id)
        response_run.thread_id = await thread_of_response(call, response_run.previous_run)
    elif body.conversation_id is not None:
        response_run.thread_id = thread_of_conversation(body.conversation_id)
    elif body.is_stored:
        settings, identity = call.state.settings, call.caller.identity
        metadata = body.metadata or {}
        response_run.named = named_thread(
            call.request.headers, metadata, project=settings.project_id, identity=identity
        )
        response_run.thread_id = response_run.named.thread_id if response_run.named else None


def _previous_not_found(named: str) -> InvalidParameter:
    detail = f"Previous response with id {named[:100]!r} not found."
    return InvalidParameter(detail, param="previous_response_id", code="previous_response_not_found")


async def _start(response_run: _ResponseRun) -> RunHandle:
    """Authorize the caller, and start the run, or put it in the queue if it is for the background."""
    call, service = response_run.call, response_run.call.state.runs
    authorized = await service.authorize(call.caller, _request(response_run))

    async def continuation(allowed: Authorized) -> Continuation:
        continued = await _continue(response_run, allowed)
        response_run.outcome = continued.outcome
        return continued

    # System messages are kept apart: a thread has one, and a newer one replaces it.
    system = [text_of(message["content"]) for message in response_run.messages if message["role"] == "system"]
    sent = ThreadInput(
        system="\n\n".join(system) or None, instructions=response_run.body.instructions or None, has_instructions=True
    )
    prepare = prepare_run(call, response_run.body.model, sent, continuation)
    start = service.enqueue_authorized if response_run.body.background else service.start_authorized
    return await start(call.caller, authorized, prepare)


async def _continue(response_run: _ResponseRun, allowed: Authorized) -> Continuation:
    """Return how the input continues the response or conversation that the request names."""
    spoken = [message for message in response_run.messages if message["role"] != "system"]
    if response_run.readable is None or response_run.thread_id is None:
        return Continuation(outcome="imported", messages=spoken)
    reader = ThreadReader(call=response_run.call, filters=response_run.readable.narrowed(allowed.threads))
    if response_run.previous_run is not None:
        return await _continue_response(response_run, reader, response_run.previous_run, spoken)
    if response_run.named is not None:
        return await continue_thread(reader, response_run.named, split_messages(response_run.messages))
    thread = await reader.settled(response_run.thread_id)
    if thread is None:
        raise NotFound(f"Conversation with id {response_run.body.conversation_id!r} not found.")
    thread_messages = messages_of(thread.values.load()) if thread.values else []
    # Nothing may be written to the thread, so its messages are input of a run without a thread.
    if not response_run.body.is_stored:
        return Continuation(outcome="imported", messages=[*_as_input(thread_messages), *spoken])
    return Continuation(
        outcome="appended", messages=spoken, questions=questions_of(thread.interrupts.load()), held=thread_messages
    )


async def _continue_response(
    response_run: _ResponseRun, reader: ThreadReader, run_id: UUID, spoken: Sequence[Message]
) -> Continuation:
    """Continue from the checkpoint at which a response ended, even if the thread has newer checkpoints."""
    service, named = response_run.call.state.runs, str(response_run.body.previous_response_id)
    previous = await reader.run(response_run.thread_id or NO_RUN, run_id)
    if previous is None:
        raise _previous_not_found(named)
    ended = await settled_run(service.handle_of(reader.filters, previous))
    thread = await reader.thread(previous.thread_id)
    if ended is None or thread is None or ended.status not in FINAL:
        raise _previous_not_found(named)
    checkpoint_id = await reader.newest_with(thread, {"run_id": str(previous.run_id)})
    if checkpoint_id is None:
        raise _previous_not_found(named)
    continued = await fork(reader, thread, checkpoint_id, spoken)
    if not response_run.body.is_stored:
        return replace(
            continued, checkpoint_id=None, questions=(), messages=[*_as_input(continued.held), *spoken], held=()
        )
    # The questions are still open, so they can be answered without a copy of the checkpoint.
    if continued.questions and thread.status == "interrupted" and checkpoint_id == await reader.newest(thread):
        return replace(continued, answered_thread=None)
    return continued


def _as_input(thread_messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of a state as the input of a run without a thread."""
    names = ("content", "id", "name", "tool_calls", "tool_call_id")
    roles = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
    return [
        {"role": roles[str(each["type"])], **{name: each[name] for name in names if each.get(name) is not None}}
        for each in thread_messages
        if str(each.get("type")) in roles
    ]


def _settings(response_run: _ResponseRun) -> dict[str, Any]:
    """Return the fields of the request, for the graph and for later reads."""
    body = response_run.body
    settings: dict[str, Any] = {"api": API, "model": body.model, **body.settings("input", "tools")}
    if response_run.tools:
        settings["tools"] = response_run.tools
    if response_run.named is not None and response_run.thread_id is not None:
        # The response then names its conversation, as if the body had named it.
        settings["conversation"] = str(response_run.thread_id)
    return settings


def _request(response_run: _ResponseRun) -> RunRequest:
    """Return the run request before the thread is read."""
    call, body = response_run.call, response_run.body
    is_new = body.is_stored and response_run.thread_id is None
    minutes = call.state.settings.response_ttl_s / 60
    marks = {DIGEST_KEY: split_messages(response_run.messages).digest} if _is_clients(response_run.named) else {}
    return RunRequest(
        spec=GraphRunOptions(input={"messages": response_run.messages}),
        assistant=body.model,
        thread_id=response_run.thread_id if body.is_stored else None,
        create_thread=response_run.named is not None,
        temporary=not body.is_stored,
        metadata=THREAD_MARK if is_new else {},
        thread_ttl=Ttl(strategy="delete", minutes=minutes) if is_new and minutes else None,
        resumable=body.is_stored,
        read_by_caller=not body.background,
        configurable={**call.forwarded_headers, "openai": _settings(response_run), **marks},
        key=call.idempotency_key,
    )


def _is_clients(named: NamedThread | None) -> bool:
    return named is not None and named.owner == "client"


async def _response(handle: RunHandle, output: ResponseOutput) -> bytes:
    """Wait for the end of the run, and return the response as JSON."""
    async for _, pieces in answer_pieces(handle.events(), output.reader):
        output.events(pieces)
    _, response = await finish(handle, output)
    return json.dumps(response)
