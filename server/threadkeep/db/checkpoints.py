"""Checkpoints: the stock saver without its one lock, and what it has no method for.

Tables and rows are the stock saver's, so that either reads what the other wrote. The stock one holds an
`asyncio.Lock` round every statement, pool or not: with it, all runs of a process wait for one connection.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from threadkeep.db.pool import Conn


class Checkpoints(AsyncPostgresSaver):
    """The checkpointer of every graph, on the pool of running graphs."""

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        pool: Any = self.conn
        async with pool.connection() as conn, conn.cursor(binary=True, row_factory=dict_row) as cursor:
            if not pipeline:
                yield cursor
                return
            async with conn.pipeline():
                yield cursor


async def delete_of_run(conn: Conn, thread_id: UUID, run_id: UUID) -> None:
    """Take back what a run wrote: its checkpoints, their writes, and the blobs that nothing refers to any more."""
    await conn.execute(
        """
        WITH gone AS (
            DELETE FROM checkpoints
             WHERE thread_id = %(thread_id)s AND metadata ->> 'run_id' = %(run_id)s
            RETURNING checkpoint_ns, checkpoint_id
        ), writes_gone AS (
            DELETE FROM checkpoint_writes AS w
             USING gone
             WHERE w.thread_id = %(thread_id)s
               AND w.checkpoint_ns = gone.checkpoint_ns AND w.checkpoint_id = gone.checkpoint_id
        )
        DELETE FROM checkpoint_blobs AS b
         WHERE b.thread_id = %(thread_id)s
           AND NOT EXISTS (
            SELECT FROM checkpoints AS c
             WHERE c.thread_id = b.thread_id AND c.checkpoint_ns = b.checkpoint_ns
               AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version
               AND c.metadata ->> 'run_id' IS DISTINCT FROM %(run_id)s)
        """,
        {"thread_id": str(thread_id), "run_id": str(run_id)},
    )
