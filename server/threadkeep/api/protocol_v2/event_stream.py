"""Event stream: a thread's events in the protocol v2, until the client leaves."""

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
    """What events are wanted."""

    model_config = ConfigDict(extra="ignore")

    channels: Annotated[list[str], Field(min_length=1, max_length=subscription.MAX_CHANNELS)]
    """Of `values`, `updates`, `messages`, `tools`, `lifecycle`, `input`, `checkpoints`, `tasks`, `custom`, `custom:<name>`."""
    namespaces: list[list[str]] | None = None
    """Beginnings of namespaces; a segment without `:` stands for any task of that node."""
    depth: int | None = Field(default=None, ge=0)
    """How far below those."""
    since: int | None = Field(default=None, ge=0)
    """The `seq` behind which events are wanted; without it, those of recent runs come first."""


async def stream(call: AuthorizedRequest[None, None]) -> Response:
    """POST /threads/{thread_id}/stream/events: follow a thread in the protocol v2; `since` replays what came after it."""
    params = read_object(await call.read_body())
    wanted, since = subscription.parse_subscription(params), subscription.parse_since(params)
    recent = await record_thread_events(call.state.runs.follower, call.filters, call.thread_id)
    told = follow_protocol(
        call.state.runs.follower, call.filters, call.thread_id, recent=recent, since=since, channels=wanted.families
    )
    return EventStream(_frames(told, wanted), call, headers={}, render_error=error_frame)


async def _frames(told: AsyncGenerator[ProtocolItem], wanted: Subscription) -> AsyncGenerator[bytes]:
    with suppress(NotFound):  # the thread was deleted
        async with aclosing(told) as items:
            async for item in items:
                if isinstance(item, Gap):
                    yield encode_event("error", gap_frame(item))
                elif wanted.wants(item):
                    yield encode_event(item.method, item.encode(), str(item.seq))


def gap_frame(gap: Gap) -> bytes:
    """Tells that a run's earlier events are no longer there; the stream goes on."""
    message = f"the events of the run up to its entry {gap.position} are no longer kept"
    return json.dumps({"type": "error", "id": None, "error": "unknown_error", "message": message})


def read_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; InvalidRequest where it is none, as the protocol wants it."""
    try:
        found = parse_json(raw)
    except ValidationFailed as problem:
        raise InvalidRequest(problem.detail) from None
    if not isinstance(found, dict):
        raise InvalidRequest("a JSON object is wanted")
    return cast("dict[str, Any]", found)
