"""Sending: a message of a client starts a run, which begins a task, answers its question, or adds to it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

import anyio

from threadkeep.api.a2a.agents import Agent, agent_of
from threadkeep.api.a2a.errors import (
    invalid_params,
    task_not_found,
    unsupported,
    unsupported_content,
)
from threadkeep.api.a2a.fields import Fields
from threadkeep.api.a2a.messages import Part, SentMessage, check_media, is_one_of, read_message
from threadkeep.api.a2a.tasks import DATA_OUTPUT, KEY, MESSAGE_MODE, TaskView, has_ended, open_questions, question_parts
from threadkeep.api.agents.assistants import agent_id, resolve_agent
from threadkeep.api.agents.chains import (
    ANSWER_POLL_S,
    ANSWER_S,
    NO_THREAD,
    ChainMovedOn,
    ChainReader,
    parse_chain_id,
    require_waiting,
    thread_of_chain,
)
from threadkeep.api.agents.marks import run_marks
from threadkeep.api.agents.questions import Question, actions_of, answer_key, text_answer
from threadkeep.api.agents.repeated_requests import start_once
from threadkeep.api.agents.thread_ids import named_thread_id
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base import ids
from threadkeep.base.problems import Conflict, IdempotencyKeyReused, NotFound
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.calling_run import CALLING_RUN, CallingRun
from threadkeep.runs.request import Command, GraphRunOptions, RunChain, RunRequest
from threadkeep.runs.service import Authorized, RunHandle
from threadkeep.tables import run_chains
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.run_chains import ChainRun

SOURCE: Final = "a2a"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """The parameters of SendMessage and SendStreamingMessage."""

    message: SentMessage
    view: TaskView
    immediate: bool
    """The client does not wait for the end of the task."""
    output_modes: Sequence[str]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTask:
    """The task that a message belongs to."""

    chains: ChainReader
    chain_id: UUID
    handle: RunHandle | None
    """The run that the message has started. None: it was sent before, and nothing runs."""


def read_send_request(params: Fields) -> SendRequest:
    """Read the parameters. A2AError names the field that is wrong."""
    message = read_message(params.required_message("message"))
    configuration = params.message("configuration") or Fields({}, "configuration")
    return SendRequest(
        message=message,
        view=TaskView(history_length=configuration.integer("historyLength", least=0)),
        immediate=configuration.boolean("returnImmediately"),
        output_modes=configuration.texts("acceptedOutputModes"),
        metadata=params.struct("metadata"),
    )


@dataclass(slots=True, kw_only=True)
class _Sending:
    """A message on its way to a thread."""

    call: AuthorizedRequest[Any, Any]
    name: str
    """The agent, as the path calls it."""
    sent: SendRequest
    task_id: UUID | None
    thread_id: UUID | None
    """None: the message names a task that does not exist."""
    readable: Filters | None
    """The filters of the rows that the caller may read. None: the message names neither a task nor a context."""
    has_used_id: bool = False
    """An earlier message on the thread has the same id."""
    has_data_input: bool = False
    """The agent takes no messages, and the message has data for it."""

    @property
    def context_id(self) -> str | None:
        """The client's own name of the context, if it is not the id of a thread."""
        named = self.sent.message.context_id
        return named if named and named != str(self.thread_id) else None


async def send(call: AuthorizedRequest[Any, Any], name: str, sent: SendRequest) -> SentTask:
    """Start the run of a message. A message that was sent before on the same context starts nothing.

    Raise A2AError, Forbidden, QueueFull, or NotFound if the agent does not exist.
    """
    agent_id(call.assistants, name)
    sending = await _read_context(call, name, sent)
    # Before the authorization, because the handlers of a project's `Auth` see and may change the input.
    sending.has_data_input = await _has_data_input(call, name, sent.message.parts)
    # Such a request would wait for its own run until a timeout.
    _refuse_own_thread(sending)
    authorized = await call.state.runs.authorize(call.caller, _request(sending))
    assistant = await resolve_agent(call, authorized.assistants, name)
    agent = await agent_of(call, name, assistant)
    _check(agent, sent)
    # The answer shows the thread, so the caller needs both permissions: to run on it and to read it.
    filters = authorized.threads if sending.readable is None else sending.readable.narrowed(authorized.threads)
    chains = ChainReader(call=call, filters=filters)
    give_up_at = anyio.current_time() + ANSWER_S
    # Each round reads the task again, because the other request may have changed its state.
    while True:
        if (repeated := await _sent_before(sending, chains, agent)) is not None:
            return SentTask(chains=chains, chain_id=repeated.chain_id, handle=None)
        task = await _task_of(sending, chains, agent)
        try:
            completed = replace(authorized, request=_completed(sending, agent, authorized, task))
            return await _start(sending, completed, chains, task)
        except (
            IdempotencyKeyReused,
            ChainMovedOn,
        ):  # another message answers the question, or the task is being canceled
            if anyio.current_time() > give_up_at:
                raise unsupported("The question of this task has already been answered") from None
            await anyio.sleep(ANSWER_POLL_S)


