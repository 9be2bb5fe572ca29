"""Runs: start one and read its stream, wait for its answer, or leave it in the queue; join it; stop it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from starlette.responses import Response

from threadkeep.api import idempotency
from threadkeep.api.langgraph.existing_runs import canceller
from threadkeep.api.operation import Call
from threadkeep.api.responses import json_answer, run_headers
from threadkeep.api.streaming import EventStream, Reading, run_frames
from threadkeep.api.waiting import WaitingAnswer
from threadkeep.base.problems import InvalidRequest, NotFound, Unavailable, Unsupported
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs import follow
from threadkeep.runs.admission import Admission, Admitted, enqueue, run_foreground, run_stateless
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import Followed
from threadkeep.runs.request import RunSpec

MAX_RECURSION = 1000
"""The highest `config.recursion_limit`."""
RESERVED = frozenset({"run_id", "thread_id", "assistant_id", "graph_id", "cron_id", "run_attempt"})
"""Metadata that the server writes; a client's are dropped, as on the reference."""
NOT_ON_DISK = "the database crashed before the run was on disk: send it again"
UNSUPPORTED = ("feedback_keys", "langsmith_tracer")
"""Documented fields that need LangSmith."""


class RunBody(RunSpec):
    """The body of a run's creation, on a thread or without one."""

    assistant_id: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    checkpoint_during: bool | None = None
    """Deprecated: `false` is `durability="exit"`."""
    feedback_keys: list[str] | None = None
    langsmith_tracer: dict[str, Any] | None = None
    on_disconnect: Literal["cancel", "continue"] = "continue"
    after_seconds: float = Field(default=0, ge=0, le=10 * 365 * 86400)

    @property
    def own_metadata(self) -> dict[str, Any]:
        """What the client says of the run, by either field."""
        told: object = self.config.get("metadata")
        said = {**(cast("dict[str, Any]", told) if isinstance(told, dict) else {}), **self.metadata}
        return {key: value for key, value in said.items() if key not in RESERVED}

    @property
    def spec(self) -> RunSpec:
        """What concerns the graph alone. Refuses what this server can't do or what contradicts itself."""
        for name in UNSUPPORTED:
            if getattr(self, name):
                raise Unsupported(f"{name} needs LangSmith, which this server does not use", field=name)
        limit = self.config.get("recursion_limit")
        if limit is not None and not (type(limit) is int and 1 <= limit <= MAX_RECURSION):
            raise Unsupported(f"config.recursion_limit must be from 1 to {MAX_RECURSION}", field="config")
        if self.context and self.config.get("configurable"):
            raise InvalidRequest("Cannot specify both configurable and context. Prefer setting context alone.")
        if self.checkpoint_during is not None and "durability" not in self.model_fields_set:
            return self.model_copy(update={"durability": "async" if self.checkpoint_during else "exit"})
        return self


class ThreadRunBody(RunBody):
    """The body of a run on a thread."""

    multitask_strategy: Literal["reject", "enqueue", "interrupt", "rollback"] = "enqueue"
    if_not_exists: Literal["create", "reject"] = "reject"


class StatelessRunBody(RunBody):
    """The body of a run without a thread."""

    on_completion: Literal["delete", "keep"] = "delete"


Batch = Annotated[list[StatelessRunBody], Field(min_length=1, max_length=1000)]


