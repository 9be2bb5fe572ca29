"""Tasks: calls that take long, by the extension `io.modelcontextprotocol/tasks`.

A task is the chain of runs that a call began (`agents/chains.py`): its id is that of the first run, and its state is that of
the newest one. So any process can return it, even after a restart. An answer resumes the run that asked. Until every question has an
answer, the task waits for the others.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    RequestParams,
)
from pydantic import Field

from threadkeep.api.agents.chains import (
    ANSWER_POLL_S,
    ChainMovedOn,
    ChainReader,
    authorize_chain,
    close_question,
    parse_chain_id,
    require_waiting,
)
from threadkeep.api.agents.marks import SOURCE, run_marks
from threadkeep.api.agents.questions import Question, answer_key
from threadkeep.api.agents.run_end import RunEnd
from threadkeep.api.mcp.capabilities import TASKS, can_elicit, declares_tasks
from threadkeep.api.mcp.elicitation import Answer, Refused, answer_of, elicitation
from threadkeep.api.mcp.results import Result, failure_text, tool_result
from threadkeep.api.mcp.run_output import RunOutput, read_output
from threadkeep.api.mcp.tools import Tool, tool_of_run
from threadkeep.base import json
from threadkeep.base.problems import IdempotencyKeyInUse, IdempotencyKeyReused, NotFound
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.request import Command, GraphRunOptions, RunChain, RunRequest
from threadkeep.runs.service import RunHandle
from threadkeep.tables import threads
from threadkeep.tables.idempotency_keys import IdempotencyKey
from threadkeep.tables.run_chains import ACTIVE, ChainRun

if TYPE_CHECKING:
    from threadkeep.api.mcp.exchange import Exchange

POLL_INTERVAL_MS: Final = 1_000
"""How often a client should ask."""
WORKER_DIED: Final = "WorkerDied"
"""The error of a run that the server has lost (`tables/workers.py`)."""
SOURCE_NAME: Final = "mcp"
TRIES: Final = 100
"""How often an answer or a cancel looks at a task that another request is answering or cancelling."""


class TaskParams(RequestParams):
    """The parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str = Field(alias="taskId")


class TaskUpdateParams(TaskParams):
    """The parameters of `tasks/update`."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task of a caller."""

    exchange: "Exchange"
    reader: ChainReader
    runs: Sequence[ChainRun]
    """The oldest first. There is at least one."""

    @property
    def first(self) -> ChainRun:
        return self.runs[0]

    @property
    def newest(self) -> ChainRun:
        return self.runs[-1]

    @property
    def thread_id(self) -> UUID:
        return self.first.thread_id


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question of a task that has no answer yet."""

    key: str
    """Its key in `inputRequests`, which is used once in the life of a task."""
    question: Question


async def created_task(exchange: "Exchange", handle: RunHandle) -> Result:
    """Return the result of an unfinished call. Its run is on disk, and continues without the client."""
    run = handle.run
    if run is None:
        raise RuntimeError("the run of a task has a row")
    # From here on a disconnect must not cancel the run: the client gets its result by `tasks/get`.
    exchange.stays = True
    async with exchange.call.state.pool.connection(handle.filters) as conn:
        ttl_ms = await _ttl_ms(conn, handle.filters, run.thread_id, run.created_at)
    return {"resultType": "task", "status": "working", **_fields(run.run_id, run.created_at, run.updated_at, ttl_ms)}


async def get_task(exchange: "Exchange", params: TaskParams) -> Result:
    """`tasks/get`: the state of a task, and its result or its questions."""
    task = await _find(exchange, params.task_id)
    async with exchange.call.state.pool.connection(task.reader.filters) as conn:
        ttl_ms = await _ttl_ms(conn, task.reader.filters, task.thread_id, task.first.created_at)
    fields = _fields(task.first.run_id, task.first.created_at, task.newest.updated_at, ttl_ms)
    return {"resultType": "complete", **fields, **await _state(task)}


async def update_task(exchange: "Exchange", params: TaskUpdateParams) -> Result:
    """`tasks/update`: answer questions of a task. An answer without an open question, or with a wrong schema, changes nothing."""
    for _ in range(TRIES):
        task = await _find(exchange, params.task_id)
        if await _update(task, params):
            break
        # Another request answers or cancels. If it answers other questions, the next round adds these answers.
        await anyio.sleep(ANSWER_POLL_S)
    return {}


async def _update(task: Task, params: TaskUpdateParams) -> bool:
    """Give the answers that fit open questions. Return False if another request is answering or cancelling."""
    answers: dict[str, Any] = {}
    for each in await _open_questions(task):
        response: object = params.input_responses.get(each.key)
        if not isinstance(response, dict):
            continue
        try:
            answer = await answer_of(each.question, cast("dict[str, Any]", response))
        except Refused:
            return await _close_question(task)
        if isinstance(answer, Answer):
            answers[each.question.interrupt_id] = answer.value
    return not answers or await _resume(task, answers)


async def cancel_task(exchange: "Exchange", params: TaskParams) -> Result:
    """`tasks/cancel`: stop a task. A finished task does not change."""
    for _ in range(TRIES):
        task = await _find(exchange, params.task_id)
        await _cancel_active_runs(task)
        if task.newest.state != "input_required" or await _close_question(task):
            break
        # An answer came first. The next round cancels its run.
        await anyio.sleep(ANSWER_POLL_S)
    return {}


async def _cancel_active_runs(task: Task) -> None:
    call = task.exchange.call
    for run in task.runs:
        if run.state in ACTIVE:
            reason = "the task was cancelled"
            await call.state.runs.cancel_if_active(call.caller, run.thread_id, run.run_id, reason=reason)


async def _find(exchange: "Exchange", task_id: str) -> Task:
    """The caller's task. MCPError if the client knows no tasks, or if there is no such task."""
    if not exchange.is_modern:
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    if not declares_tasks(exchange):
        required: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", required)
    chain_id = parse_chain_id(task_id)
    reader, _ = await authorize_chain(exchange.call, chain_id)
    runs = [] if chain_id is None else await reader.runs(chain_id)
    if not runs or runs[0].metadata.load().get(SOURCE) != SOURCE_NAME:
        raise MCPError(INVALID_PARAMS, "Task not found")
    return Task(exchange=exchange, reader=reader, runs=runs)


