"""Joins: a run that somebody started: read it, follow it, stop it, forget it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.langgraph.threads import known as known_thread
from threadkeep.api.operation import Call
from threadkeep.api.paging import MAX_OFFSET, bounded_page, selected
from threadkeep.api.responses import json_answer, no_content, raw_json, run_headers
from threadkeep.api.streaming import EventStream, Reading, run_frames
from threadkeep.api.waiting import WaitingAnswer
from threadkeep.base.problems import InvalidRequest, NotFound
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs import follow
from threadkeep.runs.engine import Engine
from threadkeep.tables import cancels, runs
from threadkeep.tables.cancels import ACTIVE, Target
from threadkeep.tables.runs import CancelAction


def split_modes(value: object) -> object:
    """A repeated key, one word, or (the JS SDK 2.0) a JSON list; empty is no filter."""
    if isinstance(value, str):
        return [word.strip(' []"') for word in value.split(",") if word.strip(' []"')] or None
    return value


class JoinQuery(BaseModel):
    """The query of a join."""

    model_config = ConfigDict(extra="ignore")

    stream_mode: Annotated[list[str] | None, BeforeValidator(split_modes)] = None
    cancel_on_disconnect: bool = False


class CancelQuery(BaseModel):
    """The query of a cancel."""

    model_config = ConfigDict(extra="ignore")

    wait: bool = False
    action: CancelAction = "interrupt"
    reason: str | None = None


RunField = Literal[
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
]


class ListQuery(BaseModel):
    """The query of a listing of runs."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    status: str | None = None
    select: Annotated[list[RunField] | None, BeforeValidator(split_modes)] = None


class CancelManyQuery(BaseModel):
    """The query of a cancel of several runs."""

    model_config = ConfigDict(extra="ignore")

    action: CancelAction = "interrupt"


class CancelManyBody(BaseModel):
    """Which runs: those of a thread by id, or all of a status."""

    model_config = ConfigDict(extra="ignore")

    thread_id: UUID | None = None
    run_ids: list[UUID] | None = Field(default=None, max_length=1000)
    status: Literal["pending", "running", "all"] | None = None

    @property
    def target(self) -> Target:
        """InvalidRequest where it names no runs, or names them in two ways."""
        by_ids = self.thread_id is not None and bool(self.run_ids)
        if by_ids == (self.status is not None):
            raise InvalidRequest("give either status, or thread_id and run_ids")
        if self.status is None:
            return Target(thread_id=self.thread_id, run_ids=self.run_ids)
        return Target(statuses=ACTIVE if self.status == "all" else (self.status,))


async def search(call: Call[None, ListQuery]) -> Response:
    """GET /threads/{thread_id}/runs: list a thread's runs, the newest first."""
    await known_thread(call)
    asked = call.query
    page = PageRequest(limit=asked.limit, offset=asked.offset, answer_bytes=call.engine.settings.answer_bytes)
    async with call.engine.pool.connection(call.filters) as conn:
        found = await runs.search(conn, call.filters, call.thread_id, status=asked.status, page=page)
    return await bounded_page(found, page, lambda run: selected(run, list(asked.select or [])))


async def cancel_many(call: Call[CancelManyBody, CancelManyQuery]) -> Response:
    """POST /runs/cancel: stop several runs."""
    reason = f"{call.query.action} requested via POST /runs/cancel"
    if not await stop(call.engine, call.filters, call.body.target, call.query.action, reason):
        raise NotFound("No runs found to cancel.")
    return no_content()


async def get(call: Call[None, None]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}: read a run."""
    thread_id, run_id = call.thread_id, call.run_id
    async with call.engine.pool.connection(call.filters) as conn:
        run = await runs.get(conn, call.filters, thread_id, run_id)
    if run is None:
        raise NotFound("Run not found")
    return json_answer(run)


async def join(call: Call[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/join: wait for the final values of a run that somebody started."""
    thread_id, run_id = await _known(call)
    return WaitingAnswer(
        lambda: follow.answer(call.engine, call.filters, thread_id, run_id),
        headers=run_headers(thread_id, run_id, "join"),
        on_disconnect=canceller(call, thread_id, run_id) if call.query.cancel_on_disconnect else None,
    )


async def join_stream(call: Call[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/stream: follow the events of a run that somebody started.

    `Last-Event-ID` names the last one that the client has; `-1` or `0` asks for all; without it, those from now on.
    """
    thread_id, run_id = await _known(call)
    reading = Reading(call.engine, run_id)
    followed = follow.follow(call.engine, call.filters, run_id, last_event_id(call))
    return EventStream(
        run_frames(followed, with_ids=True, modes=call.query.stream_mode, reading=reading),
        headers=run_headers(thread_id, run_id, "stream"),
        on_disconnect=canceller(call, thread_id, run_id) if call.query.cancel_on_disconnect else None,
        reading=reading,
    )


async def cancel(call: Call[None, CancelQuery]) -> Response:
    """POST /threads/{thread_id}/runs/{run_id}/cancel: stop a run; with `wait`, answer when it has stopped."""
    thread_id, run_id = await _known(call)
    target = Target(thread_id=thread_id, run_ids=[run_id])
    told = f"{call.query.action} requested via POST /threads/{{thread_id}}/runs/{{run_id}}/cancel"
    reason = call.query.reason or told
    if not await stop(call.engine, call.filters, target, call.query.action, reason):
        raise NotFound("No matching runs to cancel: the run has ended")
    if call.query.wait:
        await follow.ended(call.engine, call.filters, run_id)
        return raw_json(b"{}", headers=run_headers(thread_id, run_id, "join"))
    return Response(status_code=202)


async def delete(call: Call[None, None]) -> Response:
    """DELETE /threads/{thread_id}/runs/{run_id}: forget a run; one that goes on is stopped first."""
    thread_id, run_id = await _known(call)
    target = Target(thread_id=thread_id, run_ids=[run_id])
    await stop(call.engine, call.filters, target, "interrupt", "the run was deleted")
    await follow.ended(call.engine, call.filters, run_id)
    async with call.engine.pool.connection(call.filters) as conn:
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


async def _known(call: Call[Any, Any]) -> tuple[UUID, UUID]:
    """The ids of the path, of a run that is there; NotFound otherwise, before any stream begins."""
    thread_id, run_id = call.thread_id, call.run_id
    async with call.engine.pool.connection(call.filters) as conn:
        if await runs.get(conn, call.filters, thread_id, run_id) is None:
            raise NotFound("Run not found")
    return thread_id, run_id


def canceller(call: Call[Any, Any], thread_id: UUID, run_id: UUID) -> Callable[[], Awaitable[None]]:
    async def cancel_run() -> None:
        target = Target(thread_id=thread_id, run_ids=[run_id])
        await stop(call.engine, call.filters, target, "interrupt", "the client disconnected")

    return cancel_run
