"""Paging: the fields that every search body has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from threadkeep.api.responses import joined, json_pieces
from threadkeep.base import json
from threadkeep.base.answer_budget import AnswerBudget
from threadkeep.postgres.bounded_page import PageRequest, SizedRow

MAX_OFFSET = 2**31 - 1


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class PageBody(BaseModel):
    """Which page, and in which direction."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    sort_order: Annotated[Literal["asc", "desc"], BeforeValidator(_lower)] = "desc"

    def page(self, answer_bytes: int) -> PageRequest:
        """The page, of at most `answer_bytes`."""
        return PageRequest(limit=self.limit, offset=self.offset, answer_bytes=answer_bytes)


def select_fields(row: object, select: list[str] | None) -> object:
    """`row`, or only those of its fields that the client wants."""
    if not select:
        return row
    return {name: getattr(row, name) for name in select}


@dataclass(frozen=True, slots=True)
class BoundedList:
    """A listing as JSON, and where it goes on."""

    items: Sequence[bytes]
    headers: dict[str, str]

    @property
    def pieces(self) -> list[bytes]:
        """The list."""
        return joined(self.items)


async def bounded_page(
    rows: Sequence[SizedRow[Any]],
    request: PageRequest,
    shown: Callable[[Any], object] = lambda row: row,
    *,
    total: int | None = None,
) -> Response:
    """The answer of a listing. AnswerTooLarge if its first row alone is too large."""
    listing = await bounded_list(rows, request, shown, total=total)
    return json_pieces(listing.pieces, listing.headers)


async def bounded_list(
    rows: Sequence[SizedRow[Any]],
    request: PageRequest,
    shown: Callable[[Any], object],
    *,
    total: int | None = None,
) -> BoundedList:
    """A listing of at most `request.answer_bytes`, as far as Postgres gave it. AnswerTooLarge as above.

    `x-pagination-total` is the number of all that match, and `x-pagination-next` the offset at which the listing goes on:
    if there is more, or if it ended because of its size.
    """
    budget, items = AnswerBudget(request.answer_bytes), list[bytes]()
    if rows and rows[0].bytes > request.answer_bytes:
        budget.take_all(rows[0].bytes, f"the entry at offset {request.offset}")
    for sized in rows:
        item = await json.dumps_apart(shown(sized.row), size=sized.bytes)
        if not budget.take(len(item), f"the entry at offset {request.offset}"):
            break
        items.append(item)
    end = request.offset + len(items)
    headers = {} if total is None else {"x-pagination-total": str(total)}
    listed = rows[0].listed if rows else 0
    if items and (len(items) < listed or (total is not None and end < total)):
        headers["x-pagination-next"] = str(end)
    return BoundedList(items, headers)