async def _state(task: Task) -> dict[str, Any]:
    """The status of a task and its result, error or questions."""
    if open_questions := await _open_questions(task):
        if can_elicit(task.exchange):
            requests = {each.key: elicitation(each.question) for each in open_questions}
            return {"status": "input_required", "inputRequests": requests}
        # This client can't be asked, so the text of the result tells how to answer by another call.
        output = RunOutput(end=RunEnd(status="success"), questions=[each.question for each in open_questions])
        return {"status": "completed", "result": await tool_result(await _tool(task), output, task.thread_id)}
    state = task.newest.state
    if state in ACTIVE:
        return {"status": "working"}
    if state == "canceled":
        return {"status": "cancelled", "statusMessage": "The task was cancelled."}
    output = await _output(task, task.newest)
    # MCP's `failed` is a fault of the server. A graph that raised is a completed task with an error for the model.
    if (output.end.error or {}).get("error") == WORKER_DIED:
        error = {"code": INTERNAL_ERROR, "message": failure_text(output)}
        return {"status": "failed", "statusMessage": error["message"], "error": error}
    result = await tool_result(await _tool(task), replace(output, questions=[]), task.thread_id)
    return {"status": "completed", "result": result}


async def _open_questions(task: Task) -> list[OpenQuestion]:
    """Return the open questions of a task: those of the last run that asked, without the questions that later runs answer."""
    if task.newest.state == "input_required":
        asking, answering = task.newest, []
    elif task.newest.state in ACTIVE:
        ended = [run for run in task.runs if run.state not in ACTIVE]
        if not ended:
            return []
        # Some answers are given. The other questions stay open while the run that got these works.
        asking, answering = ended[-1], [run for run in task.runs if run.queue_position > ended[-1].queue_position]
    else:
        return []
    questions = (await _output(task, asking)).questions
    answered_now = {interrupt_id for run in answering for interrupt_id in _answered_by(run)}
    # Runs up to the question alone: an answer that is on its way must not change the key of its own question.
    before = [run for run in task.runs if run.queue_position <= asking.queue_position]
    return [
        OpenQuestion(key=_key(question, before), question=question)
        for question in questions
        if question.interrupt_id not in answered_now
    ]


