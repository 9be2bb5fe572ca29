"""Thread search: which threads there are, and what of each the client wants to see."""

import re
from typing import Annotated, Literal, cast
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from threadkeep.api.conditions import MAX_IDS, Condition
from threadkeep.api.operation import Call
from threadkeep.api.paging import PageBody, bounded_page, selected
from threadkeep.api.responses import json_answer
from threadkeep.postgres.statement_timeout import searching
from threadkeep.tables import thread_search
from threadkeep.tables.thread_search import Extract, Root, Search, Wanted

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
]

MAX_EXTRACTS = 10
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
Path = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_path)]


class CountBody(BaseModel):
    """The body of a count: what to look for."""

    model_config = ConfigDict(extra="ignore")

    metadata: Condition | None = None
    values: Condition | None = None
    status: Status | None = None


class SearchBody(PageBody):
    """The body of a search for threads."""

    ids: list[UUID] | None = Field(default=None, max_length=MAX_IDS)
    metadata: Condition | None = None
    values: Condition | None = None
    status: Status | None = None
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = "updated_at"
    select: Annotated[list[ThreadField], Field(max_length=100)] | None = None
    extract: dict[Alias, Path] | None = Field(default=None, max_length=MAX_EXTRACTS)

    def wanted(self, answer_bytes: int) -> Wanted:
        """The page that is asked for, of at most `answer_bytes`."""
        return Wanted(
            order=(self.sort_by, self.sort_order),
            page=self.page(answer_bytes),
            with_values=not self.select or "values" in self.select,
            extract=[_extract(alias, path) for alias, path in (self.extract or {}).items()],
        )


def _extract(alias: str, path: str) -> Extract:
    """`values.messages[-1].content` as the column and the steps from it."""
    steps = [key or index for key, index in STEP.findall(path)]
    return Extract(alias=alias, root=cast("Root", re.split(r"[.\[]", path, maxsplit=1)[0]), path=steps)


async def search(call: Call[SearchBody, None]) -> Response:
    """POST /threads/search: search threads."""
    body, settings = call.body, call.state.settings
    looked_for = Search(ids=body.ids, metadata=body.metadata, values=body.values, status=body.status)
    wanted = body.wanted(settings.answer_bytes)
    found = await thread_search.search(
        call.state.pool, call.filters, looked_for, wanted, timeout_s=settings.search_timeout_s
    )
    fields: list[str] = list(body.select or [])
    if fields and body.extract:
        fields.append("extracted")
    return await bounded_page(found.items, wanted.page, lambda thread: selected(thread, fields), total=found.total)


async def count(call: Call[CountBody, None]) -> Response:
    """POST /threads/count: count threads."""
    looked_for = Search(metadata=call.body.metadata, values=call.body.values, status=call.body.status)
    async with searching(call.state.pool, call.filters, call.state.settings.search_timeout_s) as conn:
        return json_answer(await thread_search.count(conn, call.filters, looked_for))
