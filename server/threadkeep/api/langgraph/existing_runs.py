"""Existing runs: a run that somebody started: read it, follow it, stop it, delete it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.langgraph.threads import require_thread as known_thread
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import MAX_OFFSET, bounded_page, select_fields
from threadkeep.api.responses import RunResult, encoded_json_response, json_response, no_content_response, run_headers
from threadkeep.api.streaming import EventStream, StreamReader, run_frames
from threadkeep.base.problems import InvalidRequest, NotFound
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.runs.service import RunHandle
from threadkeep.tables import runs
from threadkeep.tables.cancels import ACTIVE, RunSelection
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


class CancelRunsQuery(BaseModel):
    """The query of a cancel of several runs."""

    model_config = ConfigDict(extra="ignore")

    action: CancelAction = "interrupt"


class CancelRunsBody(BaseModel):
    """Which runs: those of a thread by id, or all of a status."""

    model_config = ConfigDict(extra="ignore")

    thread_id: UUID | None = None
    run_ids: list[UUID] | None = Field(default=None, max_length=1000)
    status: Literal["pending", "running", "all"] | None = None

    @property
    def selection(self) -> RunSelection:
        """InvalidRequest where it names no runs, or names them in two ways."""
        by_ids = self.thread_id is not None and bool(self.run_ids)
        if by_ids == (self.status is not None):
            raise InvalidRequest("give either status, or thread_id and run_ids")
        if self.status is None:
            return RunSelection(thread_id=self.thread_id, run_ids=self.run_ids)
        return RunSelection(statuses=ACTIVE if self.status == "all" else (self.status,))


async def list_runs(call: AuthorizedRequest[None, ListQuery]) -> Response:
    """GET /threads/{thread_id}/runs: list a thread's runs, the newest first."""
    await known_thread(call)
    asked = call.query
    page = PageRequest(limit=asked.limit, offset=asked.offset, answer_bytes=call.state.settings.answer_bytes)
    async with call.state.pool.connection(call.filters) as conn:
        found = await runs.search(conn, call.filters, call.thread_id, status=asked.status, page=page)
    return await bounded_page(found, page, lambda run: select_fields(run, list(asked.select or [])))


async def cancel_runs(call: AuthorizedRequest[CancelRunsBody, CancelRunsQuery]) -> Response:
    """POST /runs/cancel: stop several runs."""
    action = call.query.action
    reason = f"{action} requested via POST /runs/cancel"
    if not await call.state.runs.cancel(call.caller, call.body.selection, action, reason):
        raise NotFound("No runs found to cancel.")
    return no_content_response()


async def get(call: AuthorizedRequest[None, None]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}: read a run."""
    return json_response(await call.state.runs.get(call.caller, call.thread_id, call.run_id))


async def join(call: AuthorizedRequest[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/join: wait for the final values of a run that somebody started."""
    handle = await _followed(call)
    headers = run_headers(handle.thread_id, handle.run_id, "join")
    return RunResult(handle, call.caller, headers=headers, cancels=call.query.cancel_on_disconnect)


async def join_stream(call: AuthorizedRequest[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/stream: follow the events of a run that somebody started.

    `Last-Event-ID` names the last one that the client has; `-1` or `0` asks for all; without it, those from now on.
    """
    handle = await _followed(call)
    reading = StreamReader(handle.execution, call.state.settings)
    return EventStream(
        run_frames(
            handle.events(parse_last_event_id(call)), with_ids=True, modes=call.query.stream_mode, reading=reading
        ),
        call,
        headers=run_headers(handle.thread_id, handle.run_id, "stream"),
        cancels=handle if call.query.cancel_on_disconnect else None,
        reading=reading,
    )


async def cancel(call: AuthorizedRequest[None, CancelQuery]) -> Response:
    """POST /threads/{thread_id}/runs/{run_id}/cancel: stop a run; with `wait`, answer when it has stopped."""
    asked = call.query
    reason = asked.reason or (f"{asked.action} requested via POST /threads/{{thread_id}}/runs/{{run_id}}/cancel")
    handle = await call.state.runs.cancel_one(
        call.caller, call.thread_id, call.run_id, action=asked.action, reason=reason
    )
    if asked.wait:
        await handle.ended()
        return encoded_json_response(b"{}", headers=run_headers(handle.thread_id, handle.run_id, "join"))
    return Response(status_code=202)


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /threads/{thread_id}/runs/{run_id}: forget a run; one that goes on is stopped first."""
    await call.state.runs.delete(call.caller, call.thread_id, call.run_id)
    return no_content_response()


def parse_last_event_id(call: AuthorizedRequest[Any, Any]) -> int | None:
    """The position behind which a client wants the events; None: from now on."""
    sent = call.request.headers.get("last-event-id", "").strip()
    if not sent:
        return None
    digits = sent.removeprefix("-").split("-", 1)[0]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or sent.startswith("-"):
        return 0
    return int(digits)


async def _followed(call: AuthorizedRequest[None, JoinQuery]) -> RunHandle:
    """The run of the path. NotFound before any stream begins."""
    cancels = call.query.cancel_on_disconnect
    return await call.state.runs.follow(call.caller, call.thread_id, call.run_id, may_cancel=cancels)
