"""Events: one stream that tells a caller which of its threads and runs have changed."""

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
    """GET /events: stream which threads and runs have changed, in any process, until the client disconnects.

    `thread` and `run` have the row's ids and its present status, `thread_deleted` has an id. Several changes of a
    row within a moment are one event. `gap` means that changes before it are not told, so read again what you show. It is
    the first event, unless `Last-Event-ID` names an event after which this process knows all changes.
    """
    last_event_id = call.request.headers.get("last-event-id", "").strip() or None
    return EventStream(_frames(call.state.changes.follow(call.filters, last_event_id)), call, headers={})


async def _frames(batches: AsyncGenerator[ChangeBatch]) -> AsyncGenerator[bytes]:
    """Yield the events as SSE. The last event of a batch has the id, so that a client does not go on within a batch."""
    async with aclosing(batches) as source:
        async for batch in source:
            *others, last = batch.items
            frames = [encode_event(NAMES[type(item)], json.dumps(item)) for item in others]
            yield b"".join([*frames, encode_event(NAMES[type(last)], json.dumps(last), batch.event_id)])
