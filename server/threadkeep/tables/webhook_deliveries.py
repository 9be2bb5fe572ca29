"""Deliveries: webhooks that are still to be sent.

A run that ends leaves its own by a trigger (`migrations/functions/webhooks.sql`), in the transaction that ends it. Who
takes one puts it off, and deletes it when it is done: what a process that dies held comes due again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn

WEBHOOK_DUE = "webhook"
"""The topic that wakes the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook that this process is to send."""

    run_id: UUID
    url: str
    body: RawJson
    """The run's row, and what its thread holds."""
    attempt: int
    """1 at the first."""
    principal: str = ""
    """Whose run it was. Empty if nobody is known."""


async def claim(
    conn: Conn, *, lease_s: float, after_principal: str | None = None, held_back: Sequence[str] = ()
) -> Delivery | None:
    """Take a webhook that is due, or None where there is none; nobody else takes it for `lease_s` seconds.

    It is the one that has been due longest of the principal whose turn comes after `after_principal` (None: of the first
    one). Those of `held_back` have no turn.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(Delivery))
    turns = [None] if after_principal is None else [after_principal, None]
    for after in turns:
        await cursor.execute(
            """
            UPDATE webhook_deliveries
               SET attempt = attempt + 1, send_after = now() + make_interval(secs => %(lease_s)s)
             WHERE run_id = (
                SELECT run_id
                  FROM webhook_deliveries
                 WHERE project_id = %(project)s AND send_after <= now()
                   AND (%(after)s::text IS NULL OR principal > %(after)s::text)
                   AND principal <> ALL(%(held_back)s::text[])
                 ORDER BY principal, send_after
                 LIMIT 1
                   FOR UPDATE SKIP LOCKED
             )
            RETURNING *
            """,
            {"lease_s": lease_s, "project": conn.project_id, "after": after, "held_back": list(held_back)},
        )
        if delivery := await cursor.fetchone():
            return delivery
    return None


async def reschedule(conn: Conn, run_id: UUID, *, after_s: float) -> None:
    """Send it again, `after_s` seconds from now."""
    await conn.execute(
        """
        UPDATE webhook_deliveries
           SET send_after = now() + make_interval(secs => %(after_s)s)
         WHERE run_id = %(run_id)s
        """,
        {"run_id": run_id, "after_s": after_s},
    )


async def delete(conn: Conn, run_id: UUID) -> None:
    """It was sent, or never will be."""
    await conn.execute("DELETE FROM webhook_deliveries WHERE run_id = %(run_id)s", {"run_id": run_id})


async def delete_old(conn: Conn, *, age_s: float, limit: int) -> int:
    """Delete up to `limit` webhooks of runs that finished `age_s` seconds ago or earlier. How many."""
    done = await conn.execute(
        """
        DELETE FROM webhook_deliveries
         WHERE run_id IN (
            SELECT run_id
              FROM webhook_deliveries
             WHERE project_id = %(project)s AND created_at < now() - make_interval(secs => %(age_s)s)
             ORDER BY created_at
             LIMIT %(limit)s
               FOR UPDATE SKIP LOCKED)
        """,
        {"project": conn.project_id, "age_s": age_s, "limit": limit},
    )
    return done.rowcount


async def seconds_to_next(conn: Conn, held_back: Sequence[str] = ()) -> float | None:
    """Seconds until the next is due, below 0 where it is; None where there is none. Those of `held_back` are not due."""
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM min(send_after) - now())::float
          FROM webhook_deliveries
         WHERE project_id = %(project)s AND principal <> ALL(%(held_back)s::text[])
        """,
        {"project": conn.project_id, "held_back": list(held_back)},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