async def _read_context(call: AuthorizedRequest[Any, Any], name: str, sent: SendRequest) -> _Sending:
    """Find the thread that the message names, and authorize the caller to read it."""
    message = sent.message
    task_id = parse_chain_id(message.task_id)
    # Chosen here, because the authorization of the run needs the id of its new thread.
    thread_id: UUID | None = ids.uuid7()
    if message.task_id:
        thread_id = await thread_of_chain(call, task_id)
    elif message.context_id:
        thread_id = named_thread_id(call, message.context_id, "contextId")
    readable = None
    if message.task_id or message.context_id:
        # A handler is called even if there is no such task. So its refusal does not tell whether the task exists.
        value: dict[str, Any] = {"thread_id": thread_id or NO_THREAD, "run_id": task_id, "metadata": {}}
        readable = await call.authorize("threads.read", value)
    sending = _Sending(call=call, name=name, sent=sent, task_id=task_id, thread_id=thread_id, readable=readable)
    if readable is not None and thread_id is not None:
        # Of any owner: the answer changes nothing but the id of the caller's own message.
        async with call.state.pool.connection() as conn:
            sending.has_used_id = await run_chains.has_message(conn, thread_id, message.message_id)
    return sending


async def _has_data_input(call: AuthorizedRequest[Any, Any], name: str, parts: Sequence[Part]) -> bool:
    """Return whether the input is data, for the handlers of a project's own `Auth`. The answer does not depend on the agent."""
    try:
        assistant = await call.assistants.resolve(UNRESTRICTED, name)
    except NotFound:
        return False
    return _is_data(parts) and not await call.state.message_graphs.takes_messages(assistant.graph_id)


def _is_data(parts: Sequence[Part]) -> bool:
    """Whether a message is one part with data."""
    return len(parts) == 1 and "data" in parts[0]


def _refuse_own_thread(sending: _Sending) -> None:
    """Conflict if a graph would wait for a task on the thread of its own run."""
    run: CallingRun | None = sending.call.request.scope.get(CALLING_RUN)
    if run is not None and not sending.sent.immediate and sending.thread_id in run.threads:
        raise Conflict("a run can't wait for its own thread, or for the thread of a run that waits for it")


def _check(agent: Agent, sent: SendRequest) -> None:
    """Raise A2AError if the agent does not accept the content, or the client accepts none of the agent's output types."""
    check_media(sent.message.parts, agent.input_modes)
    accepted = [mode.strip().lower() for mode in sent.output_modes]
    known = [mode for mode in accepted if "/" in mode]
    # Some clients send words such as `text`. Only a list of media types alone can exclude the agent's.
    if accepted == known and known and not any(_overlap(mode, agent.output_modes) for mode in known):
        raise unsupported_content(known[0])


def _overlap(mode: str, modes: Sequence[str]) -> bool:
    """Whether a media type, or a range of them, has one of the modes."""
    return is_one_of(mode, modes) or any(is_one_of(other, [mode]) for other in modes)


