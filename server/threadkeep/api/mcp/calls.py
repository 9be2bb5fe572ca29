"""Calls: a call of a tool is a run. It begins a thread, continues one, or answers a thread's question.

A client with elicitation gets the question as a form, and calls again with the answers. Its `requestState` names the run that
asks, and contains the answers so far. A question has one answer: the answering run has an idempotency key of the run that asks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from threadkeep.api.agents.marks import run_marks
from threadkeep.api.agents.questions import Question, answer_key, question_schema, questions_of, text_answer
from threadkeep.api.agents.repeated_requests import start_once
from threadkeep.api.mcp.arguments import ToolError, first_error, read_arguments, unknown_thread
from threadkeep.api.mcp.capabilities import can_elicit, declares_tasks
from threadkeep.api.mcp.elicitation import Refused, answer_of, requests_of
from threadkeep.api.mcp.progress import MODES, ProgressReader
from threadkeep.api.mcp.results import Result, tool_result
from threadkeep.api.mcp.run_output import RunOutput, read_output
from threadkeep.api.mcp.tasks import created_task
from threadkeep.api.mcp.tools import Tool
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base import json
from threadkeep.base.problems import IdempotencyKeyReused, NotFound
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.request import Command, GraphRunOptions, RunChain, RunRequest
from threadkeep.runs.service import RunHandle
from threadkeep.tables import thread_runs
from threadkeep.tables.idempotency_keys import IdempotencyKey

if TYPE_CHECKING:
    from threadkeep.api.mcp.exchange import Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool."""

    exchange: "Exchange"
    tool: Tool
    arguments: Mapping[str, Any]
    state: str | None
    """The `requestState` of a call with answers, opened."""
    responses: Mapping[str, Any] | None
    """Question -> the client's answer."""

    @property
    def request(self) -> AuthorizedRequest[Any, Any]:
        return self.exchange.call

    @property
    def can_elicit(self) -> bool:
        """The client supports elicitation."""
        return can_elicit(self.exchange)

    @property
    def wants_progress(self) -> bool:
        return self.exchange.progress_token is not None

    @property
    def may_become_task(self) -> bool:
        """The client knows tasks."""
        return declares_tasks(self.exchange)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A thread at the question of its newest run."""

    thread_id: UUID
    run_id: UUID
    graph_id: str
    questions: Sequence[Question]
    filters: Filters
    """The filters by which the caller may read it."""


async def call_tool(call: ToolCall) -> Result:
    """Run the tool. ToolError if the call can't be done."""
    if call.state is not None:
        return await _retry(call, call.state)
    if call.responses:
        raise MCPError(INVALID_PARAMS, "inputResponses need the requestState of the result that asked")
    arguments = await read_arguments(call.tool.schemas, call.arguments)
    if arguments.resume is not None:
        return await _resume(call, cast("UUID", arguments.thread_id), arguments.resume)
    handle = await _start(call, GraphRunOptions(input=arguments.input), arguments.thread_id)
    call.exchange.started(handle)
    return await _follow(call, handle)


async def _start(
    call: ToolCall, spec: GraphRunOptions, thread_id: UUID | None, key: IdempotencyKey | None = None
) -> RunHandle:
    """Start the run of a call. Raise ToolError if the thread does not exist."""
    request = RunRequest(
        spec=spec.model_copy(update={"stream_mode": list(MODES if call.wants_progress else MODES[:1])}),
        assistant=str(call.tool.assistant.assistant_id),
        thread_id=thread_id,
        metadata=run_marks("mcp"),
        marks={"mcp": {"tool": call.tool.name}},
        # Decided before the run starts: a run can't be made the first of a chain later.
        chain=RunChain() if call.may_become_task else None,
        # A task is read by any process after the end of this request, so it needs recorded events.
        resumable=call.may_become_task,
        read_by_caller=call.wants_progress,
        # Nothing leaves the server before the end, so the run's row need not be on disk before the run starts.
        is_answered_at_end=not call.wants_progress,
        configurable={**call.request.forwarded_headers, "mcp": {"tool": call.tool.name}},
        key=key,
    )
    try:
        return await call.request.state.runs.start(call.request.caller, request)
    except NotFound:
        # Then only the assistant can be missing: it was deleted after the tool was found.
        if thread_id is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {call.tool.name}") from None
        raise unknown_thread() from None


