"""Bounded page: a page of a listing that ends before it is too large, decided by Postgres, so that no more is ever read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

from psycopg import AsyncCursor, sql

from threadkeep.postgres import rows

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which rows of a listing, and how large they may be together."""

    limit: int
    offset: int
    answer_bytes: int

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of a bounded listing."""
        return {"limit": self.limit, "offset": self.offset, "answer_bytes": self.answer_bytes}


@dataclass(frozen=True, slots=True)
class SizedRow(Generic[Row]):
    """A row, and about how many bytes it has as JSON."""

    row: Row
    bytes: int
    listed: int
    """The rows that the page would have if it were not bounded."""


def bounded(listing: sql.Composable, *columns: str, apart: LiteralString = "0") -> sql.Composed:
    """The statement for those first rows of `listing` that are within `%(answer_bytes)s` together, or for the first one.

    The sizes are those of the JSON `columns`, and of what the expression `apart` adds. A value counts by its stored size,
    which may be compressed, before the text is made of those that may fit.
    """
    stored = sql.SQL(" + ").join(sql.SQL("coalesce(pg_column_size({}), 0)").format(sql.Identifier(c)) for c in columns)
    texts = sql.SQL(" + ").join(
        sql.SQL("coalesce(octet_length({}::text), 0)").format(sql.Identifier(c)) for c in columns
    )
    return sql.SQL(
        """
        WITH page AS MATERIALIZED ({listing}),
        placed AS (SELECT *, row_number() OVER () AS place, count(*) OVER () AS listed FROM page),
        stored AS (SELECT *, sum({stored} + {apart}) OVER (ORDER BY place) AS stored_so_far FROM placed),
        sized AS (SELECT *, {texts} + {apart} AS bytes FROM stored WHERE stored_so_far <= %(answer_bytes)s OR place = 1),
        summed AS (SELECT *, sum(bytes) OVER (ORDER BY place) AS bytes_so_far FROM sized)
        SELECT *
          FROM summed
         WHERE bytes_so_far <= %(answer_bytes)s OR place = 1
         ORDER BY place
        """
    ).format(listing=listing, stored=stored, texts=texts, apart=sql.SQL(apart))


def sized(kind: type[Row]) -> Callable[[AsyncCursor[Any]], Callable[[Sequence[Any]], SizedRow[Row]]]:
    """A row factory for `bounded`, whose listing has the columns of `kind`."""
    of_kind = rows.row_factory(kind)

    def factory(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], SizedRow[Row]]:
        make = of_kind(cursor)
        names = [column.name for column in cursor.description or ()]
        size, listed = names.index("bytes"), names.index("listed")
        return lambda row: SizedRow(make(row), row[size], row[listed])

    return factory
