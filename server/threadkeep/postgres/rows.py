"""Rows: converts result rows to frozen dataclasses.

Columns without a field are ignored, so an older process can read a newer table.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from psycopg import AsyncCursor

Row = TypeVar("Row")


def row_factory(kind: type[Row]) -> Callable[[AsyncCursor[Any]], Callable[[Sequence[Any]], Row]]:
    """A row factory for `kind`, a dataclass whose field names are columns."""
    field_names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType] - `kind` is a dataclass

    def factory(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Row]:
        names = [column.name for column in cursor.description or ()]
        # Once for each result. A dictionary for each row would look every name up again.
        places = [(name, names.index(name)) for name in field_names if name in names]

        def make(row: Sequence[Any]) -> Row:
            return kind(**{name: row[place] for name, place in places})

        return make

    return factory
