"""Runs: start one and read its stream, wait for its answer, or leave it in the queue."""

import functools
import logging
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import RunResult, joined, json_pieces, json_response, run_headers
from threadkeep.api.streaming import EventStream, StreamReader, run_frames
from threadkeep.base import json
from threadkeep.base.problems import InvalidRequest
from threadkeep.runs.request import GraphRunOptions, MultitaskStrategy, RunRequest
from threadkeep.runs.service import RunHandle
from threadkeep.tables.idempotency_keys import IdempotencyKey

RESERVED_CONFIG_KEYS = frozenset({"run_id", "thread_id", "assistant_id", "graph_id", "cron_id", "run_attempt"})
"""Metadata that the server writes; a client's are dropped, as on the reference."""
OF_LANGSMITH = ("feedback_keys", "langsmith_tracer")
"""Documented fields that need LangSmith. LangGraph Studio and older clients send them without being asked."""

log = logging.getLogger(__name__)


@functools.cache
def _tell_without_effect(field: str) -> None:
    """Say once that a field that clients send does nothing here."""
    log.warning("a field of LangSmith's has no effect on this server", extra={"field": field})


class RunBody(GraphRunOptions):
    """The body of a run's creation, on a thread or without one."""

    assistant_id: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    checkpoint_during: bool | None = None
    """Deprecated: `false` is `durability="exit"`."""
    feedback_keys: Any = None
    """Has no effect: there is no LangSmith here."""
    langsmith_tracer: Any = None
    """Has no effect: there is no LangSmith here."""
    on_disconnect: Literal["cancel", "continue"] = "continue"
    after_seconds: float = Field(default=0, ge=0, le=10 * 365 * 86400)

    @property
    def merged_metadata(self) -> dict[str, Any]:
        """What the client says of the run, by either field."""
        told: object = self.config.get("metadata")
        said = {**(cast("dict[str, Any]", told) if isinstance(told, dict) else {}), **self.metadata}
        return {key: value for key, value in said.items() if key not in RESERVED_CONFIG_KEYS}

    @property
    def run_spec(self) -> GraphRunOptions:
        """What concerns the graph alone. Refuses what this server can't do or what contradicts itself."""
        for name in OF_LANGSMITH:
            if getattr(self, name):
                _tell_without_effect(name)
        if self.context and self.config.get("configurable"):
            raise InvalidRequest("Cannot specify both configurable and context. Prefer setting context alone.")
        if self.checkpoint_during is not None and "durability" not in self.model_fields_set:
            return self.model_copy(update={"durability": "async" if self.checkpoint_during else "exit"})
        return self


class ThreadRunBody(RunBody):
    """The body of a run on a thread."""

    multitask_strategy: MultitaskStrategy = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"


class StatelessRunBody(RunBody):
    """The body of a run without a thread."""

    on_completion: Literal["delete", "keep"] = "delete"


RunBatch = Annotated[list[StatelessRunBody], Field(min_length=1, max_length=1000)]


async def create(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs: leave a run in the queue."""
    handle = await call.state.runs.enqueue(call.caller, start_on_thread(call, key=call.idempotency_key))
    return json_response(handle.run, headers=run_headers(handle.thread_id, handle.run_id))


async def stream(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/stream: run, and read the events."""
    return _events(
        call,
        await call.state.runs.start(call.caller, start_on_thread(call, read_by_caller=True, key=call.idempotency_key)),
    )


async def wait(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/wait: run, and read the final values."""
    return _result(call, await call.state.runs.start(call.caller, start_on_thread(call, key=call.idempotency_key)))


async def stream_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs/stream: run without a thread, and read the events."""
    return _events(
        call,
        await call.state.runs.start(
            call.caller, _without_thread(call, call.body, call.idempotency_key, read_by_caller=True)
        ),
    )


async def wait_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs/wait: run without a thread, and read the final values."""
    return _result(
        call, await call.state.runs.start(call.caller, _without_thread(call, call.body, call.idempotency_key))
    )


async def create_batch(call: AuthorizedRequest[list[StatelessRunBody], None]) -> Response:
    """POST /runs/batch: leave several runs in the queue, each on a thread of its own."""
    key = call.idempotency_key  # a digest of the whole body
    requests = [_without_thread(call, body, key) for body in call.body]
    made = await call.state.runs.enqueue_batch(call.caller, requests)
    return json_pieces(joined([await json.dumps_apart(run, size=len(run.kwargs.raw)) for run in made]))


async def create_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs: leave a run in the queue, on a thread of its own."""
    handle = await call.state.runs.enqueue(call.caller, _without_thread(call, call.body, call.idempotency_key))
    return json_response(handle.run, headers=run_headers(handle.thread_id, handle.run_id))


def start_on_thread(
    call: AuthorizedRequest[ThreadRunBody, None], *, read_by_caller: bool = False, key: IdempotencyKey | None = None
) -> RunRequest:
    """The run that a body asks for on the thread of the path."""
    body = call.body
    return RunRequest(
        spec=body.run_spec,
        assistant=body.assistant_id,
        thread_id=call.thread_id,
        metadata=body.merged_metadata,
        multitask_strategy=body.multitask_strategy,
        create_thread=body.if_not_exists == "create",
        after_s=body.after_seconds,
        resumable=read_by_caller and body.stream_resumable,
        read_by_caller=read_by_caller,
        configurable=call.forwarded_headers,
        key=key,
    )


def _without_thread(
    call: AuthorizedRequest[Any, None],
    body: StatelessRunBody,
    key: IdempotencyKey | None,
    *,
    read_by_caller: bool = False,
) -> RunRequest:
    if body.command and body.command.resume is not None:
        raise InvalidRequest("You must provide a thread_id when resuming.")
    return RunRequest(
        spec=body.run_spec,
        assistant=body.assistant_id,
        metadata=body.merged_metadata,
        after_s=body.after_seconds,
        temporary=body.on_completion == "delete",
        resumable=body.stream_resumable,
        read_by_caller=read_by_caller,
        configurable=call.forwarded_headers,
        key=key,
    )


def _result(call: AuthorizedRequest[Any, None], handle: RunHandle) -> Response:
    """The final values, when there are some."""
    headers = run_headers(handle.thread_id, handle.run_id, "join")
    return RunResult(handle, call.caller, headers=headers, cancels=call.body.on_disconnect == "cancel")


def _events(call: AuthorizedRequest[Any, None], handle: RunHandle) -> Response:
    """The run's events, as they come."""
    reading = StreamReader(handle.execution, call.state.settings)
    return EventStream(
        run_frames(handle.events(), with_ids=call.body.stream_resumable, reading=reading),
        call,
        headers=run_headers(handle.thread_id, handle.run_id, "stream"),
        cancels=handle if call.body.on_disconnect == "cancel" else None,
        reading=reading,
    )