async def create(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs: leave a run in the queue."""
    admitted = await idempotency.admit(call, await on_thread(call, kept=True), enqueue)
    return json_answer(admitted.run, headers=run_headers(admitted.thread_id, admitted.run_id))


async def stream(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/stream: run, and read the events."""
    asked = await on_thread(call, kept=call.body.stream_resumable or _keyed(call), watched=True)
    admitted = await idempotency.admit(call, asked, run_foreground)
    reading = Reading(call.engine, admitted.run_id)
    followed = follow.follow(call.engine, call.filters, admitted.run_id, 0)
    return EventStream(
        run_frames(followed, with_ids=call.body.stream_resumable, reading=reading),
        headers=run_headers(admitted.thread_id, admitted.run_id, "stream"),
        on_disconnect=_on_disconnect(call, admitted),
        reading=reading,
    )


async def wait(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/wait: run, and read the final values."""
    admitted = await idempotency.admit(call, await on_thread(call, kept=_keyed(call)), run_foreground)
    return WaitingAnswer(
        _answer(call.engine, call.filters, admitted),
        live=admitted.live,
        headers=run_headers(admitted.thread_id, admitted.run_id, "join"),
        on_disconnect=_on_disconnect(call, admitted),
        confirm=_confirm(call.engine, call.filters, admitted),
    )


async def stream_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs/stream: run without a thread, and read the events."""
    asked = await _without_thread(call, call.body, kept=_keyed(call), watched=True)
    admitted = await _admit_stateless(call, asked)
    reading = Reading(call.engine, admitted.run_id, admitted.live)
    return EventStream(
        run_frames(_followed(call, admitted), with_ids=call.body.stream_resumable, reading=reading),
        headers=run_headers(admitted.thread_id, admitted.run_id, "stream" if admitted.run else None),
        on_disconnect=_on_disconnect(call, admitted),
        reading=reading,
    )


async def wait_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs/wait: run without a thread, and read the final values."""
    admitted = await _admit_stateless(call, await _without_thread(call, call.body, kept=_keyed(call)))
    return WaitingAnswer(
        _answer(call.engine, call.filters, admitted),
        live=admitted.live,
        headers=run_headers(admitted.thread_id, admitted.run_id, "join" if admitted.run else None),
        on_disconnect=_on_disconnect(call, admitted),
        confirm=_confirm(call.engine, call.filters, admitted),
    )


async def create_batch(call: Call[list[StatelessRunBody], None]) -> Response:
    """POST /runs/batch: leave several runs in the queue, each on a thread of its own."""
    asked = [await _without_thread(call, body, kept=True) for body in call.body]
    if key := idempotency.key_of(call):
        return json_answer(await idempotency.enqueue_several(call, key, asked))
    admitted = [await enqueue(call.engine, call.filters, one) for one in asked]
    return json_answer([one.run for one in admitted])


async def create_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs: leave a run in the queue, on a thread of its own."""
    asked = await _without_thread(call, call.body, kept=True)
    admitted = await idempotency.admit(call, asked, enqueue)
    return json_answer(admitted.run, headers=run_headers(admitted.thread_id, admitted.run_id))


async def on_thread(call: Call[ThreadRunBody, None], *, kept: bool = False, watched: bool = False) -> Admission:
    body = call.body
    spec = body.spec
    call.engine.webhooks.check(spec.webhook)
    return Admission(
        spec=call.configured(spec),
        chosen=await call.assistants.choose(call.filters, body.assistant_id),
        thread_id=call.thread_id,
        metadata=body.own_metadata,
        multitask_strategy=body.multitask_strategy,
        create_thread=body.if_not_exists == "create",
        after_s=body.after_seconds,
        kept=kept,
        watched=watched,
        user=call.user,
    )


async def _without_thread(
    call: Call[Any, None], body: StatelessRunBody, *, kept: bool = False, watched: bool = False
) -> Admission:
    if body.command and body.command.resume is not None:
        raise InvalidRequest("You must provide a thread_id when resuming.")
    call.engine.webhooks.check(body.webhook)
    return Admission(
        spec=call.configured(body.spec),
        chosen=await call.assistants.choose(call.filters, body.assistant_id),
        thread_id=None,
        metadata=body.own_metadata,
        after_s=body.after_seconds,
        temporary=body.on_completion == "delete",
        kept=kept or body.stream_resumable,
        watched=watched,
        user=call.user,
    )


async def _admit_stateless(call: Call[StatelessRunBody, None], asked: Admission) -> Admitted:
    """In memory alone, unless the run is to be kept, resumed, delayed, told of, or found by its key."""
    in_memory = asked.temporary and not asked.kept and asked.after_s == 0 and asked.spec.webhook is None
    if in_memory and not _keyed(call):
        return await run_stateless(call.engine, call.filters, asked)
    return await idempotency.admit(call, asked, run_foreground)


def _keyed(call: Call[Any, Any]) -> bool:
    """It may be sent again, and is then to be followed from its beginning."""
    return idempotency.HEADER in call.request.headers


def _answer(engine: Engine, filters: Filters, admitted: Admitted) -> Callable[[], Awaitable[bytes]]:
    async def answer() -> bytes:
        if admitted.live is None:
            return await follow.answer(engine, filters, admitted.thread_id, admitted.run_id)
        if outcome := await admitted.live.wait():
            return outcome.answer
        if admitted.run is None or engine.stopping.is_set():
            raise Unavailable("the server is stopping")
        try:  # another process has it now
            return await follow.answer(engine, filters, admitted.thread_id, admitted.run_id)
        except NotFound:
            if admitted.live.cancelled:
                raise
            raise Unavailable(NOT_ON_DISK) from None

    return answer


def _confirm(engine: Engine, filters: Filters, admitted: Admitted) -> Callable[[], Awaitable[None]] | None:
    """Says, before the client hears of a run that was opened without a flush, that it is in Postgres."""
    if admitted.live is None or admitted.run is None:
        return None
    live = admitted.live

    async def confirm() -> None:
        if await follow.known(engine, filters, live.run_id) is None and not live.cancelled:
            raise Unavailable(NOT_ON_DISK)

    return confirm


def _followed(call: Call[Any, Any], admitted: Admitted) -> AsyncGenerator[Followed, None]:
    """A stateless run that has ended already is only in its own ring."""
    if admitted.live:
        return admitted.live.follow(0)
    return follow.follow(call.engine, call.filters, admitted.run_id, 0)


def _on_disconnect(call: Call[Any, Any], admitted: Admitted) -> Callable[[], Awaitable[None]] | None:
    """A lost connection stops the run only where the client said so."""
    if call.body.on_disconnect != "cancel":
        return None
    if admitted.run is None and admitted.live is not None:
        live = admitted.live

        async def cancel_here() -> None:
            live.cancel("interrupt", "the client disconnected")

        return cancel_here
    return canceller(call, admitted.thread_id, admitted.run_id)
