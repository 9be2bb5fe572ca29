"""Assistants: graphs with a configuration.

Each graph has a system assistant. As on the reference server, its id follows from the graph's name. All callers may read
and run it (`is_system`, which no client can set). Each change inserts a version into `assistant_versions` in the same
statement. A run gets `context`, and `config.configurable` always has the same values.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID, uuid5

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters

NAMESPACE: Final = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""The namespace for the uuid5 of a graph's own assistant. Clients of langgraph_sdk rely on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assistant:
    """A row of `assistants`. Its field names are the protocol's, so it is also the client's JSON."""

    assistant_id: UUID
    graph_id: str
    config: RawJson
    context: RawJson
    metadata: RawJson
    name: str
    created_at: datetime
    updated_at: datetime
    version: int
    description: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAssistant:
    """An assistant to create."""

    assistant_id: UUID
    graph_id: str
    name: str
    description: str | None
    config: Mapping[str, Any]
    """The config without `configurable`."""
    context: Mapping[str, Any]
    metadata: Mapping[str, Any]
    principal: str | None = None
    """The identity of its creator. None without authentication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantChange:
    """A change of an assistant. None leaves a field unchanged."""

    graph_id: str | None = None
    name: str | None = None
    description: str | None = None
    config: Mapping[str, Any] | None = None
    """The config without `configurable`."""
    context: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    """It is merged into the assistant's metadata. Other fields are replaced."""
    metadata_bytes: int
    """The most bytes in its metadata after the change."""


def system_id(graph_id: str) -> UUID:
    """The id of the graph's own assistant."""
    return uuid5(NAMESPACE, graph_id)


async def ensure_system_assistants(conn: Conn, descriptions: Mapping[str, str | None]) -> None:
    """Create each graph's own assistant if it is missing. `descriptions` is by graph id.

    A client can compute the id before the graph exists. An assistant that a client created with it is deleted.
    """
    for graph_id, description in descriptions.items():
        # First, because an assistant of a client with this id would keep the graph's own from being created.
        await conn.execute(
            """
            DELETE FROM assistants
             WHERE project_id = %(project)s AND assistant_id = %(assistant_id)s AND NOT is_system
            """,
            {"project": conn.project_id, "assistant_id": system_id(graph_id)},
        )
        await conn.execute(
            """
            WITH created AS (
                INSERT INTO assistants (project_id, assistant_id, graph_id, name, description, metadata, is_system)
                VALUES (%(project)s, %(assistant_id)s, %(graph_id)s, %(graph_id)s, %(description)s, %(metadata)s, true)
                ON CONFLICT (project_id, assistant_id) DO NOTHING -- processes may start together
                RETURNING *
            )
            INSERT INTO assistant_versions (project_id, assistant_id, version, graph_id, name, description, config,
                                            context, metadata)
            SELECT project_id, assistant_id, version, graph_id, name, description, config, context, metadata FROM created
            """,
            {
                "project": conn.project_id,
                "assistant_id": system_id(graph_id),
                "graph_id": graph_id,
                "description": description,
                "metadata": Jsonb({"created_by": "system"}),
            },
        )


async def create(conn: Conn, new: NewAssistant) -> Assistant | None:
    """Create an assistant and its first version. None if the id is already used by any tenant."""
    cursor = conn.cursor(row_factory=rows.row_factory(Assistant))
    await cursor.execute(
        """
        WITH created AS (
            INSERT INTO assistants (project_id, assistant_id, graph_id, name, description, config, context, metadata,
                                    principal)
            VALUES (%(project)s, %(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, %(config)s, %(context)s,
                    %(metadata)s, %(principal)s)
            ON CONFLICT (project_id, assistant_id) DO NOTHING
            RETURNING *
        ), version_added AS (
            INSERT INTO assistant_versions (project_id, assistant_id, version, graph_id, name, description, config,
                                            context, metadata, created_at)
            SELECT project_id, assistant_id, version, graph_id, name, description, config, context, metadata, created_at
              FROM created
        )
        SELECT * FROM created
        """,
        {
            "project": conn.project_id,
            "assistant_id": new.assistant_id,
            "graph_id": new.graph_id,
            "name": new.name,
            "description": new.description,
            # Older clients read `config.configurable`, newer ones `context`. Both have the same values.
            "config": Jsonb({**new.config, "configurable": new.context} if new.context else new.config),
            "context": Jsonb(new.context),
            "metadata": Jsonb(new.metadata),
            "principal": new.principal,
        },
    )
    return await cursor.fetchone()


