"""Runs: start a run and stream it, wait for its result, or put it in the queue."""

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
"""Keys of metadata that only the server writes. They are dropped from a client's metadata, as LangGraph's server does."""
OF_LANGSMITH = ("feedback_keys", "langsmith_tracer")
"""Documented fields that need LangSmith. LangGraph Studio and older clients send them by default."""

log = logging.getLogger(__name__)


@functools.cache
def _warn_without_effect(field: str) -> None:
    """Log once that a field in requests has no effect."""
    log.warning("a LangSmith field has no effect on this server", extra={"field": field})


class RunBody(GraphRunOptions):
    """The body of a request that creates a run, on a thread or stateless."""

    assistant_id: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    checkpoint_during: bool | None = None
    """Deprecated. `false` means `durability="exit"`."""
    feedback_keys: Any = None
    """Has no effect: there is no LangSmith here."""
    langsmith_tracer: Any = None
    """Has no effect: there is no LangSmith here."""
    on_disconnect: Literal["cancel", "continue"] = "continue"
    after_seconds: float = Field(default=0, ge=0, le=10 * 365 * 86400)

    @property
    def merged_metadata(self) -> dict[str, Any]:
        """The run's metadata, from `config.metadata` and `metadata`. The latter wins."""
        in_config: object = self.config.get("metadata")
        merged = {**(cast("dict[str, Any]", in_config) if isinstance(in_config, dict) else {}), **self.metadata}
        return {key: value for key, value in merged.items() if key not in RESERVED_CONFIG_KEYS}

    @property
    def run_spec(self) -> GraphRunOptions:
        """The options that concern only the graph. Raise InvalidRequest if they contradict each other."""
        for name in OF_LANGSMITH:
            if getattr(self, name):
                _warn_without_effect(name)
        if self.context and self.config.get("configurable"):
            raise InvalidRequest("Cannot specify both configurable and context. Prefer setting context alone.")
        # The newer field wins if a client sends both.
        if self.checkpoint_during is not None and "durability" not in self.model_fields_set:
            return self.model_copy(update={"durability": "async" if self.checkpoint_during else "exit"})
        return self


class ThreadRunBody(RunBody):
    """The body of a run on a thread."""

    multitask_strategy: MultitaskStrategy = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"


class StatelessRunBody(RunBody):
    """The body of a stateless run."""

    on_completion: Literal["delete", "keep"] = "delete"


RunBatch = Annotated[list[StatelessRunBody], Field(min_length=1, max_length=1000)]


async def create(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs: put a run in the queue."""
    handle = await call.state.runs.enqueue(call.caller, start_on_thread(call, key=call.idempotency_key))
    return json_response(handle.run, headers=run_headers(handle.thread_id, handle.run_id))


async def stream(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/stream: start a run and stream its events."""
    return _events(
        call,
        await call.state.runs.start(call.caller, start_on_thread(call, read_by_caller=True, key=call.idempotency_key)),
    )


async def wait(call: AuthorizedRequest[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/wait: start a run and wait for its final values."""
    return _result(call, await call.state.runs.start(call.caller, start_on_thread(call, key=call.idempotency_key)))


async def stream_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs/stream: start a stateless run and stream its events."""
    return _events(
        call,
        await call.state.runs.start(
            call.caller, _without_thread(call, call.body, call.idempotency_key, read_by_caller=True)
        ),
    )


async def wait_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs/wait: start a stateless run and wait for its final values."""
    return _result(
        call, await call.state.runs.start(call.caller, _without_thread(call, call.body, call.idempotency_key))
    )


async def create_batch(call: AuthorizedRequest[list[StatelessRunBody], None]) -> Response:
    """POST /runs/batch: put several stateless runs in the queue, each on its own thread."""
    key = call.idempotency_key  # its digest covers the whole body
    requests = [_without_thread(call, body, key) for body in call.body]
    runs = await call.state.runs.enqueue_batch(call.caller, requests)
    # The kwargs are most of a run, so their size decides whether it is encoded in a thread.
    return json_pieces(joined([await json.dumps_apart(run, size=len(run.kwargs.raw)) for run in runs]))


async def create_stateless(call: AuthorizedRequest[StatelessRunBody, None]) -> Response:
    """POST /runs: put a stateless run in the queue, on its own thread."""
    handle = await call.state.runs.enqueue(call.caller, _without_thread(call, call.body, call.idempotency_key))
    return json_response(handle.run, headers=run_headers(handle.thread_id, handle.run_id))


def start_on_thread(
    call: AuthorizedRequest[ThreadRunBody, None], *, read_by_caller: bool = False, key: IdempotencyKey | None = None
) -> RunRequest:
    """Return the run request of a body, on the thread of the path."""
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
    # A new thread has no interrupt to resume from.
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
    """Return the response that waits for the run's final values."""
    headers = run_headers(handle.thread_id, handle.run_id, "join")
    return RunResult(handle, call.caller, headers=headers, cancels=call.body.on_disconnect == "cancel")


def _events(call: AuthorizedRequest[Any, None], handle: RunHandle) -> Response:
    """Return the response that streams the run's events."""
    reading = StreamReader(handle.execution, call.state.settings)
    return EventStream(
        run_frames(handle.events(), with_ids=call.body.stream_resumable, reading=reading),
        call,
        headers=run_headers(handle.thread_id, handle.run_id, "stream"),
        cancels=handle if call.body.on_disconnect == "cancel" else None,
        reading=reading,
    )
