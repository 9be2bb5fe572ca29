"""Paging: the lists of the OpenAI API, which continue after the id of an item."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from threadkeep.api.openai.errors import InvalidParameter


class ListQuery(BaseModel):
    """The query of a list."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    """The id of the last item of the page before."""


class ItemList(TypedDict):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def item_list(items: Sequence[Mapping[str, Any]]) -> ItemList:
    """Return all items as one page."""
    return _list(items, has_more=False)


def page(items: Sequence[Mapping[str, Any]], query: ListQuery) -> ItemList:
    """Return a page of `items`, which are ordered from the oldest. Raise InvalidParameter if `after` is not the id of an item."""
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    start = 0
    if query.after is not None:
        places = [index for index, item in enumerate(ordered) if item["id"] == query.after]
        if not places:
            raise InvalidParameter("must be the id of an item of this list", param="after")
        start = places[0] + 1
    return _list(ordered[start : start + query.limit], has_more=len(ordered) > start + query.limit)


def _list(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> ItemList:
    return {
        "object": "list",
        "data": [dict(item) for item in items],
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
