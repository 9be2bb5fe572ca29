"""Commands: what a client of the protocol v2 asks of a thread, over HTTP or on a socket.

Every error is answered in the protocol's envelope. The status is 200 if the command itself is at fault. For a reason
that concerns any request (no such thread, no slot, not allowed) the status is the Problem's, with its own fields beside
those of the envelope.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

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
"""What a run streams that was started by a command: all that the channels are made of."""
RUN_END_TIMEOUT_S: Final = 10.0
"""How long an answer to a question waits for the run that asked to end."""

Params: TypeAlias = dict[str, Any]


class CommandBody(BaseModel):
    """A command. `id` comes back in the answer."""

    model_config = ConfigDict(extra="ignore")

    id: int = Field(ge=0, le=events.MAX_SEQ)
    method: str = Field(min_length=1, max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)


class CommandError(Exception):
    """A command that can't be carried out, with the protocol's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command came to. `applied`: the seq up to which the client's view holds, where the command moved it."""

    result: Mapping[str, Any]
    applied_through_seq: int | None = None


async def command(call: AuthorizedRequest[None, None]) -> Response:
    """POST /threads/{thread_id}/commands: one command of the protocol v2: start a run, answer a question, show the tree."""
    sent = read_command(await call.read_body())
    try:
        return json_response(await execute_command(call, sent, METHODS))
    except Problem as problem:
        problem.fields |= error_frame(problem) | {"id": sent.id}
        raise


def read_command(raw: bytes) -> CommandBody:
    """A command; InvalidRequest where it is none."""
    try:
        return cast("CommandBody", validate(CommandBody, read_object(raw)))
    except ValidationFailed as problem:
        raise InvalidRequest(problem.detail) from None


Method: TypeAlias = Callable[[AuthorizedRequest[Any, Any], Params], Awaitable[CommandResult]]
Methods: TypeAlias = Mapping[str, Method]


async def execute_command(call: AuthorizedRequest[Any, Any], sent: CommandBody, methods: Methods) -> dict[str, Any]:
    """The command's envelope, whether it was carried out or not. Problems that are not the protocol's go on."""
    try:
        method = methods.get(sent.method)
        if method is None:
            raise CommandError("unknown_command", f"Unknown protocol command: {sent.method}")
        done = await method(call, sent.params)
    except CommandError as refused:
        return {"type": "error", "id": sent.id, "error": refused.code, "message": refused.message}
    answer: dict[str, Any] = {"type": "success", "id": sent.id, "result": done.result}
    return (
        answer
        if done.applied_through_seq is None
        else answer | {"meta": {"applied_through_seq": done.applied_through_seq}}
    )


