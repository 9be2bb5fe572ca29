"""Task pushes: the webhooks that are called when a task of A2A ends or asks.

A trigger (`migrations/functions/webhooks.sql`) inserts a webhook delivery for each of them in the transaction that ends the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import queue


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPush:
    """A row of `task_pushes`."""

    chain_id: UUID
    config_id: str
    thread_id: UUID
    protocol: str
    """The version of the protocol for the receiver."""
    url: str
    token: str | None = field(default=None, repr=False)  # a secret is in no log
    scheme: str | None = None
    credentials: str | None = field(default=None, repr=False)
    principal: str = ""
    """The identity of its creator. Only the creator sees the secrets."""


async def put(conn: Conn, push: TaskPush, *, most: int) -> bool:
    """Create or replace a config. False if the task has `most` others already.

    The thread is locked until the transaction ends, so that the end of a run sees the config or happened before.
    """
    await queue.lock_thread(conn, push.thread_id)
    # A config with this id does not count, because it is replaced.
    cursor = await conn.execute(
        """
        INSERT INTO task_pushes (chain_id, config_id, project_id, thread_id, protocol, url, token, scheme, credentials,
                                 principal)
        SELECT %(chain_id)s, %(config_id)s, %(project)s, %(thread_id)s, %(protocol)s, %(url)s, %(token)s, %(scheme)s,
               %(credentials)s, %(principal)s
         WHERE (SELECT count(*) FROM task_pushes
                 WHERE chain_id = %(chain_id)s AND config_id <> %(config_id)s) < %(most)s -- exact, because of the lock
        ON CONFLICT (chain_id, config_id) DO UPDATE
           SET protocol = EXCLUDED.protocol, url = EXCLUDED.url, token = EXCLUDED.token, scheme = EXCLUDED.scheme,
               credentials = EXCLUDED.credentials, principal = EXCLUDED.principal
        """,
        {
            "chain_id": push.chain_id,
            "config_id": push.config_id,
            "project": conn.project_id,
            "thread_id": push.thread_id,
            "protocol": push.protocol,
            "url": push.url,
            "token": push.token,
            "scheme": push.scheme,
            "credentials": push.credentials,
            "principal": push.principal,
            "most": most,
        },
    )
    return cursor.rowcount == 1


async def enqueue(conn: Conn, run_id: UUID, config_id: str | None = None) -> None:
    """If the run has ended, notify all configs of its task, or one config, of the task's state. It must be the task's newest run."""
    await conn.execute(
        "SELECT enqueue_task_pushes(%(run_id)s, %(config_id)s)", {"run_id": run_id, "config_id": config_id}
    )


async def read(conn: Conn, chain_id: UUID, config_id: str) -> TaskPush | None:
    """A config, for the server itself. None if it was deleted."""
    cursor = conn.cursor(row_factory=rows.row_factory(TaskPush))
    await cursor.execute(
        # No filter: the sender has no caller. Configs that were deleted meanwhile get no notification.
        "SELECT * FROM task_pushes WHERE chain_id = %(chain_id)s AND config_id = %(config_id)s",
        {"chain_id": chain_id, "config_id": config_id},
    )
    return await cursor.fetchone()


async def listed(conn: Conn, filters: Filters, chain_id: UUID) -> Sequence[TaskPush]:
    """The configs of a task of the caller's, by their ids."""
    cursor = conn.cursor(row_factory=rows.row_factory(TaskPush))
    await cursor.execute(
        """
        SELECT task_pushes.*
          FROM task_pushes JOIN threads USING (thread_id)
         WHERE chain_id = %(chain_id)s AND threads.project_id = %(project)s AND threads.metadata @> %(match)s
         ORDER BY config_id
        """,
        {"chain_id": chain_id, "project": conn.project_id, "match": filters.jsonb},
    )
    return await cursor.fetchall()


async def delete(conn: Conn, filters: Filters, chain_id: UUID, config_id: str) -> None:
    """Delete a config of a task of the caller's. It need not be there."""
    await conn.execute(
        """
        DELETE FROM task_pushes USING threads
         WHERE threads.thread_id = task_pushes.thread_id AND threads.project_id = %(project)s
           AND threads.metadata @> %(match)s AND chain_id = %(chain_id)s AND config_id = %(config_id)s
        """,
        {
            "chain_id": chain_id,
            "config_id": config_id,
            "project": conn.project_id,
            "match": filters.jsonb,
        },
    )
