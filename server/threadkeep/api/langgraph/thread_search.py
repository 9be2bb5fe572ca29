"""Thread search: search and count threads, and select the fields to return."""

import re
from dataclasses import replace
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from threadkeep.api.conditions import MAX_IDS, MetadataCondition
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import PageBody, bounded_page, select_fields
from threadkeep.api.responses import json_response
from threadkeep.postgres.statement_timeout import search_connection
from threadkeep.tables import thread_search
from threadkeep.tables.thread_search import Extract, Root, ThreadFilter, ThreadPageRequest

Status = Literal["idle", "busy", "interrupted", "error"]
ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "config",
    "status",
    "values",
    "interrupts",
    "error",
    "title",
]

MAX_EXTRACTED_PATHS = 10
MAX_DEPTH = 20
PATH = re.compile(r"(values|metadata|config|interrupts)((?:\.[^.\[\]]+|\[-?\d{1,6}\])*)")
STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d+)\]")


def _path(text: str) -> str:
    if PATH.fullmatch(text) is None:
        raise PydanticCustomError(
            "path", "must be a path from values, metadata, config or interrupts, such as values.messages[-1].content"
        )
    if len(STEP.findall(text)) > MAX_DEPTH:
        raise PydanticCustomError("path", "must not have more than {limit} steps", {"limit": MAX_DEPTH})
    return text


Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Query = Annotated[str, StringConstraints(max_length=500)]
Path = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_path)]


class CountBody(BaseModel):
    """The body of a count of threads."""

    model_config = ConfigDict(extra="ignore")

    metadata: MetadataCondition | None = None
    values: MetadataCondition | None = None
    status: Status | None = None
    query: Query | None = None
    """Words of the title, or their beginnings."""


class ThreadSearch(PageBody):
    """The body of a search for threads."""

    ids: list[UUID] | None = Field(default=None, max_length=MAX_IDS)
    metadata: MetadataCondition | None = None
    values: MetadataCondition | None = None
    status: Status | None = None
    query: Query | None = None
    """Words of the title, or their beginnings."""
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = "updated_at"
    select: Annotated[list[ThreadField], Field(max_length=100)] | None = None
    extract: dict[Alias, Path] | None = Field(default=None, max_length=MAX_EXTRACTED_PATHS)

    def page_request(self, answer_bytes: int) -> ThreadPageRequest:
        """Return the requested page, of at most `answer_bytes` bytes."""
        return ThreadPageRequest(
            order=(self.sort_by, self.sort_order),
            page=self.page(answer_bytes),
            # Values may be megabytes, so Postgres reads them only for clients that ask for them.
            with_values=not self.select or "values" in self.select,
            extract=[_extract(alias, path) for alias, path in (self.extract or {}).items()],
        )


def _extract(alias: str, path: str) -> Extract:
    """Split a path such as `values.messages[-1].content` into its column and steps."""
    steps = [key or index for key, index in STEP.findall(path)]
    return Extract(alias=alias, root=cast("Root", re.split(r"[.\[]", path, maxsplit=1)[0]), path=steps)


async def search(call: AuthorizedRequest[ThreadSearch, None]) -> Response:
    """POST /threads/search: search threads."""
    body, settings = call.body, call.state.settings
    thread_filter = ThreadFilter(ids=body.ids, metadata=body.metadata, values=body.values, status=body.status)
    conditions = await _titled(call, thread_filter)
    request = body.page_request(settings.answer_bytes)
    page = await thread_search.search(
        call.state.pool, call.filters, conditions, request, timeout_s=settings.search_timeout_s
    )
    fields: list[str] = list(body.select or [])
    if fields and body.extract:
        # `select` cannot name it, and must not remove it.
        fields.append("extracted")
    return await bounded_page(page.items, request.page, lambda thread: select_fields(thread, fields), total=page.total)


async def _titled(call: AuthorizedRequest[Any, None], conditions: ThreadFilter) -> ThreadFilter:
    """Return the conditions. If the body has a `query`, they contain the ids of the threads whose titles match."""
    query: str | None = call.body.query
    if not query or not query.strip():
        return conditions
    state = call.state
    # A statement of its own, because row-level security keeps Postgres from using the index of words.
    ids = await thread_search.find_by_title(
        state.pool, call.filters, query, conditions, timeout_s=state.settings.search_timeout_s
    )
    # No ids match no thread, and None would match all.
    return replace(conditions, ids=ids)


async def count(call: AuthorizedRequest[CountBody, None]) -> Response:
    """POST /threads/count: count threads."""
    thread_filter = ThreadFilter(metadata=call.body.metadata, values=call.body.values, status=call.body.status)
    conditions = await _titled(call, thread_filter)
    async with search_connection(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        return json_response(await thread_search.count(conn, call.filters, conditions))
