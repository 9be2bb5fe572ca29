"""Assistant versions: all versions of each assistant, including the current one.

`assistants` inserts a version with each change. This module reads and restores versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.bounded_page import PageRequest, SizedRow, bounded, sized
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantVersion:
    """A row of `assistant_versions`. Its field names are the protocol's, so it is also the client's JSON."""

    assistant_id: UUID
    version: int
    graph_id: str
    config: RawJson
    context: RawJson
    metadata: RawJson
    created_at: datetime
    name: str
    description: str | None


async def search(
    conn: Conn, filters: Filters, assistant_id: UUID, metadata: Mapping[str, Any], page: PageRequest
) -> list[SizedRow[AssistantVersion]]:
    """The versions of an assistant whose own metadata contains `metadata`, the newest first."""
    cursor = conn.cursor(row_factory=sized(AssistantVersion))
    listing = sql.SQL(
        """
        SELECT version.*
          FROM assistant_versions AS version
          JOIN assistants AS assistant USING (project_id, assistant_id)
         WHERE assistant_id = %(assistant_id)s
           AND project_id = %(project)s AND (assistant.metadata @> %(match)s OR assistant.is_system) -- by the present owner
           AND version.metadata @> %(metadata)s
         ORDER BY version.version DESC
         LIMIT %(limit)s OFFSET %(offset)s
        """
    )
    parameters = {
        "assistant_id": assistant_id,
        "project": conn.project_id,
        "match": filters.jsonb,
        "metadata": Jsonb(metadata),
    }
    await cursor.execute(bounded(listing, "metadata", "config", "context"), parameters | page.parameters)
    return await cursor.fetchall()


async def restore(pool: Pool, filters: Filters, assistant_id: UUID, version: int) -> Assistant | None:
    """Make a version the assistant's current one. None if the caller has no such version.

    The row gets all values of the version, also its number. The metadata required by `filters` stays. So a caller does not
    lose an assistant if it restores a version of an earlier owner.
    """
    async with pool.pipeline(filters) as conn:
        cursor = conn.cursor(row_factory=rows.row_factory(Assistant))
        # As a change does: otherwise a concurrent change could continue from the row before this version.
        await assistants.lock(conn, assistant_id)
        await cursor.execute(
            """
            UPDATE assistants AS assistant
               SET version     = version.version, -- a restore makes no new version
                   graph_id    = version.graph_id,
                   name        = version.name,
                   description = version.description,
                   config      = version.config,
                   context     = version.context,
                   metadata    = CASE WHEN version.metadata @> %(match)s THEN version.metadata
                                      ELSE version.metadata || %(match)s END,
                   updated_at  = now()
              FROM assistant_versions AS version
             WHERE assistant.assistant_id = %(assistant_id)s
               AND assistant.project_id = %(project)s AND assistant.metadata @> %(match)s
               AND version.project_id = assistant.project_id AND version.assistant_id = assistant.assistant_id
               AND version.version = %(version)s
            RETURNING assistant.*
            """,
            {"assistant_id": assistant_id, "version": version, "project": conn.project_id, "match": filters.jsonb},
        )
    return await cursor.fetchone()
