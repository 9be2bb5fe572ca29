"""Checkpoint sizes: the bytes of a thread's states, without reading them. So large answers are refused early."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSize:
    """A checkpoint, and the serialised bytes of its channels and pending writes."""

    checkpoint_id: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Selects checkpoints of one namespace, the newest first, by the same conditions as LangGraph's saver."""

    limit: int
    namespace: str = ""
    checkpoint_id: str | None = None
    """Select only this checkpoint."""
    before: str | None = None
    """Select checkpoints with a lower id."""
    metadata: Mapping[str, Any] | None = None
    """Select checkpoints whose metadata contains this."""


async def sizes(conn: Conn, filters: Filters, thread_id: UUID, listing: Listing) -> list[CheckpointSize]:
    """The sizes of the selected checkpoints. Postgres knows the lengths of blobs without reading them."""
    cursor = conn.cursor(row_factory=rows.row_factory(CheckpointSize))
    await cursor.execute(
        """
        SELECT checkpoint_id,
               (octet_length(checkpoint::text) + octet_length(metadata::text)
                + coalesce((SELECT sum(octet_length(stored.blob))
                              FROM jsonb_each_text(checkpoint -> 'channel_versions') AS wanted (channel, version)
                             CROSS JOIN LATERAL (
                                SELECT blob
                                  FROM checkpoint_blobs AS blobs
                                 WHERE blobs.thread_id = checkpoints.thread_id
                                   AND blobs.checkpoint_ns = checkpoints.checkpoint_ns
                                   AND blobs.channel = wanted.channel AND blobs.version = wanted.version
                                 LIMIT 1 -- keeps Postgres from a join that reads all blobs of the thread
                             ) AS stored), 0)
                + coalesce((SELECT sum(octet_length(written.blob))
                              FROM checkpoint_writes AS written
                             WHERE written.thread_id = checkpoints.thread_id
                               AND written.checkpoint_ns = checkpoints.checkpoint_ns
                               AND written.checkpoint_id = checkpoints.checkpoint_id), 0))::bigint AS bytes
          FROM checkpoints
         WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(namespace)s
           AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s)
           AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s)
           AND metadata @> %(metadata)s
           AND EXISTS (SELECT
                         FROM threads
                        WHERE threads.thread_id = %(of_thread)s
                          AND threads.project_id = %(project)s AND threads.metadata @> %(match)s)
         ORDER BY checkpoint_id DESC
         LIMIT %(limit)s
        """,
        {
            "thread_id": str(thread_id),
            "of_thread": thread_id,
            "project": conn.project_id,
            "match": filters.jsonb,
            "namespace": listing.namespace,
            "checkpoint_id": listing.checkpoint_id,
            "before": listing.before,
            "metadata": Jsonb(listing.metadata or {}),
            "limit": listing.limit,
        },
    )
    return await cursor.fetchall()


async def newest_below(conn: Conn, filters: Filters, thread_id: UUID, namespaces: Sequence[str]) -> int:
    """The total bytes of the newest checkpoints in these subgraph namespaces and in those below them."""
    cursor = await conn.execute(
        """
        SELECT coalesce(sum(stored.bytes), 0)::bigint
          FROM (SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint, checkpoint_id
                  FROM checkpoints
                 WHERE thread_id = %(thread_id)s
                   AND EXISTS (SELECT
                                 FROM threads
                                WHERE threads.thread_id = %(of_thread)s
                                  AND threads.project_id = %(project)s AND threads.metadata @> %(match)s)
                   AND EXISTS (SELECT
                                 FROM unnest(%(namespaces)s::text[]) AS listed (namespace)
                                WHERE checkpoint_ns = namespace OR starts_with(checkpoint_ns, namespace || '|')) -- nested
                 ORDER BY checkpoint_ns, checkpoint_id DESC) AS newest
         CROSS JOIN LATERAL (
                SELECT octet_length(newest.checkpoint::text) + coalesce(sum(octet_length(blobs.blob)), 0) AS bytes
                  FROM jsonb_each_text(newest.checkpoint -> 'channel_versions') AS wanted (channel, version)
                  JOIN checkpoint_blobs AS blobs
                    ON blobs.thread_id = %(thread_id)s AND blobs.checkpoint_ns = newest.checkpoint_ns
                   AND blobs.channel = wanted.channel AND blobs.version = wanted.version
         ) AS stored
        """,
        {
            "thread_id": str(thread_id),
            "of_thread": thread_id,
            "project": conn.project_id,
            "match": filters.jsonb,
            "namespaces": list(namespaces),
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else 0