async def _sent_before(sending: _Sending, chains: ChainReader, agent: Agent) -> ChainRun | None:
    """Return the newest run of the task if the same message has started it before, else None."""
    if sending.readable is None or sending.thread_id is None:
        return None
    assistant_id, message = agent.assistant.assistant_id, sending.sent.message
    # Without filters: row-level security would keep Postgres from the index on jsonb. `newest` below checks the access.
    async with sending.call.state.pool.connection() as conn:
        chain_id = await run_chains.chain_of_message(conn, sending.thread_id, assistant_id, message.key)
    run = await chains.newest(chain_id) if chain_id else None
    return run if run is not None and is_task_of(run, agent) else None


def is_task_of(run: ChainRun, agent: Agent) -> bool:
    """Whether a run belongs to a task of an agent."""
    return run.assistant_id == agent.assistant.assistant_id and run.metadata.load().get("source") == SOURCE


async def _task_of(sending: _Sending, chains: ChainReader, agent: Agent) -> ChainRun | None:
    """The newest run of the task that the message names. None if it names none."""
    message = sending.sent.message
    if not message.task_id:
        return None
    run = await chains.newest(sending.task_id) if sending.task_id and sending.thread_id else None
    if run is None or not is_task_of(run, agent):
        raise task_not_found(message.task_id)
    if message.context_id and named_thread_id(sending.call, message.context_id, "contextId") != run.thread_id:
        raise invalid_params("message.contextId", "must be the context of this task")
    if has_ended(run):
        raise unsupported("The task has ended and accepts no more messages: start a new task", taskId=message.task_id)
    return run


def _completed(sending: _Sending, agent: Agent, authorized: Authorized, task: ChainRun | None) -> RunRequest:
    """The request of the run, by the state of the task."""
    if task is not None and task.state == "input_required":
        return _answer(sending, agent, authorized.request, task)
    # Built again, now with the parts that depend on the agent and the task.
    request = _request(sending, agent, task)
    changes: dict[str, Any] = {"stream_mode": _modes(agent)}
    if not agent.takes_messages and not _is_data(sending.sent.message.parts):
        raise invalid_params("message.parts", "this agent accepts exactly one data part: the input of its graph")
    # The input is that of the authorized request, because a handler of the project's `Auth` may have changed it.
    return replace(authorized.request, **_parts_of(request), spec=authorized.request.spec.model_copy(update=changes))


def _answer(sending: _Sending, agent: Agent, request: RunRequest, task: ChainRun) -> RunRequest:
    """The request of a run that answers the question of a task."""
    questions = open_questions(task)
    question_keys = {"question": question_parts(questions), "answers": str(task.run_id)}
    changes: dict[str, Any] = {
        "stream_mode": _modes(agent),
        "input": None,
        "command": Command(resume=_resume(questions, sending.sent.message)),
    }
    answering = replace(
        _request(sending, agent, task),
        # An answer is not the run's input. So the bytes of its files are stored here, or nowhere.
        configurable=_configurable(sending, without_raw=False, **question_keys),
        # Replaces the key of the message: this one lets a question have one answer over all surfaces.
        key=answer_key(task.run_id, hashlib.sha256(sending.sent.message.key.encode()).digest()),
    )
    return replace(request, **_parts_of(answering), spec=request.spec.model_copy(update=changes))


def _parts_of(request: RunRequest) -> dict[str, Any]:
    """The parts of a run request that do not depend on authorization."""
    names = ("thread_id", "create_thread", "marks", "chain", "configurable", "key")
    return {name: getattr(request, name) for name in names}


def _modes(agent: Agent) -> list[str]:
    return [MESSAGE_MODE, "updates"] if agent.takes_messages else ["updates"]


def _resume(questions: Sequence[Question], message: SentMessage) -> Any:
    """Return the value that resumes the graph: interrupt id -> answer. Only the answer if the graph stopped without a question."""
    answer = _answer_value(message)
    if not questions:
        return answer
    ids_of_questions = {question.interrupt_id for question in questions}
    # Data that names every question has an answer for each of them. Any other answer is given to all.
    if len(questions) > 1 and isinstance(answer, dict) and ids_of_questions == cast("dict[str, Any]", answer).keys():
        return cast("dict[str, Any]", answer)
    answers: dict[str, Any] = {
        # Text is parsed only for approvals. A client that means JSON sends a part with data.
        question.interrupt_id: text_answer(question, answer)
        if isinstance(answer, str) and actions_of(question)
        else answer
        for question in questions
    }
    return answers


