"""Webhook deliveries: webhooks and push notifications of tasks that are not sent yet.

A trigger (`migrations/functions/webhooks.sql`) inserts a delivery in the transaction that ends the run. A sender claims it
by moving its due time, and deletes it at the end. So the deliveries of a dead process become due again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from threadkeep.base import json
from threadkeep.base.json import RawJson
from threadkeep.postgres import rows
from threadkeep.postgres.pool import Conn

WEBHOOK_DUE = "webhook"
"""The topic that wakes the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook that this process has claimed."""

    run_id: UUID
    url: str
    body: RawJson
    """The run's row and the thread's values. For a push notification: the state of the task."""
    config_id: str = ""
    """The push notification config of a task. Empty: it is the webhook of the run."""
    attempt: int
    """The number of this attempt, from 1."""
    principal: str = ""
    """The identity of the run's principal. Empty without authentication."""


async def claim(
    conn: Conn, *, lease_s: float, after_principal: str | None = None, held_back: Sequence[str] = ()
) -> Delivery | None:
    """Claim a due webhook for `lease_s` seconds. None if there is none.

    It is the longest due webhook of the next principal after `after_principal` (None: of the first principal). Principals
    in `held_back` are skipped.
    """
    cursor = conn.cursor(row_factory=rows.row_factory(Delivery))
    # After the last principal the round begins again. A second statement runs only then.
    turns = [None] if after_principal is None else [after_principal, None]
    for previous in turns:
        # The subquery locks the row before the update, so two senders never claim the same one.
        await cursor.execute(
            """
            UPDATE webhook_deliveries
               SET attempt = attempt + 1, send_after = now() + make_interval(secs => %(lease_s)s) -- before it is sent
             WHERE (run_id, config_id) = (
                SELECT run_id, config_id
                  FROM webhook_deliveries
                 WHERE project_id = %(project)s AND send_after <= now()
                   AND (%(previous)s::text IS NULL OR principal > %(previous)s::text)
                   AND principal <> ALL(%(held_back)s::text[])
                 ORDER BY principal, send_after
                 LIMIT 1
                   FOR UPDATE SKIP LOCKED
             )
            RETURNING *
            """,
            {"lease_s": lease_s, "project": conn.project_id, "previous": previous, "held_back": list(held_back)},
        )
        if delivery := await cursor.fetchone():
            return delivery
    return None


async def reschedule(conn: Conn, delivery: Delivery, *, after_s: float) -> None:
    """Make the delivery due again in `after_s` seconds, unless a later state of its task has taken its place."""
    await conn.execute(
        """
        UPDATE webhook_deliveries
           SET send_after = now() + make_interval(secs => %(after_s)s)
         WHERE run_id = %(run_id)s AND config_id = %(config_id)s
           AND (%(sent_body)s::text IS NULL OR body = %(sent_body)s::jsonb)
        """,
        {
            "run_id": delivery.run_id,
            "config_id": delivery.config_id,
            "sent_body": _replaceable_body(delivery),
            "after_s": after_s,
        },
    )


async def delete(conn: Conn, delivery: Delivery) -> None:
    """Delete a delivery that was sent or is given up, unless a later state of its task has taken its place."""
    await conn.execute(
        """
        DELETE FROM webhook_deliveries
         WHERE run_id = %(run_id)s AND config_id = %(config_id)s
           AND (%(sent_body)s::text IS NULL OR body = %(sent_body)s::jsonb)
        """,
        {
            "run_id": delivery.run_id,
            "config_id": delivery.config_id,
            "sent_body": _replaceable_body(delivery),
        },
    )


def _replaceable_body(delivery: Delivery) -> str | None:
    """The body as JSON, if another one may take its place. None: the webhook of a run has one body."""
    # The number of the attempt does not tell two states apart, because it begins anew with each.
    return json.dumps(delivery.body).decode() if delivery.config_id else None


async def delete_old(conn: Conn, *, age_s: float, limit: int) -> int:
    """Delete up to `limit` deliveries that are `age_s` seconds old or older. Returns their number."""
    cursor = await conn.execute(
        """
        DELETE FROM webhook_deliveries
         WHERE (run_id, config_id) IN (
            SELECT run_id, config_id
              FROM webhook_deliveries
             WHERE project_id = %(project)s AND created_at < now() - make_interval(secs => %(age_s)s)
             ORDER BY created_at
             LIMIT %(limit)s
               FOR UPDATE SKIP LOCKED)
        """,
        {"project": conn.project_id, "age_s": age_s, "limit": limit},
    )
    return cursor.rowcount


async def seconds_to_next(conn: Conn, held_back: Sequence[str] = ()) -> float | None:
    """Seconds until the next delivery is due, negative if it already is. None if there is none. Skips `held_back`."""
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
