"""Threads: make one, read it, its state and its history, delete it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep import ids
from threadkeep.api.answers import json_answer, no_content
from threadkeep.api.call import Call
from threadkeep.db import threads
from threadkeep.db.threads import Thread, Ttl
from threadkeep.engine import history
from threadkeep.problems import Conflict, NotFound


class TtlBody(BaseModel):
    """When a thread goes: `ttl` minutes after it was last touched."""

    model_config = ConfigDict(extra="ignore")

    ttl: float = Field(gt=0, le=10 * 365 * 24 * 60)
    strategy: Literal["delete", "keep_latest"] = "delete"

    @property
    def row(self) -> Ttl:
        return Ttl(strategy=self.strategy, minutes=self.ttl)


def _ttl(value: object) -> object:
    """The SDK sends minutes alone, too."""
    return {"ttl": value} if isinstance(value, (int, float)) else value


class ThreadBody(BaseModel):
    """The body of a thread's creation."""

    model_config = ConfigDict(extra="ignore")

    thread_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: Annotated[TtlBody | None, BeforeValidator(_ttl)] = None


class StateQuery(BaseModel):
    """The query of a state."""

    model_config = ConfigDict(extra="ignore")

    subgraphs: bool = False


class HistoryQuery(BaseModel):
    """The query of a history."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=1, ge=1, le=1000)
    before: str | None = None


class HistoryBody(BaseModel):
    """The body of a history."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=1, ge=1, le=1000)
    before: Any = None
    metadata: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None


async def create(call: Call[ThreadBody, None]) -> Response:
    """POST /threads."""
    body = call.body
    thread_id = body.thread_id or ids.uuid7()
    metadata = {**body.metadata, **call.filters.match}
    async with call.engine.pool.connection() as conn:
        thread = await threads.create(conn, thread_id, metadata, body.ttl.row if body.ttl else None)
        if thread is None and body.if_exists == "do_nothing":
            thread = await threads.get(conn, call.filters, thread_id)
    if thread is None:
        raise Conflict(f"Thread with ID {thread_id} already exists")
    return json_answer(thread)


async def get(call: Call[None, None]) -> Response:
    """GET /threads/{thread_id}."""
    return json_answer(await known(call))


async def delete(call: Call[None, None]) -> Response:
    """DELETE /threads/{thread_id}: its runs, their events and its checkpoints go with it."""
    thread_id = call.thread_id
    async with call.engine.pool.connection() as conn:
        gone = await threads.delete(conn, call.filters, [thread_id])
    if not gone:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return no_content()


async def state(call: Call[None, StateQuery]) -> Response:
    """GET /threads/{thread_id}/state: at the newest checkpoint."""
    thread = await known(call)
    return json_answer(await history.state(call.engine, thread, subgraphs=call.query.subgraphs))


async def list_history(call: Call[None, HistoryQuery]) -> Response:
    """GET /threads/{thread_id}/history: states, the newest first."""
    thread = await known(call)
    wanted = history.Wanted(limit=call.query.limit, before=history.checkpoint_id(call.query.before))
    return json_answer(await history.states(call.engine, thread, wanted))


async def search_history(call: Call[HistoryBody, None]) -> Response:
    """POST /threads/{thread_id}/history: the same, with more to ask for."""
    thread = await known(call)
    body = call.body
    wanted = history.Wanted(
        limit=body.limit,
        before=history.checkpoint_id(body.before),
        metadata=body.metadata,
        checkpoint_ns=(body.checkpoint or {}).get("checkpoint_ns", ""),
        checkpoint_id=(body.checkpoint or {}).get("checkpoint_id"),
    )
    return json_answer(await history.states(call.engine, thread, wanted))


async def known(call: Call[Any, Any]) -> Thread:
    """The thread of the path; NotFound where there is none of the caller's."""
    thread_id = call.thread_id
    async with call.engine.pool.connection() as conn:
        thread = await threads.get(conn, call.filters, thread_id)
    if thread is None:
        raise NotFound(f"Thread with ID {thread_id} not found")
    return thread
