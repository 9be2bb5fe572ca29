"""Assistants: a graph with a configuration, in versions.

Each graph has a system assistant whose id follows from the graph's name, as on the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID, uuid5

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.db import rows
from threadkeep.db.filters import Filters
from threadkeep.db.pool import Conn
from threadkeep.wire import Json

NAMESPACE: Final = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Of the uuid5 of a graph's own assistant (langgraph_sdk's clients count on it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant:
    """A row of `assistants`; its field names are the protocol's, so that it is also the JSON a client gets."""

    assistant_id: UUID
    graph_id: str
    config: Json
    context: Json
    metadata: Json
    name: str
    created_at: datetime
    updated_at: datetime
    version: int
    description: str | None


def system_id(graph_id: str) -> UUID:
    """The id of the graph's own assistant."""
    return uuid5(NAMESPACE, graph_id)


async def ensure_system(conn: Conn, descriptions: Mapping[str, str | None]) -> None:
    """Make each graph's own assistant where it is missing; `descriptions` is by graph id."""
    for graph_id, description in descriptions.items():
        await conn.execute(
            """
            WITH made AS (
                INSERT INTO assistants (assistant_id, graph_id, name, description, metadata)
                VALUES (%(assistant_id)s, %(graph_id)s, %(graph_id)s, %(description)s, %(metadata)s)
                ON CONFLICT (assistant_id) DO NOTHING
                RETURNING *
            )
            INSERT INTO assistant_versions (assistant_id, version, graph_id, name, description, config, context, metadata)
            SELECT assistant_id, version, graph_id, name, description, config, context, metadata FROM made
            """,
            {
                "assistant_id": system_id(graph_id),
                "graph_id": graph_id,
                "description": description,
                "metadata": Jsonb({"created_by": "system"}),
            },
        )


async def get(conn: Conn, filters: Filters, assistant_id: UUID) -> Assistant | None:
    """The assistant, or None where there is none that the caller may see."""
    cursor = conn.cursor(row_factory=rows.of(Assistant))
    await cursor.execute(
        "SELECT * FROM assistants WHERE assistant_id = %(assistant_id)s AND metadata @> %(match)s",
        {"assistant_id": assistant_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for among assistants. None: any."""

    graph_id: str | None = None
    name: str | None = None
    """A part of the name, in any case."""
    metadata: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> dict[str, object]:
        return {"graph_id": self.graph_id, "name": self.name, "metadata": Jsonb(self.metadata or {})}


ORDERS: Final[Mapping[tuple[str, str], LiteralString]] = {
    ("assistant_id", "asc"): "assistant_id ASC",
    ("assistant_id", "desc"): "assistant_id DESC",
    ("created_at", "asc"): "created_at ASC, assistant_id ASC",
    ("created_at", "desc"): "created_at DESC, assistant_id DESC",
    ("updated_at", "asc"): "updated_at ASC, assistant_id ASC",
    ("updated_at", "desc"): "updated_at DESC, assistant_id DESC",
    ("name", "asc"): "name ASC, assistant_id ASC",
    ("name", "desc"): "name DESC, assistant_id DESC",
    ("graph_id", "asc"): "graph_id ASC, assistant_id ASC",
    ("graph_id", "desc"): "graph_id DESC, assistant_id DESC",
}
"""(sort_by, sort_order) -> ORDER BY; the id behind it makes pages stable."""


async def search(
    conn: Conn, filters: Filters, wanted: Search, *, order: tuple[str, str], limit: int, offset: int
) -> list[Assistant]:
    """Assistants that match, in `order` (a key of `ORDERS`)."""
    cursor = conn.cursor(row_factory=rows.of(Assistant))
    query = sql.SQL(
        """
        SELECT *
          FROM assistants
         WHERE metadata @> %(match)s AND metadata @> %(metadata)s
           AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
           AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0)
         ORDER BY {order}
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(order=sql.SQL(ORDERS[order]))
    await cursor.execute(query, wanted.parameters | {"match": filters.jsonb, "limit": limit, "offset": offset})
    return await cursor.fetchall()


async def count(conn: Conn, filters: Filters, wanted: Search) -> int:
    """How many assistants match."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM assistants
         WHERE metadata @> %(match)s AND metadata @> %(metadata)s
           AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
           AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0)
        """,
        wanted.parameters | {"match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0
