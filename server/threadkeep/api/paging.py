"""Paging: the fields that all search bodies share, and responses of a limited size."""

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
    """The requested page and sort order."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    sort_order: Annotated[Literal["asc", "desc"], BeforeValidator(_lower)] = "desc"

    def page(self, answer_bytes: int) -> PageRequest:
        """Return the page request, for a response of at most `answer_bytes` bytes."""
        return PageRequest(limit=self.limit, offset=self.offset, answer_bytes=answer_bytes)


def select_fields(row: object, select: list[str] | None) -> object:
    """Return `row`, or only its selected fields."""
    if not select:
        return row
    return {name: getattr(row, name) for name in select}


@dataclass(frozen=True, slots=True)
class BoundedList:
    """A page as JSON items, with the paging headers."""

    items: Sequence[bytes]
    headers: dict[str, str]

    @property
    def pieces(self) -> list[bytes]:
        """The pieces of the JSON list."""
        return joined(self.items)


async def bounded_page(
    rows: Sequence[SizedRow[Any]],
    request: PageRequest,
    select: Callable[[Any], object] = lambda row: row,
    *,
    total: int | None = None,
) -> Response:
    """Return the response of a page. Raise AnswerTooLarge if its first row alone is too large."""
    listing = await bounded_list(rows, request, select, total=total)
    return json_pieces(listing.pieces, listing.headers)


async def bounded_list(
    rows: Sequence[SizedRow[Any]],
    request: PageRequest,
    select: Callable[[Any], object],
    *,
    total: int | None = None,
) -> BoundedList:
    """Return the items of a page, at most `request.answer_bytes` bytes. `select` maps a row to its JSON value.

    The header `x-pagination-total` is the number of all matching rows. `x-pagination-next` is the offset of the next
    page, if there are more rows or if the page ended because of its size. Raise AnswerTooLarge if the first row alone is
    too large.
    """
    budget, items = AnswerBudget(request.answer_bytes), list[bytes]()
    # Postgres returns the first row in any case. It is refused before it is encoded.
    if rows and rows[0].bytes > request.answer_bytes:
        budget.take_all(rows[0].bytes, f"the entry at offset {request.offset}")
    for sized in rows:
        item = await json.dumps_apart(select(sized.row), size=sized.bytes)
        if not budget.take(len(item), f"the entry at offset {request.offset}"):
            break
        items.append(item)
    end = request.offset + len(items)
    headers = {} if total is None else {"x-pagination-total": str(total)}
    # Each row has the number of rows on its page before the limit in bytes.
    listed = rows[0].listed if rows else 0
    if items and (len(items) < listed or (total is not None and end < total)):
        headers["x-pagination-next"] = str(end)
    return BoundedList(items, headers)
