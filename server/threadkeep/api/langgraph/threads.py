"""Threads: create, read, update, copy, delete and prune threads, and read their size. For state see `thread_state`."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api import idempotency
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import json_pieces, json_response, no_content_response
from threadkeep.base import ids, json
from threadkeep.base.answer_budget import AnswerBudget
from threadkeep.base.problems import Conflict, NotFound
from threadkeep.runs.request import UnusedConfigBody
from threadkeep.tables import thread_checkpoints, threads
from threadkeep.tables.threads import Change, NewThread, Thread, Ttl
from threadkeep.threads import retention, updates
from threadkeep.threads.updates import Superstep

MAX_TTL_MINUTES = 10 * 365 * 24 * 60
"""Ten years."""


class TtlBody(BaseModel):
    """When a thread expires: `ttl` minutes after its last use."""

    model_config = ConfigDict(extra="ignore")

    ttl: float = Field(gt=0, le=MAX_TTL_MINUTES)
    strategy: Literal["delete", "keep_latest"] = "delete"

    @property
    def to_ttl(self) -> Ttl:
        return Ttl(strategy=self.strategy, minutes=self.ttl)


def _ttl(value: object) -> object:
    """Accept a number of minutes in place of the object."""
    return {"ttl": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


class ThreadBody(UnusedConfigBody):
    """The body of a request that creates a thread."""

    model_config = ConfigDict(extra="ignore")

    thread_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: Annotated[TtlBody | None, BeforeValidator(_ttl, json_schema_input_type=TtlBody | float | None)] = None
    supersteps: list[Superstep] = Field(default_factory=list[Superstep])


class ThreadPatch(UnusedConfigBody):
    """The body of a request that updates a thread."""

    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Any] = Field(default_factory=dict)
    ttl: Annotated[TtlBody | None, BeforeValidator(_ttl, json_schema_input_type=TtlBody | float | None)] = None


class ThreadQuery(BaseModel):
    """The query of a thread. `include=ttl` adds the time at which it expires."""

    model_config = ConfigDict(extra="ignore")

    include: str | list[str] = ""

    @property
    def includes_ttl(self) -> bool:
        includes = [self.include] if isinstance(self.include, str) else self.include
        return any("ttl" in names.split(",") for names in includes)


class PruneBody(BaseModel):
    """The body of a request that prunes threads."""

    model_config = ConfigDict(extra="ignore")

    thread_ids: list[UUID] = Field(max_length=1000)
    strategy: Literal["delete", "keep_latest"] = "delete"


async def create(call: AuthorizedRequest[ThreadBody, None]) -> Response:
    """POST /threads: create a thread. `supersteps` set its first state."""
    body = call.body
    json.check_bytes(call.state.settings.metadata_bytes, metadata=body.metadata)
    call.state.quotas.refuse_thread(call.caller.identity)
    new = NewThread(
        thread_id=body.thread_id or ids.uuid7(),
        metadata=call.filters.with_owner(body.metadata),
        ttl=body.ttl.to_ttl if body.ttl else call.state.runs.thread_ttl,
    )
    thread = await idempotency.create_thread_once(call, new, body.supersteps)
    if thread is None and body.if_exists == "do_nothing":
        # The thread that exists may belong to another principal, so reading it needs a permission of its own.
        readable = await call.authorize("threads.read", {"thread_id": new.thread_id, "metadata": {}})
        async with call.state.pool.connection(readable) as conn:
            thread = await threads.get(conn, readable, new.thread_id)
    if thread is None:
        raise Conflict(f"Thread with ID {new.thread_id} already exists")
    return json_response(thread)


async def get(call: AuthorizedRequest[None, ThreadQuery]) -> Response:
    """GET /threads/{thread_id}: read a thread."""
    thread_id, budget = call.thread_id, AnswerBudget(call.state.settings.answer_bytes)
    async with call.state.pool.connection(call.filters) as conn:
        sized_thread = await threads.get_bounded(conn, call.filters, thread_id, budget.limit)
        ttl = await threads.get_ttl(conn, call.filters, thread_id) if call.query.includes_ttl else None
    if sized_thread is None:
        raise _missing(thread_id)
    thread, values_bytes = sized_thread
    # Postgres has left out values above the limit, and returned their size.
    budget.take_all(values_bytes, "the thread")
    fields: dict[str, object] = {name: getattr(thread, name) for name in Thread.__dataclass_fields__}
    if call.query.includes_ttl:
        fields["ttl"] = ttl and _ttl_fields(*ttl)
    return json_pieces([await json.dumps_apart(fields, size=values_bytes)])


def _ttl_fields(ttl: Ttl, expires_at: object) -> dict[str, object]:
    return {"strategy": ttl.strategy, "ttl_minutes": ttl.minutes, "expires_at": expires_at}


async def update(call: AuthorizedRequest[ThreadPatch, None]) -> Response:
    """PATCH /threads/{thread_id}: update a thread. Your metadata is merged with its metadata. The owner stays the same."""
    body, limit = call.body, call.state.settings.metadata_bytes
    json.check_bytes(limit, metadata=body.metadata)
    change = Change(metadata=body.metadata, ttl=body.ttl.to_ttl if body.ttl else None, metadata_bytes=limit)
    async with call.state.pool.connection(call.filters) as conn:
        thread = await threads.update(conn, call.filters, call.thread_id, change)
        # The update cannot tell its two reasons apart. Only a refused request pays for the second query.
        if thread is None and await threads.get(conn, call.filters, call.thread_id) is not None:
            raise json.too_large("metadata", limit)
    if thread is None:
        raise NotFound("Not Found")
    return (
        # The SDKs send this preference (RFC 7240) to save the answer.
        no_content_response() if "return=minimal" in call.request.headers.get("prefer", "") else json_response(thread)
    )


async def delete(call: AuthorizedRequest[None, None]) -> Response:
    """DELETE /threads/{thread_id}: delete a thread with its runs, their events and its checkpoints."""
    if not await retention.delete(call.state.threads, call.filters, [call.thread_id]):
        raise NotFound(f"Thread with ID {call.thread_id} not found")
    return no_content_response()


async def copy(call: AuthorizedRequest[None, None]) -> Response:
    """POST /threads/{thread_id}/copy: create a thread with the same checkpoints. Runs are not copied."""
    call.state.quotas.refuse_thread(call.caller.identity)
    # A handler writes the owner of the copy into this object.
    auth_value: dict[str, Any] = {"metadata": {}}
    creatable = await call.authorize("threads.create", auth_value)
    owner_metadata = {**auth_value["metadata"], **creatable.metadata_filter}
    thread = await updates.copy_thread(call.state.threads, call.tenant, call.thread_id, owner_metadata)
    call.state.quotas.count_thread(call.caller.identity)
    return json_response(thread)


async def prune(call: AuthorizedRequest[PruneBody, None]) -> Response:
    """POST /threads/prune: delete threads, or with `keep_latest` all but their newest checkpoints.

    `pruned_count` is the number of threads.
    """
    if call.body.strategy == "keep_latest":
        pruned = await retention.prune(call.state.threads, call.filters, call.body.thread_ids)
    else:
        pruned = len(await retention.delete(call.state.threads, call.filters, call.body.thread_ids))
    return json_response({"pruned_count": pruned})


async def storage(call: AuthorizedRequest[None, None]) -> Response:
    """GET /threads/{thread_id}/storage: read the size of a thread's checkpoints in bytes, by table and channel."""
    async with call.state.pool.connection(call.filters) as conn:
        size = await thread_checkpoints.storage_size(conn, call.filters, call.thread_id)
    if size is None:
        raise NotFound(f"Thread with ID {call.thread_id} not found")
    return json_response(size)


async def require_thread(call: AuthorizedRequest[Any, Any]) -> Thread:
    """Return the thread of the path, without its `values`. Raise NotFound if the caller has no such thread."""
    thread_id = call.thread_id
    async with call.state.pool.connection(call.filters) as conn:
        thread = await threads.get_without_values(conn, call.filters, thread_id)
    if thread is None:
        raise _missing(thread_id)
    return thread


def _missing(thread_id: UUID) -> NotFound:
    return NotFound(f"Thread with ID {thread_id} not found")
