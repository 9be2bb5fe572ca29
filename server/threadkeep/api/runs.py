"""Runs: start one and read its stream, wait for its answer, or leave it in the queue; join it; stop it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.answers import json_answer, no_content, raw_json, run_headers
from threadkeep.api.call import Call
from threadkeep.api.sse import EventStream
from threadkeep.api.waiting import WaitingAnswer
from threadkeep.db import cancels, runs
from threadkeep.db.cancels import Target
from threadkeep.db.filters import Filters
from threadkeep.db.runs import CancelAction
from threadkeep.engine import follow
from threadkeep.engine.admit import Admission, Admitted, enqueue, run_foreground, run_stateless
from threadkeep.engine.engine import Engine
from threadkeep.engine.live import Followed
from threadkeep.engine.spec import RunSpec
from threadkeep.problems import InvalidRequest, NotFound, Unavailable, Unsupported

MAX_RECURSION = 1000
"""The highest `config.recursion_limit`."""
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


def _modes(value: object) -> object:
    """A repeated key, one word, or (the JS SDK 2.0) a JSON list; empty is no filter."""
    if isinstance(value, str):
        return [word.strip(' []"') for word in value.split(",") if word.strip(' []"')] or None
    return value


class JoinQuery(BaseModel):
    """The query of a join."""

    model_config = ConfigDict(extra="ignore")

    stream_mode: Annotated[list[str] | None, BeforeValidator(_modes)] = None
    cancel_on_disconnect: bool = False


class CancelQuery(BaseModel):
    """The query of a cancel."""

    model_config = ConfigDict(extra="ignore")

    wait: bool = False
    action: CancelAction = "interrupt"
    reason: str | None = None


async def create(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs: leave a run in the queue."""
    admitted = await enqueue(call.engine, call.filters, await _on_thread(call, kept=True))
    return json_answer(admitted.run, headers=run_headers(admitted.thread_id, admitted.run_id))


