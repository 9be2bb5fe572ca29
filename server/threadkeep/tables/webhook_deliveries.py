"""Deliveries: webhooks that are still to be sent.

A run that ends leaves its own by a trigger (`migrations/functions/webhooks.sql`), in the transaction that ends it. Who
takes one puts it off, and deletes it when it is done: what a process that dies held comes due again.
"""

from dataclasses import dataclass
from uuid import UUID

from threadkeep.base.json import Json
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn

WEBHOOK = "webhook"
"""The topic that wakes the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook that this process is to send."""

    run_id: UUID
    url: str
    body: Json
    """The run's row, and what its thread holds."""
    attempt: int
    """1 at the first."""


async def claim(conn: Conn, *, lease_s: float) -> Delivery | None:
    """Take the webhook that is due longest, or None where there is none; nobody else takes it for `lease_s` seconds."""
    cursor = conn.cursor(row_factory=rows.of(Delivery))
    await cursor.execute(
        """
        UPDATE webhook_deliveries
           SET attempt = attempt + 1, send_after = now() + make_interval(secs => %(lease_s)s)
         WHERE run_id = (
            SELECT run_id
              FROM webhook_deliveries
             WHERE project_id = %(project)s AND send_after <= now()
             ORDER BY send_after
             LIMIT 1
               FOR UPDATE SKIP LOCKED
         )
        RETURNING *
        """,
        {"lease_s": lease_s, "project": conn.project_id},
    )
    return await cursor.fetchone()


async def put_off(conn: Conn, run_id: UUID, *, after_s: float) -> None:
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


async def seconds_to_next(conn: Conn) -> float | None:
    """Seconds until the next is due, below 0 where it is; None where there is none."""
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM min(send_after) - now())::float
          FROM webhook_deliveries
         WHERE project_id = %(project)s
        """,
        {"project": conn.project_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
