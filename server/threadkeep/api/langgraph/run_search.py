"""Run search: the runs of all the caller's threads."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.conditions import MetadataCondition
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.paging import MAX_OFFSET, bounded_page, select_fields
from threadkeep.postgres.bounded_page import PageRequest
from threadkeep.tables import run_search
from threadkeep.tables.run_search import RunFilter
from threadkeep.tables.runs import RunStatus

MAX_NAME_CHARACTERS = 1000

RunMatchField = Literal[
    "run_id",
    "thread_id",
    "assistant_id",
    "graph_id",
    "status",
    "metadata",
    "multitask_strategy",
    "created_at",
    "updated_at",
    "started_at",
    "finished_at",
    "queue_wait_s",
    "duration_s",
    "attempt",
    "error",
]


class RunSearch(BaseModel):
    """The body of a search for runs."""

    model_config = ConfigDict(extra="ignore")

    status: RunStatus | None = None
    assistant_id: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = None
    graph_id: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = None
    thread_id: UUID | None = None
    metadata: MetadataCondition | None = None
    # A time without a zone would mean the zone of the session in Postgres.
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    select: Annotated[list[RunMatchField], Field(max_length=100)] | None = None


async def search(call: AuthorizedRequest[RunSearch, None]) -> Response:
    """POST /runs/search: search the runs of all your threads, the newest first.

    If there are more runs, the header `x-pagination-next` is the offset of the next page.
    """
    body, settings = call.body, call.state.settings
    run_filter = RunFilter(
        status=body.status,
        assistant_id=None if body.assistant_id is None else call.assistants.id_of(body.assistant_id),
        graph_id=body.graph_id,
        thread_id=body.thread_id,
        metadata=body.metadata,
        created_after=body.created_after,
        created_before=body.created_before,
    )
    # One more row than requested shows whether there is a next page.
    more = PageRequest(limit=body.limit + 1, offset=body.offset, answer_bytes=settings.answer_bytes)
    rows = await run_search.search(call.state.pool, call.filters, run_filter, more, timeout_s=settings.search_timeout_s)
    page = PageRequest(limit=body.limit, offset=body.offset, answer_bytes=settings.answer_bytes)
    fields: list[str] = list(body.select or [])
    return await bounded_page(rows[: body.limit], page, lambda run: select_fields(run, fields))