async def update(pool: Pool, filters: Filters, assistant_id: UUID, change: AssistantChange) -> Assistant | None:
    """Change an assistant and insert the new version.

    None if the caller has no such assistant, or if its metadata would be too large. The row is locked first, so that
    concurrent changes get consecutive version numbers.
    """
    async with pool.pipeline(filters) as conn:
        cursor = conn.cursor(row_factory=rows.row_factory(Assistant))
        # A separate statement: `max(version)` below must also see a version that was inserted during the wait.
        await lock(conn, assistant_id)
        await cursor.execute(
            """
            WITH changed AS (
                UPDATE assistants
                   SET version     = 1 + (SELECT max(version) FROM assistant_versions -- a restored row has a lower one
                                           WHERE project_id = %(project)s AND assistant_id = %(assistant_id)s),
                       graph_id    = coalesce(%(graph_id)s, graph_id),
                       name        = coalesce(%(name)s, name),
                       description = coalesce(%(description)s, description),
                       config      = (coalesce(%(config)s::jsonb, config) - 'configurable')
                                     || CASE WHEN coalesce(%(context)s::jsonb, context) = '{}' THEN '{}'
                                             ELSE jsonb_build_object('configurable',
                                                                     coalesce(%(context)s::jsonb, context)) END,
                       context     = coalesce(%(context)s::jsonb, context),
                       metadata    = CASE WHEN metadata || %(metadata)s @> %(match)s THEN metadata || %(metadata)s
                                          ELSE metadata || (%(metadata)s::jsonb - %(reserved)s::text[]) END,
                       updated_at  = now()
                 WHERE assistant_id = %(assistant_id)s AND project_id = %(project)s AND metadata @> %(match)s
                   AND (%(metadata)s::jsonb = '{}' -- the limit may have been lowered since
                        OR octet_length((metadata || %(metadata)s)::text) <= %(metadata_bytes)s)
                RETURNING *
            ), version_added AS (
                INSERT INTO assistant_versions (project_id, assistant_id, version, graph_id, name, description, config,
                                                context, metadata, created_at)
                SELECT project_id, assistant_id, version, graph_id, name, description, config, context, metadata,
                       updated_at
                  FROM changed
            )
            SELECT * FROM changed
            """,
            {
                "assistant_id": assistant_id,
                "graph_id": change.graph_id,
                "name": change.name,
                "description": change.description,
                "config": None if change.config is None else Jsonb(change.config),
                "context": None if change.context is None else Jsonb(change.context),
                "metadata": Jsonb(change.metadata or {}),
                "metadata_bytes": change.metadata_bytes,
                "project": conn.project_id,
                "match": filters.jsonb,
                "reserved": filters.owner_keys,
            },
        )
    return await cursor.fetchone()


async def lock(conn: Conn, assistant_id: UUID) -> None:
    """Lock the assistant until the transaction ends, so that the next statement sees its current row."""
    await conn.execute(
        # Without a filter, because it returns nothing. The next statement has the filter.
        "SELECT FROM assistants WHERE project_id = %(project)s AND assistant_id = %(assistant_id)s FOR UPDATE",
        {"project": conn.project_id, "assistant_id": assistant_id},
    )


async def delete(conn: Conn, filters: Filters, assistant_id: UUID) -> bool:
    """Delete the assistant with its versions. False if the caller has no such assistant."""
    cursor = await conn.execute(
        """
        DELETE
          FROM assistants
         WHERE assistant_id = %(assistant_id)s
           AND project_id = %(project)s
           AND metadata @> %(match)s
        """,
        {"assistant_id": assistant_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return cursor.rowcount == 1


async def assistant_thread_ids(conn: Conn, filters: Filters, assistant_id: UUID) -> list[UUID]:
    """The ids of the caller's threads whose metadata has the assistant's id. The last run or a client has set it."""
    cursor = await conn.execute(
        """
        SELECT thread_id
          FROM threads
         WHERE metadata @> %(mark)s
           AND project_id = %(project)s
           AND metadata @> %(match)s
        """,
        {"mark": Jsonb({"assistant_id": str(assistant_id)}), "project": conn.project_id, "match": filters.jsonb},
    )
    return [row[0] for row in await cursor.fetchall()]


async def get(conn: Conn, filters: Filters, assistant_id: UUID) -> Assistant | None:
    """The caller's own or a graph's own assistant. None if the caller may see no such assistant."""
    cursor = conn.cursor(row_factory=rows.row_factory(Assistant))
    await cursor.execute(
        """
        SELECT * FROM assistants
         WHERE assistant_id = %(assistant_id)s AND project_id = %(project)s AND (metadata @> %(match)s OR is_system)
        """,
        {"assistant_id": assistant_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchone()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantFilter:
    """Selects assistants. None selects all."""

    served: Collection[str]
    """The graphs that this process serves. Assistants of other graphs are not listed."""
    graph_id: str | None = None
    name: str | None = None
    """A part of the name. Case does not matter."""
    metadata: Mapping[str, Any] | None = None

    @property
    def sql_parameters(self) -> dict[str, object]:
        return {
            "served": list(self.served),
            "graph_id": self.graph_id,
            "name": self.name,
            "metadata": Jsonb(self.metadata or {}),
        }


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
"""(sort_by, sort_order) -> ORDER BY. The id as the last column makes pages stable."""


async def search(
    conn: Conn, filters: Filters, selection: AssistantFilter, *, order: tuple[str, str], page: PageRequest
) -> list[SizedRow[Assistant]]:
    """The matching assistants of the caller and of graphs, in `order` (a key of `ORDERS`)."""
    cursor = conn.cursor(row_factory=sized(Assistant))
    listing = sql.SQL(
        """
        SELECT *
          FROM assistants
         WHERE project_id = %(project)s AND (metadata @> %(match)s OR is_system) AND metadata @> %(metadata)s
           AND graph_id = ANY(%(served)s) AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
           AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0) -- LIKE would have wildcards
         ORDER BY {order}
         LIMIT %(limit)s OFFSET %(offset)s
        """
    ).format(order=sql.SQL(ORDERS[order]))
    parameters = selection.sql_parameters | page.parameters | {"project": conn.project_id, "match": filters.jsonb}
    await cursor.execute(bounded(listing, "metadata", "config", "context"), parameters)
    return await cursor.fetchall()


async def count(conn: Conn, filters: Filters, selection: AssistantFilter) -> int:
    """The number of matching assistants."""
    cursor = await conn.execute(
        """
        SELECT count(*)
          FROM assistants
         WHERE project_id = %(project)s AND (metadata @> %(match)s OR is_system) AND metadata @> %(metadata)s
           AND graph_id = ANY(%(served)s) AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
           AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0)
        """,
        selection.sql_parameters | {"project": conn.project_id, "match": filters.jsonb},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0