def _answer_value(message: SentMessage) -> Any:
    """A message as an answer: the value of its data part, or its text, or its content blocks."""
    values = [part["data"] for part in message.parts if "data" in part]
    return values[0] if len(values) == 1 else message.content


def _request(sending: _Sending, agent: Agent | None = None, task: ChainRun | None = None) -> RunRequest:
    """Return the run request before the agent and the thread are read."""
    message = sending.sent.message
    # LangGraph's reducer would put this message in the place of an earlier one with the same id.
    message_id = message.key if sending.has_used_id else message.message_id
    user_message = {"role": "user", "content": message.content, "id": message_id}
    graph_input = message.parts[0]["data"] if sending.has_data_input else {"messages": [user_message]}
    own = {
        "context_id": sending.context_id if task is None else _context_name(task),
        "output": DATA_OUTPUT if agent is not None and not agent.takes_messages else None,
    }
    return RunRequest(
        spec=GraphRunOptions(input=graph_input),
        assistant=sending.name,
        # The authorization still runs for a task that does not exist, and then finds nothing.
        thread_id=sending.thread_id or NO_THREAD,
        # The thread of a task exists. If it was deleted meanwhile, the message must not create it again.
        create_thread=not message.task_id,
        marks=run_marks(SOURCE, {name: value for name, value in own.items() if value}),
        chain=RunChain(chain_id=task and task.chain_id, message_id=message.key),
        # A task is read at every process and after its end, so its events are always recorded.
        resumable=True,
        read_by_caller=not sending.sent.immediate,
        configurable=_configurable(sending, without_raw=True),
        key=_message_key(sending, agent) if agent is not None else None,
    )


def _context_name(task: ChainRun) -> str | None:
    mark: Any = task.metadata.load().get(KEY) or {}
    return cast("dict[str, Any]", mark).get("context_id")


def _configurable(sending: _Sending, *, without_raw: bool, **more: Any) -> dict[str, Any]:
    """The keys of `configurable`. The graph reads them, and the task's history is made from them."""
    sent = sending.sent
    own: dict[str, Any] = {"message": sent.message.stored(without_raw=without_raw), **more}
    if sent.metadata:
        own["metadata"] = dict(sent.metadata)
    if sent.output_modes:
        own["accepted_output_modes"] = list(sent.output_modes)
    return {**sending.call.forwarded_headers, KEY: own}


def _message_key(sending: _Sending, agent: Agent) -> IdempotencyKey:
    """Makes two requests with the same message for the same agent and context one. A client's own key has no space."""
    identity, message = sending.call.caller.identity or "", sending.sent.message
    digest = hashlib.sha256(message.key.encode()).digest()
    name = f"a2a message {agent.assistant.assistant_id} {sending.thread_id} {digest.hex()}"
    return IdempotencyKey(principal=identity, key=name, request_sha256=digest)


async def _start(sending: _Sending, authorized: Authorized, chains: ChainReader, task: ChainRun | None) -> SentTask:
    """Start the run, or wait for an unfinished request with the same message."""
    service, caller = sending.call.state.runs, sending.call.caller
    # A client that does not wait gets its answer from the queue too. Another client would wait for a slot anyway.
    admit = service.start_soon_authorized if sending.sent.immediate else service.start_authorized
    prepare = None
    if task is not None and task.state == "input_required":
        prepare = partial(require_waiting, chains, task)
    start = partial(admit, caller, authorized, prepare)
    try:
        handle = await start_once(sending.call, chains.filters, cast("UUID", sending.thread_id), start)
    except NotFound:
        raise _gone(sending) from None
    return SentTask(chains=chains, chain_id=_chain_of(handle), handle=handle)


def _chain_of(handle: RunHandle) -> UUID:
    """The chain of a run that was started as a part of one."""
    metadata: dict[str, Any] = handle.run.metadata.load() if handle.run is not None else {}
    return UUID(metadata["chain"]["id"])


def _gone(sending: _Sending) -> Exception:
    """The error for a thread that was deleted meanwhile, or that is another user's."""
    if sending.sent.message.task_id:
        return task_not_found(sending.sent.message.task_id)
    return invalid_params("message.contextId", "the context does not exist")
