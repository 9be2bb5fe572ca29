"""Event stream: the events of a thread in the protocol v2, until the client disconnects."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.body import parse_json
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.protocol_v2 import subscription
from threadkeep.api.protocol_v2.follow import ProtocolItem, follow_protocol, record_thread_events
from threadkeep.api.protocol_v2.subscription import Subscription
from threadkeep.api.socket import error_frame
from threadkeep.api.streaming import EventStream, encode_event
from threadkeep.base import json
from threadkeep.base.problems import InvalidRequest, NotFound, ValidationFailed
from threadkeep.runs.event_log import Gap


class EventStreamBody(BaseModel):
    """The events to send."""

    model_config = ConfigDict(extra="ignore")

    channels: Annotated[list[str], Field(min_length=1, max_length=subscription.MAX_CHANNELS)]
    """Names from `values`, `updates`, `messages`, `tools`, `lifecycle`, `input`, `checkpoints`, `tasks`, `custom`, `custom:<name>`."""
    namespaces: list[list[str]] | None = None
    """Prefixes of namespaces. A segment without `:` matches any task of that node."""
    depth: int | None = Field(default=None, ge=0)
    """How many levels below those namespaces."""
    since: int | None = Field(default=None, ge=0)
    """Send the events after this `seq`. Without it, the events of recent runs come first."""


async def stream(call: AuthorizedRequest[None, None]) -> Response:
    """POST /threads/{thread_id}/stream/events: follow a thread in the protocol v2.

    `since` replays the events after it.
    """
    # Read here, because the errors of the protocol have another form and status than those of a model.
    params = read_object(await call.read_body())
    requested, since = subscription.parse_subscription(params), subscription.parse_since(params)
    # Before the response begins, so that an unknown thread is answered with 404.
    recent = await record_thread_events(call.state.runs.follower, call.filters, call.thread_id)
    events = follow_protocol(
        call.state.runs.follower, call.filters, call.thread_id, recent=recent, since=since, channels=requested.families
    )
    return EventStream(_frames(events, requested), call, headers={}, render_error=error_frame)


async def _frames(events: AsyncGenerator[ProtocolItem], requested: Subscription) -> AsyncGenerator[bytes]:
    with suppress(NotFound):  # the thread was deleted
        async with aclosing(events) as items:
            async for item in items:
                if isinstance(item, Gap):
                    yield encode_event("error", gap_frame(item))
                elif requested.wants(item):
                    yield encode_event(item.method, item.encode(), str(item.seq))


def gap_frame(gap: Gap) -> bytes:
    """Encode an error that a run's earlier events are no longer stored. The stream goes on after it."""
    message = f"the events of the run up to its entry {gap.position} are no longer kept"
    return json.dumps({"type": "error", "id": None, "error": "unknown_error", "message": message})


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raise InvalidRequest, the protocol's error, if it is not one."""
    try:
        value = parse_json(raw)
    except ValidationFailed as problem:
        raise InvalidRequest(problem.detail) from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return cast("dict[str, Any]", value)
