"""Deliveries of push notifications: a later state of a task takes the place of one that is being sent."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from threadkeep.base import ids
from threadkeep.postgres import pool
from threadkeep.postgres.pool import Conn
from threadkeep.settings import Settings
from threadkeep.tables import webhook_deliveries
from threadkeep.tables.webhook_deliveries import Delivery


@pytest.fixture
async def conn(settings: Settings) -> AsyncIterator[Conn]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api, api.connection() as conn:
        yield conn


async def _enqueue(conn: Conn, run_id: UUID, state: str) -> None:
    """Insert or replace a delivery as `enqueue_task_pushes` does."""
    await conn.execute(
        """
        INSERT INTO webhook_deliveries (run_id, config_id, thread_id, project_id, url, body)
        VALUES (%(run_id)s, 'push', %(run_id)s, %(project)s, 'https://push.example', jsonb_build_object('state', %(state)s::text))
        ON CONFLICT (run_id, config_id) DO UPDATE SET body = EXCLUDED.body, attempt = 0, send_after = now()
        """,
        {"run_id": run_id, "project": conn.project_id, "state": state},
    )


async def _claim(conn: Conn) -> Delivery:
    delivery = await webhook_deliveries.claim(conn, lease_s=60)
    assert delivery is not None
    return delivery


async def test_a_sender_does_not_delete_the_later_state_that_another_one_sends(conn: Conn) -> None:
    """Ours: if the other attempt then failed, nothing repeated it."""
    run_id = ids.uuid7()
    await _enqueue(conn, run_id, "input_required")
    asked = await _claim(conn)
    await _enqueue(conn, run_id, "canceled")
    canceled = await _claim(conn)

    await webhook_deliveries.delete(conn, asked)
    await webhook_deliveries.reschedule(conn, canceled, after_s=0)

    again = await _claim(conn)
    assert (again.body.load(), again.attempt) == ({"state": "canceled"}, 2)
    await webhook_deliveries.delete(conn, again)
    assert await webhook_deliveries.seconds_to_next(conn) is None


async def test_a_failed_attempt_does_not_delay_the_later_state(conn: Conn) -> None:
    """Ours: the later state waited for as long as a repetition of the earlier one."""
    run_id = ids.uuid7()
    await _enqueue(conn, run_id, "input_required")
    asked = await _claim(conn)
    await _enqueue(conn, run_id, "canceled")

    await webhook_deliveries.reschedule(conn, asked, after_s=600)

    assert (await _claim(conn)).body.load() == {"state": "canceled"}
