"""Commands of the protocol v2, which a client sends over HTTP or on a socket.

Every error is answered in the protocol's envelope. The status is 200 if the command itself is at fault. For reasons that
apply to any request (no such thread, no slot, not allowed), the status and further fields are those of the Problem.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

import anyio
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.body import validate
from threadkeep.api.langgraph.runs import ThreadRunBody, start_on_thread
from threadkeep.api.langgraph.threads import require_thread
from threadkeep.api.operation import AuthorizedRequest, Switch
from threadkeep.api.protocol_v2 import events
from threadkeep.api.protocol_v2.event_stream import read_object
from threadkeep.api.protocol_v2.tree import run_tree
from threadkeep.api.responses import json_response
from threadkeep.api.socket import CLOSE_CODES, error_frame
from threadkeep.base.problems import InvalidRequest, NotFound, Problem, ThreadBusy, UnsupportedField, ValidationFailed
from threadkeep.project import Http
from threadkeep.runs.request import RunConfig
from threadkeep.tables import thread_runs, threads
from threadkeep.tables.thread_runs import NewestRun

MODES: Final = ("values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "tools")
"""Stream modes of a run that a command started. All channels are made from them."""
RUN_END_TIMEOUT_S: Final = 10.0
"""Seconds that an answer to an interrupt waits for the interrupted run to end."""

Params: TypeAlias = dict[str, Any]


class CommandBody(BaseModel):
    """A command. The response contains its `id`."""

    model_config = ConfigDict(extra="ignore")

    id: int = Field(ge=0, le=events.MAX_SEQ)
    method: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)


class CommandError(Exception):
    """A refused command, with the protocol's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command.

    `applied_through_seq` is the seq before the first event of a run that the command started.
    """

    result: Mapping[str, Any]
    applied_through_seq: int | None = None


async def command(call: AuthorizedRequest[None, None]) -> Response:
    """POST /threads/{thread_id}/commands: execute a command of the protocol v2.

    A command starts a run, answers interrupts, or reads the tree of subgraphs.
    """
    body = read_command(await call.read_body())
    try:
        return json_response(await execute_command(call, body, METHODS))
    except Problem as problem:
        problem.fields |= error_frame(problem) | {"id": body.id}
        raise


def read_command(raw: bytes) -> CommandBody:
    """Return the command. Raise InvalidRequest if `raw` is not one."""
    try:
        return cast("CommandBody", validate(CommandBody, read_object(raw)))
    except ValidationFailed as problem:
        raise InvalidRequest(problem.detail) from None


Method: TypeAlias = Callable[[AuthorizedRequest[Any, Any], Params], Awaitable[CommandResult]]
Methods: TypeAlias = Mapping[str, Method]


async def execute_command(call: AuthorizedRequest[Any, Any], body: CommandBody, methods: Methods) -> dict[str, Any]:
    """Execute a command and return the envelope of its result or error. A Problem outside the protocol propagates."""
    try:
        method = methods.get(body.method)
        if method is None:
            raise CommandError("unknown_command", f"Unknown protocol command: {body.method}")
        outcome = await method(call, body.params)
    except CommandError as refused:
        return {"type": "error", "id": body.id, "error": refused.code, "message": refused.message}
    envelope: dict[str, Any] = {"type": "success", "id": body.id, "result": outcome.result}
    return (
        envelope
        if outcome.applied_through_seq is None
        else envelope | {"meta": {"applied_through_seq": outcome.applied_through_seq}}
    )


async def run_start(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """Start a run. If the thread does not exist, create it."""
    if not isinstance(params.get("assistant_id"), str):
        raise CommandError("invalid_argument", "assistant_id must name an assistant or a graph")
    strategy = params.get("multitask_strategy") or params.get("multitaskStrategy") or "enqueue"
    fields = params | {"multitask_strategy": strategy, "if_not_exists": "create"}
    return await _run(call, _with_checkpoint(fields))


async def input_respond(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """Answer one or more interrupts and resume the thread."""
    answers = _answers(params)
    thread = await require_thread(call)
    run = await _wait_for_newest(call)
    if run is None:
        raise CommandError("no_such_interrupt", "No run of this thread waits for an answer.")
    # The interrupts of an active run are not stored yet, so the answers cannot be checked.
    if run.status not in {"pending", "running"}:
        async with call.state.pool.connection(call.filters) as conn:
            # Read again, because the run that has ended meanwhile has written its interrupts.
            thread = await threads.get(conn, call.filters, thread.thread_id) or thread
        interrupts_by_task = cast("dict[str, list[Params]]", thread.interrupts.load() or {})
        interrupt_ids = {interrupt["id"] for interrupts in interrupts_by_task.values() for interrupt in interrupts}
        if unknown := next((answer_id for answer_id in answers if answer_id not in interrupt_ids), None):
            raise CommandError("no_such_interrupt", f"The thread does not wait for an answer to {unknown}.")
    run_kwargs: dict[str, Any] = run.kwargs.load()
    config = _config(params)
    command_options = {key: params[key] for key in ("update", "goto") if params.get(key) is not None}
    fields: Params = {
        "assistant_id": str(run.assistant_id),
        "command": {"resume": answers, **command_options},
        "config": _merge_config(run_kwargs.get("config"), config),
        "metadata": params.get("metadata") or {},
    }
    # A run may have only one of the two.
    if run_kwargs.get("context") and not fields["config"].get("configurable"):
        fields["context"] = run_kwargs["context"]
    return await _run(call, fields)


async def get_tree(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """Return a run's graph and the subgraphs that have started so far. Without `run_id`, use the active run."""
    thread = await require_thread(call)
    no_run = CommandError("no_such_run", "No active run is bound to this thread.")
    try:
        run_id = None if params.get("run_id") is None else UUID(str(params["run_id"]))
    except ValueError:
        raise no_run from None
    tree = await run_tree(call.state.runs.follower, call.filters, thread.thread_id, run_id)
    if tree is None:
        raise no_run
    return CommandResult({"tree": tree})


