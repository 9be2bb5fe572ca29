"""The response to a waiting client if a crash of Postgres loses its run."""

import anyio
import httpx
import psycopg

from conftest import serving
from graphs import Gate
from new_runs import new_run
from threadkeep.base import ids
from threadkeep.postgres import pool
from threadkeep.postgres.tenancy import UNRESTRICTED
from threadkeep.settings import Settings
from threadkeep.tables.run_creation import create_run_in_transaction


async def test_a_waiting_client_gets_only_a_run_that_is_in_postgres(settings: Settings, gate: Gate) -> None:
    """Ours: acknowledged means in Postgres. A crash may take what was not flushed; 503, and not a 200 with an error."""
    answers: list[httpx.Response] = []

    async def wait() -> None:
        body: dict[str, object] = {"assistant_id": "gated", "input": {"items": []}, "if_not_exists": "create"}
        answers.append(await http.post(f"/threads/{ids.uuid7()}/runs/wait", json=body))

    async with (
        serving(settings.model_copy(update={"lease_s": 120})) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as http,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(wait)
        await gate.entered()
        async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
            await conn.execute("DELETE FROM runs")  # as a crash leaves it
            await conn.execute("DELETE FROM crash_markers")

    (answer,) = answers
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "content-location" not in answer.headers


async def test_a_reader_of_a_run_whose_end_is_refused_gets_no_error(settings: Settings, gate: Gate) -> None:
    """Ours: a run that is made again has not failed. With a crash the lease is lost, and its end is the first to learn."""
    events: list[str] = []

    async def read() -> None:
        body: dict[str, object] = {"assistant_id": "gated", "input": {"items": []}, "if_not_exists": "create"}
        async with http.stream("POST", f"/threads/{ids.uuid7()}/runs/stream", json=body) as answer:
            events.extend([line async for line in answer.aiter_lines() if line.startswith(("event:", "data:"))])

    async with (
        serving(settings.model_copy(update={"lease_s": 120})) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as http,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read)
        await gate.entered()
        async with await psycopg.AsyncConnection.connect(str(settings.database_uri), autocommit=True) as conn:
            await conn.execute("DELETE FROM crash_markers")
        gate.open()

    assert "event: error" not in events
    assert events[-2:] == ["event: values", 'data: {"items":["gated"]}']


async def test_only_a_run_that_starts_at_once_is_created_without_a_flush(settings: Settings) -> None:
    """Ours: any process may start a queued run and report it."""
    thread_id, seen = ids.uuid7(), list[object]()
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api_pool:
        for _ in range(2):
            async with api_pool.connection() as conn, conn.transaction():
                opened = await create_run_in_transaction(conn, UNRESTRICTED, new_run(thread_id, ids.uuid7()))
                flushed = await (await conn.execute("SHOW synchronous_commit")).fetchone()
            seen.append((opened.run and opened.run.status, flushed))

    assert seen == [("running", ("off",)), ("pending", ("on",))]