async def stream(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/stream: run, and read the events."""
    asked = await _on_thread(call, kept=call.body.stream_resumable, watched=True)
    admitted = await run_foreground(call.engine, call.filters, asked)
    return EventStream(
        follow.follow(call.engine, admitted.run_id, 0),
        headers=run_headers(admitted.thread_id, admitted.run_id, "stream"),
        with_ids=call.body.stream_resumable,
        on_disconnect=_on_disconnect(call, admitted),
    )


async def wait(call: Call[ThreadRunBody, None]) -> Response:
    """POST /threads/{thread_id}/runs/wait: run, and read the final values."""
    admitted = await run_foreground(call.engine, call.filters, await _on_thread(call))
    return WaitingAnswer(
        _answer(call.engine, call.filters, admitted),
        headers=run_headers(admitted.thread_id, admitted.run_id, "join"),
        on_disconnect=_on_disconnect(call, admitted),
    )


async def stream_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs/stream: run without a thread, and read the events."""
    asked = await _without_thread(call, watched=True)
    admitted = await _admit_stateless(call, asked)
    return EventStream(
        _followed(call.engine, admitted),
        headers=run_headers(admitted.thread_id, admitted.run_id, "stream" if admitted.run else None),
        with_ids=call.body.stream_resumable,
        on_disconnect=_on_disconnect(call, admitted),
    )


async def wait_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs/wait: run without a thread, and read the final values."""
    admitted = await _admit_stateless(call, await _without_thread(call))
    return WaitingAnswer(
        _answer(call.engine, call.filters, admitted),
        headers=run_headers(admitted.thread_id, admitted.run_id, "join" if admitted.run else None),
        on_disconnect=_on_disconnect(call, admitted),
    )


async def create_stateless(call: Call[StatelessRunBody, None]) -> Response:
    """POST /runs: leave a run in the queue, on a thread of its own."""
    asked = await _without_thread(call, kept=True)
    admitted = await enqueue(call.engine, call.filters, asked)
    return json_answer(admitted.run, headers=run_headers(admitted.thread_id, admitted.run_id))


async def get(call: Call[None, None]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}."""
    thread_id, run_id = call.thread_id, call.run_id
    async with call.engine.pool.connection() as conn:
        run = await runs.get(conn, call.filters, thread_id, run_id)
    if run is None:
        raise NotFound("Run not found")
    return json_answer(run)


async def join(call: Call[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/join: the final values of a run that somebody started."""
    thread_id, run_id = await _known(call)
    return WaitingAnswer(
        lambda: follow.answer(call.engine, call.filters, thread_id, run_id),
        headers=run_headers(thread_id, run_id, "join"),
        on_disconnect=_canceller(call, thread_id, run_id) if call.query.cancel_on_disconnect else None,
    )


async def join_stream(call: Call[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/stream: the events of a run that somebody started.

    `Last-Event-ID` names the last one that the client has; `-1` or `0` asks for all; without it, those from now on.
    """
    thread_id, run_id = await _known(call)
    return EventStream(
        follow.follow(call.engine, run_id, last_event_id(call)),
        headers=run_headers(thread_id, run_id, "stream"),
        with_ids=True,
        modes=call.query.stream_mode,
        on_disconnect=_canceller(call, thread_id, run_id) if call.query.cancel_on_disconnect else None,
    )


async def cancel(call: Call[None, CancelQuery]) -> Response:
    """POST /threads/{thread_id}/runs/{run_id}/cancel: stop a run; with `wait`, answer when it has stopped."""
    thread_id, run_id = await _known(call)
    target = Target(thread_id=thread_id, run_ids=[run_id])
    reason = call.query.reason or "interrupt requested via POST /threads/{thread_id}/runs/{run_id}/cancel"
    if not await stop(call.engine, call.filters, target, call.query.action, reason):
        raise NotFound("No matching runs to cancel: the run has ended")
    if call.query.wait:
        await follow.ended(call.engine, run_id)
        return raw_json(b"{}", headers=run_headers(thread_id, run_id))
    return Response(status_code=202)


async def delete(call: Call[None, None]) -> Response:
    """DELETE /threads/{thread_id}/runs/{run_id}: forget a run; one that goes on is stopped first."""
    thread_id, run_id = await _known(call)
    target = Target(thread_id=thread_id, run_ids=[run_id])
    await stop(call.engine, call.filters, target, "interrupt", "the run was deleted")
    await follow.ended(call.engine, run_id)
    async with call.engine.pool.connection() as conn:
        await runs.delete(conn, call.filters, thread_id, run_id)
    return no_content()


async def stop(engine: Engine, filters: Filters, target: Target, action: CancelAction, reason: str) -> int:
    """Cancel what `target` names: here at once, elsewhere by a wake-up. How many runs were told."""
    told = await cancels.cancel(engine.pool, filters, target, action, reason)
    for one in told:
        if one.was_running and (live := engine.live.get(one.run_id)):
            live.cancel(action, reason)
    return len(told)


def last_event_id(call: Call[Any, Any]) -> int | None:
    """The position behind which a client wants the events; None: from now on."""
    sent = call.request.headers.get("last-event-id", "").strip()
    if not sent:
        return None
    digits = sent.removeprefix("-").split("-", 1)[0]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or sent.startswith("-"):
        return 0
    return int(digits)


async def _on_thread(call: Call[ThreadRunBody, None], *, kept: bool = False, watched: bool = False) -> Admission:
    body = call.body
    spec = body.spec
    return Admission(
        spec=spec,
        chosen=await call.assistants.choose(call.filters, body.assistant_id),
        thread_id=call.thread_id,
        metadata=body.metadata,
        multitask_strategy=body.multitask_strategy,
        create_thread=body.if_not_exists == "create",
        after_s=body.after_seconds,
        kept=kept,
        watched=watched,
    )


async def _without_thread(
    call: Call[StatelessRunBody, None], *, kept: bool = False, watched: bool = False
) -> Admission:
    body = call.body
    if body.command and body.command.resume is not None:
        raise InvalidRequest("You must provide a thread_id when resuming.")
    return Admission(
        spec=body.spec,
        chosen=await call.assistants.choose(call.filters, body.assistant_id),
        thread_id=None,
        metadata=body.metadata,
        after_s=body.after_seconds,
        temporary=body.on_completion == "delete",
        kept=kept or body.stream_resumable,
        watched=watched,
    )


async def _admit_stateless(call: Call[StatelessRunBody, None], asked: Admission) -> Admitted:
    """In memory alone, unless the run is to be kept, resumed or delayed."""
    if asked.temporary and not asked.kept and asked.after_s == 0:
        return await run_stateless(call.engine, asked)
    return await run_foreground(call.engine, call.filters, asked)


async def _known(call: Call[Any, Any]) -> tuple[UUID, UUID]:
    """The ids of the path, of a run that is there; NotFound otherwise, before any stream begins."""
    thread_id, run_id = call.thread_id, call.run_id
    async with call.engine.pool.connection() as conn:
        if await runs.get(conn, call.filters, thread_id, run_id) is None:
            raise NotFound("Run not found")
    return thread_id, run_id


def _answer(engine: Engine, filters: Filters, admitted: Admitted) -> Callable[[], Awaitable[bytes]]:
    async def answer() -> bytes:
        if admitted.live is None:
            return await follow.answer(engine, filters, admitted.thread_id, admitted.run_id)
        if outcome := await admitted.live.wait():
            return outcome.answer
        raise Unavailable("the server is stopping")

    return answer


def _followed(engine: Engine, admitted: Admitted) -> AsyncGenerator[Followed, None]:
    """A stateless run that has ended already is only in its own ring."""
    return admitted.live.follow(0) if admitted.live else follow.follow(engine, admitted.run_id, 0)


def _on_disconnect(call: Call[Any, Any], admitted: Admitted) -> Callable[[], Awaitable[None]] | None:
    """A lost connection stops the run only where the client said so."""
    if call.body.on_disconnect != "cancel":
        return None
    if admitted.run is None and admitted.live is not None:
        live = admitted.live

        async def cancel_here() -> None:
            live.cancel("interrupt", "the client disconnected")

        return cancel_here
    return _canceller(call, admitted.thread_id, admitted.run_id)


def _canceller(call: Call[Any, Any], thread_id: UUID, run_id: UUID) -> Callable[[], Awaitable[None]]:
    async def cancel_run() -> None:
        target = Target(thread_id=thread_id, run_ids=[run_id])
        await stop(call.engine, call.filters, target, "interrupt", "the client disconnected")

    return cancel_run