async def _follow(call: ToolCall, handle: RunHandle) -> Result:
    """Wait for the end of a run, and send its progress. A long call becomes a task."""
    progress = ProgressReader(call.exchange.tell_progress)
    on_event = progress.read if call.wants_progress else None
    if not call.may_become_task:
        return await _finished(call, handle, await read_output(handle, call.request.state.threads, on_event))
    output: RunOutput | None = None
    # A queued run that waits for its thread may take as long as any other run. It becomes a task at once.
    if handle.execution is not None or not call.request.state.settings.executes_runs:  # else it waits for its thread
        with anyio.move_on_after(call.request.state.settings.mcp_task_after_s):
            output = await read_output(handle, call.request.state.threads, on_event)
    if output is None:
        return await created_task(call.exchange, handle)
    return await _finished(call, handle, output)


async def _finished(call: ToolCall, handle: RunHandle, output: RunOutput) -> Result:
    # A form needs no task or stream: the client repeats the call with the answers.
    if output.is_success and output.questions and call.can_elicit:
        return _input_required(handle.thread_id, handle.run_id, output.questions, {})
    return await tool_result(call.tool, output, handle.thread_id)


def _input_required(
    thread_id: UUID, run_id: UUID, open_questions: Sequence[Question], answers: Mapping[str, Any]
) -> Result:
    """Ask the client. Its next call has the state, which the server seals."""
    state = {"thread_id": str(thread_id), "run_id": str(run_id), "answers": dict(answers)}
    return {
        "resultType": "input_required",
        "inputRequests": requests_of(open_questions),
        "requestState": json.dumps(state).decode(),
    }


async def _retry(call: ToolCall, state: str) -> Result:
    """A call with answers to the questions of an earlier call."""
    state_fields: dict[str, Any] = json.loads(state)
    thread_id, run_id, answers = UUID(state_fields["thread_id"]), UUID(state_fields["run_id"]), state_fields["answers"]
    filters = await _readable(call, thread_id)
    waiting = await _waiting(call, filters, thread_id)
    # Somebody has answered before. A client that repeats the call still wants the result.
    if waiting.run_id != run_id or not waiting.questions:
        return await _present(call, thread_id, waiting.run_id)
    unanswered = [each for each in waiting.questions if each.interrupt_id not in answers]
    # Earlier answers are in the sealed state, because the server stores nothing between the two calls.
    answers |= await _new_answers(call, thread_id, unanswered)
    if still_open := [each for each in waiting.questions if each.interrupt_id not in answers]:
        return _input_required(thread_id, run_id, still_open, answers)
    return await _answer(call, waiting, answers)


async def _new_answers(call: ToolCall, thread_id: UUID, open_questions: Sequence[Question]) -> dict[str, Any]:
    """The answers that the client sent and that fit. ToolError if the user declined one."""
    answers: dict[str, Any] = {}
    for question in open_questions:
        response: object = (call.responses or {}).get(question.interrupt_id)
        if not isinstance(response, dict):
            continue
        try:
            answer = await answer_of(question, cast("dict[str, Any]", response))
        except Refused:
            raise ToolError(
                f"The user did not answer. Nothing was done, and the conversation with thread_id {thread_id} waits."
            ) from None
        if answer is not None:
            answers[question.interrupt_id] = answer.value
    return answers


async def _resume(call: ToolCall, thread_id: UUID, resume: Any) -> Result:
    """A call that answers a question by its arguments, because its client does not support elicitation."""
    filters = await _readable(call, thread_id)
    waiting = await _waiting(call, filters, thread_id)
    if not waiting.questions:
        raise ToolError("The conversation does not wait for an answer. Omit resume and send the other arguments.")
    if waiting.graph_id != call.tool.assistant.graph_id:
        raise ToolError(f"The question was asked by another agent than {call.tool.name}.")
    return await _answer(call, waiting, await _resume_answers(waiting.questions, resume))


