"""Plans that were made while there was next to nothing."""

import uuid

import httpx
import psycopg
import pytest

from conftest import WAIT_S, serving
from threadkeep.settings import Settings

RUNS = 30


@pytest.mark.parametrize("made", [0, 3])
async def test_tables_that_were_analyzed_while_small_are_not_read_whole(settings: Settings, made: int) -> None:
    """Ours: Postgres keeps such a plan until it next analyzes the table; each run then read every thread and every run."""
    uri = str(settings.database_uri)
    async with (
        serving(settings.model_copy(update={"reaper_interval_s": 600})) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http,
    ):
        for _ in range(made):
            await _run(http)
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("ANALYZE")
        before = _whole_reads(uri)
        for _ in range(RUNS):
            await _run(http)

    assert _whole_reads(uri) - before < RUNS, "of both tables, by all that goes on in a process"


async def _run(http: httpx.AsyncClient) -> None:
    body: dict[str, object] = {"assistant_id": "chain", "input": {"items": []}, "if_not_exists": "create"}
    answer = await http.post(f"/threads/{uuid.uuid4()}/runs/wait", json=body)
    assert answer.status_code == 200, answer.text


def _whole_reads(uri: str) -> int:
    """Of the tables that grow with each run; what a connection has counted is there when it has ended."""
    with psycopg.connect(uri) as conn:
        row = conn.execute(
            "SELECT sum(seq_scan)::int FROM pg_stat_user_tables WHERE relname IN ('threads', 'runs')"
        ).fetchone()
    assert row is not None
    return row[0]
