"""Existing runs: read, join, cancel and delete runs that were started earlier."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.langgraph.threads import require_thread
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


def split_parameter(value: object) -> object:
    """Split a query parameter into a list: a repeated key, words with commas, or a JSON list (JS SDK 2.0). Empty is None."""
    if isinstance(value, str):
        return [word.strip(' []"') for word in value.split(",") if word.strip(' []"')] or None
    return value


class JoinQuery(BaseModel):
    """The query of a request that joins a run."""

    model_config = ConfigDict(extra="ignore")

    stream_mode: Annotated[list[str] | None, BeforeValidator(split_parameter)] = None
    cancel_on_disconnect: bool = False


class CancelQuery(BaseModel):
    """The query of a cancellation."""

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
    """The query of a list of runs."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    status: str | None = None
    select: Annotated[list[RunField] | None, BeforeValidator(split_parameter)] = None


class CancelRunsQuery(BaseModel):
    """The query of a cancellation of several runs."""

    model_config = ConfigDict(extra="ignore")

    action: CancelAction = "interrupt"


class CancelRunsBody(BaseModel):
    """The runs to cancel: runs of one thread by id, or all runs with a status."""

    model_config = ConfigDict(extra="ignore")

    thread_id: UUID | None = None
    run_ids: list[UUID] | None = Field(default=None, max_length=1000)
    status: Literal["pending", "running", "all"] | None = None

    @property
    def selection(self) -> RunSelection:
        """The selected runs. Raise InvalidRequest unless exactly one of the two ways is used."""
        by_ids = self.thread_id is not None and bool(self.run_ids)
        # Both or neither.
        if by_ids == (self.status is not None):
            raise InvalidRequest("give either status, or thread_id and run_ids")
        if self.status is None:
            return RunSelection(thread_id=self.thread_id, run_ids=self.run_ids)
        return RunSelection(statuses=ACTIVE if self.status == "all" else (self.status,))


async def list_runs(call: AuthorizedRequest[None, ListQuery]) -> Response:
    """GET /threads/{thread_id}/runs: list a thread's runs, newest first."""
    # Without this query, the list of an unknown thread would be empty.
    await require_thread(call)
    query = call.query
    page = PageRequest(limit=query.limit, offset=query.offset, answer_bytes=call.state.settings.answer_bytes)
    async with call.state.pool.connection(call.filters) as conn:
        rows = await runs.search(conn, call.filters, call.thread_id, status=query.status, page=page)
    return await bounded_page(rows, page, lambda run: select_fields(run, list(query.select or [])))


async def cancel_runs(call: AuthorizedRequest[CancelRunsBody, CancelRunsQuery]) -> Response:
    """POST /runs/cancel: cancel several runs."""
    action = call.query.action
    reason = f"{action} requested via POST /runs/cancel"
    if not await call.state.runs.cancel(call.caller, call.body.selection, action, reason):
        raise NotFound("No runs found to cancel.")
    return no_content_response()


async def get(call: AuthorizedRequest[None, None]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}: read a run."""
    return json_response(await call.state.runs.get(call.caller, call.thread_id, call.run_id))


async def join(call: AuthorizedRequest[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/join: wait for the final values of an existing run."""
    handle = await _followed(call)
    headers = run_headers(handle.thread_id, handle.run_id, "join")
    return RunResult(handle, call.caller, headers=headers, cancels=call.query.cancel_on_disconnect)


async def join_stream(call: AuthorizedRequest[None, JoinQuery]) -> Response:
    """GET /threads/{thread_id}/runs/{run_id}/stream: stream the events of an existing run.

    `Last-Event-ID` is the id of the last event that you have. `-1` or `0` asks for all events. Without the header, the
    stream starts with the next event.
    """
    handle = await _followed(call)
    # Only this process can tell how far the client is behind, and only of a run that it executes.
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
    """POST /threads/{thread_id}/runs/{run_id}/cancel: cancel a run. With `wait`, answer after it has stopped."""
    query = call.query
    reason = query.reason or (f"{query.action} requested via POST /threads/{{thread_id}}/runs/{{run_id}}/cancel")
    handle = await call.state.runs.cancel_one(
        call.caller, call.thread_id, call.run_id, action=query.action, reason=reason
    )
    if query.wait:
        await handle.ended()
        return encoded_json_response(b"{}", headers=run_headers(handle.thread_id, handle.run_id, "join"))
    return Response(status_code=202)


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /threads/{thread_id}/runs/{run_id}: delete a run. An active run is cancelled first."""
    await call.state.runs.delete(call.caller, call.thread_id, call.run_id)
    return no_content_response()


def parse_last_event_id(call: AuthorizedRequest[Any, Any]) -> int | None:
    """Return the position after which to send events, from `Last-Event-ID`. None: only new events."""
    header = call.request.headers.get("last-event-id", "").strip()
    if not header:
        return None
    digits = header.removeprefix("-").split("-", 1)[0]
    # An id that is not ours replays everything: events twice are better than events lost.
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or header.startswith("-"):
        return 0
    return int(digits)


async def _followed(call: AuthorizedRequest[None, JoinQuery]) -> RunHandle:
    """Return a handle of the run of the path. Raise NotFound before a response begins."""
    cancels = call.query.cancel_on_disconnect
    return await call.state.runs.follow(call.caller, call.thread_id, call.run_id, may_cancel=cancels)