async def _resume_answers(questions: Sequence[Question], resume: Any) -> dict[str, Any]:
    """Interrupt id -> answer. ToolError if one is missing, unknown, or does not fit its schema."""
    ids = [question.interrupt_id for question in questions]
    answers: dict[str, Any] = cast("dict[str, Any]", resume) if isinstance(resume, dict) else {}
    if len(questions) == 1:
        # With one question a client need not know its id. Its answer may be an object too.
        answers = answers if answers.keys() == set(ids) else {ids[0]: resume}
    elif answers.keys() != set(ids):
        raise ToolError(f"resume: must be an object with an answer for each of {', '.join(ids)}")
    return {question.interrupt_id: await _checked(question, answers[question.interrupt_id]) for question in questions}


async def _checked(question: Question, answer: Any) -> Any:
    """The answer to a question. ToolError if it does not fit the question's schema."""
    schema = question_schema(question)
    if schema is None:
        return answer
    # Models often write an object as a string of JSON.
    value = text_answer(question, answer) if isinstance(answer, str) else answer
    if (error := await first_error(schema, value)) is not None:
        raise ToolError(f"resume: does not fit the JSON schema {json.dumps(schema).decode()}: {error}")
    return value


async def _answer(call: ToolCall, waiting: Waiting, answers: Mapping[str, Any]) -> Result:
    """Resume the thread once. The same answers again get the same run, and others the thread's present result."""
    # Sorted, because a client may repeat the answers in another order.
    digest = hashlib.sha256(json.dumps(sorted(answers.items()))).digest()
    key = answer_key(waiting.run_id, digest)
    spec = GraphRunOptions(command=Command(resume=dict(answers)))
    start = partial(_start, call, spec, waiting.thread_id, key)
    try:
        handle = await start_once(call.request, waiting.filters, waiting.thread_id, start)
    # Another answer came first. The client gets the result of that one, and not an error that it can't cure.
    except IdempotencyKeyReused:
        return await _present(call, waiting.thread_id, None)
    call.exchange.started(handle)
    return await _follow(call, handle)


async def _present(call: ToolCall, thread_id: UUID, run_id: UUID | None) -> Result:
    """The present result of a thread whose question was answered before. Its run is not of this request."""
    filters = await _readable(call, thread_id)
    if run_id is None:
        run_id = (await _waiting(call, filters, thread_id)).run_id
    try:
        # Not `started`: the run belongs to another request and must not be cancelled with this client.
        handle = await call.request.state.runs.follow(call.request.caller, thread_id, run_id)
    except NotFound:
        raise unknown_thread() from None
    call.exchange.opened.set()
    output = await read_output(handle, call.request.state.threads)
    waiting = await _waiting(call, filters, thread_id)
    open_ids = {question.interrupt_id for question in waiting.questions}
    # The events of the run have the questions that it asked. Some of them may have answers now.
    still_open = [question for question in output.questions if question.interrupt_id in open_ids]
    return await _finished(call, handle, replace(output, questions=still_open))


async def _readable(call: ToolCall, thread_id: UUID) -> Filters:
    """The filters of threads that the caller may read. Forbidden."""
    value: dict[str, Any] = {"thread_id": thread_id, "run_id": None, "metadata": {}}
    return await call.request.authorize("threads.read", value)


async def _waiting(call: ToolCall, filters: Filters, thread_id: UUID) -> Waiting:
    """Return the newest run of a thread and the questions that it waits for. Raise ToolError if the thread does not exist."""
    async with call.request.state.pool.connection(filters) as conn:
        thread = await thread_runs.waiting_thread(conn, filters, thread_id)
    if thread is None:
        raise unknown_thread()
    if thread.run_id is None:
        raise ToolError("The conversation does not wait for an answer. Omit resume and send the other arguments.")
    questions = questions_of(thread.interrupts.load()) if thread.status == "interrupted" else []
    graph_id = str(thread.metadata.load().get("graph_id", ""))
    return Waiting(thread_id=thread_id, run_id=thread.run_id, graph_id=graph_id, questions=questions, filters=filters)