def _key(question: Question, runs: Sequence[ChainRun]) -> str:
    """The key of a question. LangGraph gives all questions of one node the same id, so their number is added."""
    answered = sum(question.interrupt_id in _answered_by(run) for run in runs)
    return f"{question.interrupt_id}-{answered}" if answered else question.interrupt_id


def _answered_by(run: ChainRun) -> Mapping[str, Any]:
    """The answers that a run was started with, by interrupt id."""
    command: object = run.kwargs.load().get("command")
    resume: object = cast("dict[str, Any]", command).get("resume") if isinstance(command, dict) else None
    return cast("dict[str, Any]", resume) if isinstance(resume, dict) else {}


async def _output(task: Task, run: ChainRun) -> RunOutput:
    return await read_output(task.reader.handle(run), task.exchange.call.state.threads)


async def _tool(task: Task) -> Tool:
    return await tool_of_run(task.exchange.call, task.newest)


async def _resume(task: Task, answers: Mapping[str, Any]) -> bool:
    """Start the run that gives these answers, soon. Return False if another request is answering or cancelling."""
    call, newest = task.exchange.call, task.newest
    # The name is stored, because the tool may have been renamed or deleted since.
    tool: str = newest.metadata.load().get(SOURCE_NAME, {}).get("tool", "")
    request = RunRequest(
        spec=GraphRunOptions(command=Command(resume=dict(answers))),
        assistant=str(newest.assistant_id),
        thread_id=task.thread_id,
        metadata=run_marks(SOURCE_NAME),
        marks={SOURCE_NAME: {"tool": tool}},
        chain=RunChain(chain_id=task.first.run_id),
        resumable=True,
        configurable={**call.forwarded_headers, SOURCE_NAME: {"tool": tool}},
        key=_answer_key(task, answers),
    )
    prepare = partial(require_waiting, task.reader, newest) if newest.state == "input_required" else None
    try:
        authorized = await call.state.runs.authorize(call.caller, request)
        await call.state.runs.start_soon_authorized(call.caller, authorized, prepare)
    except (IdempotencyKeyInUse, IdempotencyKeyReused, ChainMovedOn):
        return False
    except NotFound:
        raise MCPError(INVALID_PARAMS, "Task not found") from None
    return True


def _answer_key(task: Task, answers: Mapping[str, Any]) -> IdempotencyKey:
    """Return the key that lets questions have one answer. The first answers to a run have the key of all surfaces."""
    asking, digest = _asking(task), hashlib.sha256(json.dumps(sorted(answers.items()))).digest()
    if asking is task.newest:
        return answer_key(asking.run_id, digest)
    # Answers to other questions of the run are being given. So the key names the questions.
    names = hashlib.sha256(json.dumps(sorted(answers))).hexdigest()[:16]
    return IdempotencyKey(principal="", key=f"mcp-answer:{asking.run_id}:{names}", request_sha256=digest)


def _asking(task: Task) -> ChainRun:
    """The last run of the task that has ended."""
    return next((run for run in reversed(task.runs) if run.state not in ACTIVE), task.newest)


async def _close_question(task: Task) -> bool:
    """End a task that waits, so that it accepts no answer. Return False if an answer came first. The thread waits on."""
    call = task.exchange.call
    value: dict[str, Any] = {
        "thread_id": task.thread_id,
        "run_id": task.newest.run_id,
        "action": "interrupt",
        "metadata": {},
    }
    filters = task.reader.filters.narrowed(await call.authorize("threads.update", value))
    return await close_question(replace(task.reader, filters=filters), task.newest)


async def _ttl_ms(conn: Conn, filters: Filters, thread_id: UUID, created_at: datetime) -> int | None:
    """Milliseconds from the creation of a task for which it is stored. None: without limit."""
    ttl = await threads.get_ttl(conn, filters, thread_id)
    return None if ttl is None else max(0, int((ttl[1] - created_at).total_seconds() * 1000))


def _fields(task_id: UUID, created_at: datetime, updated_at: datetime, ttl_ms: int | None) -> dict[str, Any]:
    return {
        "taskId": str(task_id),
        "createdAt": _time(created_at),
        "lastUpdatedAt": _time(updated_at),
        "ttlMs": ttl_ms,
        "pollIntervalMs": POLL_INTERVAL_MS,
    }


def _time(moment: datetime) -> str:
    """RFC 3339."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
