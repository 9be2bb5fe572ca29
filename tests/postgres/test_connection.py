"""Connections that a failure leaves behind."""

import anyio
import psycopg
import pytest
from psycopg_pool import PoolTimeout

from faults.postgres import proxied
from threadkeep.postgres import connection
from threadkeep.postgres.pool import Pool, open_api_pool
from threadkeep.settings import Settings


async def test_pipeline_that_failed_spoils_nothing_for_those_that_follow(settings: Settings) -> None:
    """Ours: psycopg takes what a failed pipeline passed over for prepared, and the pool keeps the connection."""
    one = settings.model_copy(update={"api_connections": 1})
    async with open_api_pool(one, str(settings.database_uri)) as pool:
        for divisor in (1, 1, 0, 1, 1):
            if divisor:
                assert await _divided(pool, divisor) == 42
                continue
            with pytest.raises(psycopg.errors.DivisionByZero):
                await _divided(pool, divisor)


async def _divided(pool: Pool, divisor: int) -> int:
    async with pool.pipeline() as conn:
        await conn.execute("SELECT 1 / %(divisor)s::int", {"divisor": divisor})
        cursor = await conn.execute("SELECT 42 * %(one)s::int", {"one": 1})
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def test_many_who_wait_in_turn_all_get_a_connection(settings: Settings) -> None:
    """Issue: of 200 runs at once on a busy machine some failed, because each waited 5 s at most, whoever else got one."""
    one = settings.model_copy(update={"api_connections": 2})
    took: list[float] = []
    async with open_api_pool(one, str(settings.database_uri)) as pool, anyio.create_task_group() as tasks:
        assert await _divided(pool, 1) == 42
        pool.timeout = 1.0

        async def work() -> None:
            began = anyio.current_time()
            async with pool.connection() as conn:
                took.append(anyio.current_time() - began)
                await conn.execute("SELECT pg_sleep(0.05)")

        for _ in range(120):
            tasks.start_soon(work)

    assert len(took) == 120
    assert max(took) > 1.5 * pool.timeout


async def test_who_waits_while_nobody_gets_a_connection_is_refused_in_time(settings: Settings) -> None:
    """Ours: the wait of 30 s is for a queue that moves. Nothing is lost of the pool by it."""
    one = settings.model_copy(update={"api_connections": 1})
    async with open_api_pool(one, str(settings.database_uri)) as pool:
        async with pool.connection():
            pool.timeout = 0.2
            with anyio.fail_after(5), pytest.raises(PoolTimeout, match="no connection became free"):
                await _divided(pool, 1)
            pool.timeout = 5.0

        assert await _divided(pool, 1) == 42


async def test_postgres_that_hangs_keeps_nobody_waiting_for_ever(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: every request ends; the connection is not used again, and the next one works."""
    monkeypatch.setattr(connection, "RESPONSE_TIMEOUT_S", 0.5)
    one = settings.model_copy(update={"api_connections": 1})
    async with proxied(str(settings.database_uri)) as (proxy, uri), open_api_pool(one, uri) as pool:
        assert await _divided(pool, 1) == 42
        proxy.swallows = True
        with anyio.fail_after(5), pytest.raises(psycopg.OperationalError):
            await _divided(pool, 1)
        proxy.close_hole()

        assert await _divided(pool, 1) == 42
