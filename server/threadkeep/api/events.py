"""Events: a stream of the changes of a caller's threads and runs."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.responses import Response

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.streaming import EventStream, encode_event
from threadkeep.base import json
from threadkeep.tables.changes import ChangedRun, ChangedThread
from threadkeep.threads.change_stream import ChangeBatch, DeletedThread, Gap, StreamItem

NAMES: Final[Mapping[type[StreamItem], str]] = {
    ChangedThread: "thread",
    ChangedRun: "run",
    DeletedThread: "thread_deleted",
    Gap: "gap",
}
"""The name of the SSE event of each item."""


async def stream(call: AuthorizedRequest[None, None]) -> Response:
    """GET /events: stream the changes of your threads and runs, in any process, until you disconnect.

    `thread` and `run` have the row's ids and its present status, `thread_deleted` has an id. Several changes of a row
    within a moment are one event. After `gap`, read your lists again, because changes before it are missing. It is the
    first event, unless this process knows all changes after the event that your `Last-Event-ID` names.
    """
    last_event_id = call.request.headers.get("last-event-id", "").strip() or None
    return EventStream(_frames(call.state.changes.follow(call.filters, last_event_id)), call, headers={})


async def _frames(batches: AsyncGenerator[ChangeBatch]) -> AsyncGenerator[bytes]:
    """Yield the events as SSE. The last event of a batch has the id, so that a client does not resume within a batch."""
    async with aclosing(batches) as source:
        async for batch in source:
            *others, last = batch.items
            frames = [encode_event(NAMES[type(item)], json.dumps(item)) for item in others]
            yield b"".join([*frames, encode_event(NAMES[type(last)], json.dumps(last), batch.event_id)])
