"""Thread stream: the events of all runs of a thread, until the client disconnects."""

import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict
from starlette.responses import Response

from threadkeep.api.langgraph.existing_runs import split_parameter
from threadkeep.api.langgraph.threads import require_thread
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.streaming import EventStream, encode_event
from threadkeep.base.problems import ValidationFailed
from threadkeep.threads.follow import ThreadEvent, ThreadMode, ThreadPosition, ThreadStream

CLOCKS_DIFFER_MS: Final = 60_000
"""Milliseconds by which the clock of the process that created a run may be ahead of this process's clock."""
GAP: Final = b": gap, the events from now on follow\r\n\r\n"
EVENT_ID: Final = re.compile(r"(\d{1,15})-(\d{1,9})")

ThreadStreamModes = Annotated[list[ThreadMode] | None, BeforeValidator(split_parameter)]


class ThreadStreamQuery(BaseModel):
    """The query of a thread stream. The SDKs send `stream_mode`, LangGraph's documentation has `stream_modes`."""

    model_config = ConfigDict(extra="ignore")

    stream_mode: ThreadStreamModes = None
    stream_modes: ThreadStreamModes = None


async def stream(call: AuthorizedRequest[None, ThreadStreamQuery]) -> Response:
    """GET /threads/{thread_id}/stream: stream the events of all runs of a thread.

    `Last-Event-ID` replays the events after it.
    """
    thread = await require_thread(call)
    # `run_modes` is the default of the SDKs.
    modes: set[ThreadMode] = {*(call.query.stream_mode or ()), *(call.query.stream_modes or ())} or {"run_modes"}
    last_position = _last_position(call)
    # No event has an id from the future. The client would otherwise get no event until then.
    has_gap = last_position is not None and last_position.millisecond > time.time() * 1000 + CLOCKS_DIFFER_MS
    # The stream begins before the response does. So a client that has the response misses no run that it starts.
    events = await ThreadStream(
        follower=call.state.runs.follower,
        parts=call.state.threads,
        tenant=call.tenant,
        thread_id=thread.thread_id,
        modes=modes,
        resume_from=None if has_gap else last_position,
    ).begin()
    return EventStream(_frames(events, has_gap=has_gap), call, headers={})


async def _frames(events: AsyncGenerator[ThreadEvent], *, has_gap: bool) -> AsyncGenerator[bytes]:
    """Yield the events as SSE. `has_gap`: send a gap first, because no run of this thread had the client's event id."""
    if has_gap:
        yield GAP
    async for event in events:
        yield encode_event(event.name, event.data, event.place.event_id)


def _last_position(call: AuthorizedRequest[None, ThreadStreamQuery]) -> ThreadPosition | None:
    header = call.request.headers.get("last-event-id", "").strip()
    if not header or header == "-1":
        return ThreadPosition(millisecond=0, position=0) if header else None
    match = EVENT_ID.fullmatch(header)
    if match is None:
        raise ValidationFailed("Invalid Last-Event-ID: must be milliseconds, a hyphen and a number")
    return ThreadPosition(millisecond=int(match[1]), position=int(match[2]))