METHODS: Final[Methods] = {
    "run.start": run_start,
    "input.respond": input_respond,
    "agent.getTree": get_tree,
}
"""Methods that work without a socket."""
SWITCHES: Final[Mapping[str, Switch]] = dict.fromkeys(METHODS, "disable_runs")
"""Method -> the key of `http` in langgraph.json that disables it."""


def served(http: Http) -> Methods:
    """Return the methods that no switch disables. A socket offers the same methods as the HTTP endpoint."""
    return {name: method for name, method in METHODS.items() if not getattr(http, SWITCHES[name])}


async def _run(call: AuthorizedRequest[Any, Any], fields: Params) -> CommandResult:
    """Authorize and start a run that streams all modes that the channels need."""
    stream_options = {"stream_mode": MODES, "stream_subgraphs": True, "stream_resumable": True}
    try:
        body = cast("ThreadRunBody", validate(ThreadRunBody, fields | stream_options))
    except ValidationFailed as problem:
        raise CommandError("invalid_argument", problem.detail) from None
    try:
        handle = await call.state.runs.start_soon(
            call.caller, start_on_thread(replace(call, body=body), read_by_caller=True)
        )
    except (InvalidRequest, NotFound, ValidationFailed, UnsupportedField, ThreadBusy) as problem:
        raise CommandError(CLOSE_CODES.get(problem.status, "unknown_error"), problem.detail) from None
    async with call.state.pool.connection(handle.filters) as conn:
        # The new run may wait after other runs, whose events the client gets first.
        first_position = await thread_runs.first_active_position(conn, handle.thread_id, handle.run_id)
    return CommandResult({"run_id": str(handle.run_id)}, events.first_seq(first_position))


def _with_checkpoint(fields: Params) -> Params:
    """Copy the checkpoint to start from out of `config.configurable`, as the protocol names it there."""
    config = fields.get("config")
    configurable = cast("Params", config).get("configurable") if isinstance(config, dict) else None
    checkpoint_id = cast("Params", configurable).get("checkpoint_id") if isinstance(configurable, dict) else None
    return fields | {"checkpoint_id": checkpoint_id} if checkpoint_id else fields


def _answers(params: Params) -> dict[str, Any]:
    """Return the answers by interrupt id. Raise CommandError if there is none or one is malformed."""
    # A single answer stands in the parameters themselves.
    responses = params.get("responses", [params])
    entries = cast("list[object]", responses) if isinstance(responses, list) else []
    answers: dict[str, Any] = {}
    for entry in entries:
        fields = cast("Params", entry) if isinstance(entry, dict) else {}
        if not isinstance(fields.get("interrupt_id"), str) or "response" not in fields:
            raise CommandError("invalid_argument", "each answer needs an interrupt_id and a response")
        answers[fields["interrupt_id"]] = fields["response"]
    if not answers:
        raise CommandError("invalid_argument", "the command has no answer")
    return answers


async def _wait_for_newest(call: AuthorizedRequest[Any, Any]) -> NewestRun | None:
    """Return the thread's newest run. If it is active, wait up to RUN_END_TIMEOUT_S for its end.

    A client answers as soon as it receives the interrupt, so the interrupted run may not have ended yet.
    """
    newest = await _newest(call)
    if newest is not None and newest.status in {"pending", "running"}:
        with anyio.move_on_after(RUN_END_TIMEOUT_S):
            await call.state.runs.follower.ended(call.filters, newest.run_id)
        newest = await _newest(call)
    return newest


async def _newest(call: AuthorizedRequest[Any, Any]) -> NewestRun | None:
    async with call.state.pool.connection(call.filters) as conn:
        return await thread_runs.newest_run(conn, call.filters, call.thread_id)


def _config(params: Params) -> Params:
    try:
        return cast("Params", validate(RunConfig, params.get("config") or {}))
    except ValidationFailed as problem:
        raise CommandError("invalid_argument", problem.detail) from None


def _merge_config(stored_config: object, config: Params) -> Params:
    """Return the interrupted run's config, overridden by the config of the answer."""
    run_config = cast("Params", stored_config) if isinstance(stored_config, dict) else {}
    configurable: Params = {**(run_config.get("configurable") or {}), **config.get("configurable", {})}
    return run_config | config | ({"configurable": configurable} if configurable else {})
