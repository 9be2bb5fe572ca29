"""Bounded page: a page of a listing with a limit in bytes, which Postgres applies before it sends the rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

from psycopg import AsyncCursor, sql

from threadkeep.postgres import rows

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Selects the rows of a page, and limits their bytes."""

    limit: int
    offset: int
    answer_bytes: int

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of a bounded listing."""
        return {"limit": self.limit, "offset": self.offset, "answer_bytes": self.answer_bytes}


@dataclass(frozen=True, slots=True)
class SizedRow(Generic[Row]):
    """A row, and its approximate bytes as JSON."""

    row: Row
    bytes: int
    listed: int
    """The number of rows that the page has without the limit in bytes."""


def bounded(listing: sql.Composable, *columns: str, apart: LiteralString = "0") -> sql.Composed:
    """The statement for the first rows of `listing` whose sum is within `%(answer_bytes)s`, but at least one row.

    A row's size is that of its JSON `columns` plus the expression `apart`. A first pass uses the stored sizes, which may be
    compressed. So only values that may fit are converted to text.
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
    """A row factory for `bounded`, if the listing has the columns of `kind`."""
    of_kind = rows.row_factory(kind)

    def factory(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], SizedRow[Row]]:
        make = of_kind(cursor)
        names = [column.name for column in cursor.description or ()]
        size, listed = names.index("bytes"), names.index("listed")
        return lambda row: SizedRow(make(row), row[size], row[listed])

    return factory
