"""Changes: rows of the change stream are read by their keys."""

import re
import uuid

from psycopg.errors import Diagnostic

from threadkeep.postgres import pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables import changes

FILL = """
    INSERT INTO threads (thread_id, project_id)
    SELECT gen_random_uuid(), %(project)s FROM generate_series(1, 20000);
    INSERT INTO runs (run_id, project_id, thread_id, assistant_id, graph_id, status, finished_at)
    SELECT gen_random_uuid(), project_id, thread_id, gen_random_uuid(), 'chain', 'success', now() FROM threads;
"""
EXPLAINED = "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET client_min_messages = log;"


async def test_changes_are_read_by_key_from_tables_that_grow_faster_than_their_statistics(settings: Settings) -> None:
    """Ours: an open page cost a run 0.2 ms of Postgres, which read all threads of the project for each batch."""
    plans: list[str] = []

    def keep(notice: Diagnostic) -> None:
        plans.append(notice.message_primary or "")

    async with (
        pool.open_api_pool(settings, str(settings.database_uri)) as api,
        api.connection(UNRESTRICTED) as conn,
        conn.cursor() as cursor,
    ):
        for statement in FILL.strip().split(";")[:-1]:
            await cursor.execute(statement.encode(), {"project": conn.project_id} if "%(" in statement else None)
        await cursor.execute("SELECT thread_id, run_id FROM runs ORDER BY queue_position DESC LIMIT 100")
        rows: list[tuple[uuid.UUID, uuid.UUID]] = await cursor.fetchall()
        await cursor.execute(EXPLAINED)
        conn.add_notice_handler(keep)
        threads = await changes.threads_of(conn, UNRESTRICTED, [rows[0][0]], [run_id for _, run_id in rows])
        runs = await changes.runs_of(conn, UNRESTRICTED, [run_id for _, run_id in rows])

    assert {thread.thread_id for thread in threads} == {thread_id for thread_id, _ in rows}
    assert {run.run_id for run in runs} == {run_id for _, run_id in rows}
    indexes = re.findall(r"(?:using|Index Scan on) (\w+)", "\n".join(plans))
    assert set(indexes) == {"threads_pkey", "runs_pkey"}
    assert "Seq Scan" not in "\n".join(plans)
