"""Paging: the fields that every search body has."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_OFFSET = 2**31 - 1


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class PageBody(BaseModel):
    """Which page, and in which direction."""

    model_config = ConfigDict(extra="ignore")

    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)
    sort_order: Annotated[Literal["asc", "desc"], BeforeValidator(_lower)] = "desc"


def selected(row: object, select: list[str] | None) -> object:
    """`row`, or only those of its fields that the client wants."""
    if not select:
        return row
    return {name: getattr(row, name) for name in select}