async def run_start(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """Start a run, on a new thread where there is none of that id."""
    if not isinstance(params.get("assistant_id"), str):
        raise CommandError("invalid_argument", "assistant_id must name an assistant or a graph")
    strategy = params.get("multitask_strategy") or params.get("multitaskStrategy") or "enqueue"
    said = params | {"multitask_strategy": strategy, "if_not_exists": "create"}
    return await _run(call, _forked(said))


async def input_respond(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """Answer one question or several, and go on from there."""
    answers = _answers(params)
    thread = await require_thread(call)
    newest = await _settled(call)
    if newest is None:
        raise CommandError("no_such_interrupt", "No run of this thread has asked anything.")
    if newest.status not in {"pending", "running"}:
        async with call.state.pool.connection(call.filters) as conn:
            thread = await threads.get(conn, call.filters, thread.thread_id) or thread
        waiting = cast("dict[str, list[Params]]", thread.interrupts.load() or {})
        asked = {one["id"] for several in waiting.values() for one in several}
        if unknown := next((one for one in answers if one not in asked), None):
            raise CommandError("no_such_interrupt", f"The thread does not wait for an answer to {unknown}.")
    known_kwargs: dict[str, Any] = newest.kwargs.load()
    config = _config(params)
    going_on = {key: params[key] for key in ("update", "goto") if params.get(key) is not None}
    said: Params = {
        "assistant_id": str(newest.assistant_id),
        "command": {"resume": answers, **going_on},
        "config": _overridden(known_kwargs.get("config"), config),
        "metadata": params.get("metadata") or {},
    }
    if known_kwargs.get("context") and not said["config"].get("configurable"):
        said["context"] = known_kwargs["context"]
    return await _run(call, said)


async def get_tree(call: AuthorizedRequest[Any, Any], params: Params) -> CommandResult:
    """A run's graph and its subgraphs, as far as they have come; without `run_id`, of the run that goes on."""
    thread = await require_thread(call)
    found = await run_tree(call.state.runs.follower, call.filters, thread.thread_id, params.get("run_id"))
    if found is None:
        raise CommandError("no_such_run", "No active run is bound to this thread.")
    return CommandResult({"tree": found})


METHODS: Final[Methods] = {
    "run.start": run_start,
    "input.respond": input_respond,
    "agent.getTree": get_tree,
}
"""Of those that need no connection of their own."""
SWITCHES: Final[Mapping[str, Switch]] = dict.fromkeys(METHODS, "disable_runs")
"""The key of `http` in langgraph.json that takes a method away."""


def served(http: Http) -> Methods:
    """The methods that no switch takes away. A socket has them although its path is served for its events."""
    return {name: method for name, method in METHODS.items() if not getattr(http, SWITCHES[name])}


async def _run(call: AuthorizedRequest[Any, Any], said: Params) -> CommandResult:
    """Start a run with all that the channels are made of, as the caller may."""
    streamed = {"stream_mode": MODES, "stream_subgraphs": True, "stream_resumable": True}
    try:
        body = cast("ThreadRunBody", validate(ThreadRunBody, said | streamed))
    except ValidationFailed as problem:
        raise CommandError("invalid_argument", problem.detail) from None
    try:
        handle = await call.state.runs.start_soon(
            call.caller, start_on_thread(replace(call, body=body), read_by_caller=True)
        )
    except (InvalidRequest, NotFound, ValidationFailed, UnsupportedField, ThreadBusy) as problem:
        raise CommandError(CLOSE_CODES.get(problem.status, "unknown_error"), problem.detail) from None
    async with call.state.pool.connection(handle.filters) as conn:
        first = await thread_runs.first_active_position(conn, handle.thread_id, handle.run_id)
    return CommandResult({"run_id": str(handle.run_id)}, events.first_seq(first))


def _forked(said: Params) -> Params:
    """The protocol names the checkpoint to start from in `config.configurable`."""
    config = said.get("config")
    configurable = cast("Params", config).get("configurable") if isinstance(config, dict) else None
    checkpoint_id = cast("Params", configurable).get("checkpoint_id") if isinstance(configurable, dict) else None
    return said | {"checkpoint_id": checkpoint_id} if checkpoint_id else said


def _answers(params: Params) -> dict[str, Any]:
    """Interrupt id -> answer."""
    several = params.get("responses", [params])
    entries = cast("list[object]", several) if isinstance(several, list) else []
    answers: dict[str, Any] = {}
    for entry in entries:
        fields = cast("Params", entry) if isinstance(entry, dict) else {}
        if not isinstance(fields.get("interrupt_id"), str) or "response" not in fields:
            raise CommandError("invalid_argument", "each answer needs an interrupt_id and a response")
        answers[fields["interrupt_id"]] = fields["response"]
    if not answers:
        raise CommandError("invalid_argument", "there is no answer")
    return answers


async def _settled(call: AuthorizedRequest[Any, Any]) -> NewestRun | None:
    """The thread's newest run, ended if it can be waited for: a client answers as soon as it hears of the question."""
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


def _overridden(known_config: object, config: Params) -> Params:
    """The config of the run that asked, with what the answer says over it."""
    before = cast("Params", known_config) if isinstance(known_config, dict) else {}
    configurable: Params = {**(before.get("configurable") or {}), **config.get("configurable", {})}
    return before | config | ({"configurable": configurable} if configurable else {})
