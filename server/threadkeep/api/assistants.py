"""Assistants: graphs with a configuration."""

from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from threadkeep.api.answers import page
from threadkeep.api.call import Call
from threadkeep.api.paging import PageBody, selected
from threadkeep.db import assistants
from threadkeep.db.assistants import Search

AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "created_at",
    "updated_at",
    "metadata",
    "version",
]


class SearchBody(PageBody):
    """The body of a search for assistants."""

    graph_id: str | None = None
    name: str | None = Field(default=None, max_length=1000)
    metadata: dict[str, Any] | None = None
    sort_by: Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"] = "created_at"
    select: list[AssistantField] | None = None


async def search(call: Call[SearchBody, None]) -> Response:
    """POST /assistants/search."""
    body = call.body
    wanted = Search(graph_id=body.graph_id, name=body.name, metadata=body.metadata)
    order = (body.sort_by, body.sort_order)
    async with call.engine.pool.connection() as conn:
        found = await assistants.search(conn, call.filters, wanted, order=order, limit=body.limit, offset=body.offset)
        total = await assistants.count(conn, call.filters, wanted)
    return page([selected(one, list(body.select or [])) for one in found], total, body.offset)
