"""Updates in place: a run's end changes its thread's row, and no index (a heap-only tuple of Postgres)."""

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from threadkeep.base import ids

AT_ONCE = 12
"""Runs that a server executes at once by default."""
THREADS = 600


async def test_the_first_run_of_a_thread_writes_no_index_of_threads_again(database: str) -> None:
    """Ours: most updates, with pages that other new threads fill at the same time, and values of a short conversation."""
    threads = [ids.uuid7() for _ in range(THREADS)]
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        for number in range(THREADS + AT_ONCE):
            if number < THREADS:
                await conn.execute(
                    "INSERT INTO threads (thread_id, project_id, status, first_message) VALUES (%s, 'p', 'busy', 'hi')",
                    [threads[number]],
                )
            if number >= AT_ONCE:
                await conn.execute(
                    """UPDATE threads SET status = 'idle', "values" = %s WHERE thread_id = %s""",
                    [Jsonb({"messages": ["x" * 600]}), threads[number - AT_ONCE]],
                )
        await conn.execute("SELECT pg_stat_force_next_flush()")
        updates = await conn.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'threads'::regclass"
        )
        row = await updates.fetchone()

    assert row is not None
    assert row[0] == THREADS
    assert row[1] / THREADS > 0.6
