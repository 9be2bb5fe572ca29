"""Scheduler: each tick of a cron starts one run, in the whole fleet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import anyio
import anyio.to_thread
import psycopg
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from graphs import GRAPHS, Gate
from threadkeep.api.operation import STATE, AppState
from threadkeep.app import create_app
from threadkeep.base.problems import ValidationFailed
from threadkeep.duties import cron_schedule, cron_scheduler
from threadkeep.duties.cron_scheduler import CronScheduler
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings
from threadkeep.tables import crons

YEARLY = "0 0 1 1 *"
BERLIN = ZoneInfo("Europe/Berlin")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[AppState]:
    """A process that serves the test graphs, with all its duties."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in GRAPHS.items()}
    app = await anyio.to_thread.run_sync(create_app, settings, str(settings.database_uri), loaded)
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        yield state[STATE]


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[AppState]:
    """A process beside the server of `client`, on the same database."""
    async with opened(settings) as process:
        yield process


async def schedule_once(process: AppState) -> float:
    """One round of the duty."""
    return await CronScheduler(pool=process.pool, graphs=process.graphs, runs=process.runs).run_once()


async def _due(process: AppState, cron_id: str, ago: timedelta = timedelta(seconds=1)) -> None:
    """The cron's tick has come `ago`."""
    async with process.pool.connection() as conn:
        await conn.execute("UPDATE crons SET next_run_date = now() - %s WHERE cron_id = %s", (ago, cron_id))


async def _settled(process: AppState) -> list[tuple[str, datetime | None]]:
    """Each cron with its next tick, when no process is firing any more."""
    async with process.pool.connection() as conn, conn.transaction():
        cursor = await conn.execute("SELECT cron_id::text, next_run_date FROM crons ORDER BY cron_id FOR UPDATE")
        return await cursor.fetchall()


async def _runs(process: AppState) -> list[str]:
    """The cron of each run there is."""
    async with process.pool.connection() as conn:
        cursor = await conn.execute("SELECT metadata ->> 'cron_id' FROM runs ORDER BY 1")
        return [row[0] for row in await cursor.fetchall()]


async def _made(client: LangGraphClient, **fields: Any) -> str:
    made: dict[str, Any] = dict(
        await client.crons.create(
            fields.pop("assistant_id", "chain"),
            **{"schedule": YEARLY, "on_run_completed": "keep", "input": {}} | fields,
        )
    )
    return made["cron_id"]


async def test_each_tick_is_fired_once_by_however_many_processes(client: LangGraphClient, settings: Settings) -> None:
    """Ours: three processes on one database."""
    made = sorted([await _made(client) for _ in range(12)])
    async with opened(settings) as first, opened(settings) as second:
        for cron_id in made:
            await _due(first, cron_id)

        async with anyio.create_task_group() as tasks:
            for process in (first, second, first, second):
                tasks.start_soon(schedule_once, process)

        assert [cron_id for cron_id, at in await _settled(first) if at and at > datetime.now(UTC)] == made
        assert await _runs(first) == made


async def test_missed_ticks_are_replaced_by_one_run(client: LangGraphClient, process: AppState) -> None:
    """Ours: after three days of silence a cron of every minute runs once."""
    cron_id = await _made(client, schedule="* * * * *")
    await _due(process, cron_id, timedelta(days=3))

    await schedule_once(process)

    [(_, next_run_date)] = await _settled(process)
    assert next_run_date is not None
    assert timedelta(0) < next_run_date - datetime.now(UTC) <= timedelta(minutes=1)
    assert (await _runs(process)).count(cron_id) == 1


async def test_tick_of_a_process_that_dies_while_it_fires_is_left_to_another(
    client: LangGraphClient, process: AppState, database: str
) -> None:
    """Ours: a tick is held, and never taken before its run is there."""
    cron_id = await _made(client)
    async with await psycopg.AsyncConnection.connect(database) as dying:
        claimed = None
        while claimed is None:  # the servers' own schedulers may be quicker
            await dying.rollback()
            await _due(process, cron_id)
            claimed = await crons.claim(dying, UUID(cron_id))
        before = await _runs(process)
        await crons.advance(dying, UUID(cron_id), None)
        await schedule_once(process)
        meanwhile = await _runs(process)
        await dying.close()

    await schedule_once(process)

    await _settled(process)
    assert (meanwhile, await _runs(process)) == (before, [*before, cron_id])


async def test_a_tick_in_the_near_future_is_not_missed(client: LangGraphClient, gate: Gate) -> None:
    """Ours: a new cron wakes the scheduler, which looks by itself only each five seconds."""
    assert cron_scheduler.POLL_S == 5
    await client.crons.create("gated", schedule="* * * * * *", input={})

    with anyio.fail_after(4):
        await gate.entered()


async def test_run_of_a_cron_knows_its_cron_and_leaves_no_thread(
    client: LangGraphClient, process: AppState, gate: Gate
) -> None:
    """Protocol: metadata and configurable have the `cron_id`; `on_run_completed` is `delete`, unless said otherwise."""
    made: dict[str, Any] = dict(
        await client.crons.create("gated", schedule=YEARLY, input={"items": ["in"]}, metadata={"team": "a"})
    )
    cron_id = made["cron_id"]
    await _due(process, cron_id)
    await schedule_once(process)
    await gate.entered()
    [thread] = await client.threads.search(metadata={"cron_id": cron_id})
    [run] = await client.runs.list(thread["thread_id"])

    gate.open()

    assert run["metadata"]["team"] == "a"
    assert run["metadata"]["cron_id"] == cron_id
    kwargs: Any = run["kwargs"]
    assert kwargs["config"]["configurable"] == {"cron_id": cron_id}
    with anyio.fail_after(5):
        while await client.threads.search():
            await anyio.sleep(0.05)


async def test_cron_on_a_thread_goes_on_with_it(client: LangGraphClient, process: AppState) -> None:
    """Protocol: every run of such a cron is on the one thread."""
    thread = await client.threads.create()
    made: dict[str, Any] = dict(
        await client.crons.create_for_thread(thread["thread_id"], "chain", schedule=YEARLY, input={"items": ["in"]})
    )

    for _ in range(2):
        await _due(process, made["cron_id"])
        await schedule_once(process)
        await _settled(process)
        [run, *_] = await client.runs.list(thread["thread_id"])
        await client.runs.join(thread["thread_id"], run["run_id"])

    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"] == {"items": ["in", "first", "second"] * 2}


async def test_a_tick_on_a_busy_thread_is_skipped_if_the_strategy_is_reject(
    client: LangGraphClient, process: AppState, gate: Gate
) -> None:
    """Protocol: `multitask_strategy`. Ours: that tick is gone, the next one comes."""
    thread = await client.threads.create()
    made: dict[str, Any] = dict(
        await client.crons.create_for_thread(
            thread["thread_id"], "chain", schedule=YEARLY, multitask_strategy="reject", input={}
        )
    )
    await client.runs.create(thread["thread_id"], "gated", input={})
    await gate.entered()
    await _due(process, made["cron_id"])

    await schedule_once(process)

    [(_, next_run_date)] = await _settled(process)
    assert next_run_date == datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)
    assert await _runs(process) == [None]
    gate.open()  # a process that ends waits 20 s for its runs


async def test_disabled_and_ended_crons_do_not_fire(client: LangGraphClient, process: AppState) -> None:
    """Protocol: `enabled`, `end_time`."""
    disabled = await _made(client, enabled=False)
    ended = await _made(client, end_time=datetime.now(UTC) + timedelta(days=400))
    await client.crons.update(ended, enabled=False)
    async with process.pool.connection() as conn:
        await conn.execute("UPDATE crons SET end_time = now() - interval '1 s', enabled = (cron_id = %s)", (ended,))
    await _due(process, disabled)
    await _due(process, ended)

    await schedule_once(process)

    found = dict(await _settled(process))
    assert found[ended] is None
    assert found[disabled] is not None
    assert await _runs(process) == []


async def test_a_cron_without_its_graph_does_not_delay_others(
    client: LangGraphClient, process: AppState, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: it is passed over with a warning, and the others run."""
    orphan, broken, sound = [await _made(client) for _ in range(3)]
    async with process.pool.connection() as conn:
        await conn.execute("UPDATE crons SET assistant_id = gen_random_uuid() WHERE cron_id = %s", (orphan,))
        await conn.execute("""UPDATE crons SET payload = '{"stream_mode": 7}' WHERE cron_id = %s""", (broken,))
    for cron_id, ago in ((orphan, 3), (broken, 2), (sound, 1)):
        await _due(process, cron_id, timedelta(seconds=ago))

    await schedule_once(process)

    assert all(at and at > datetime.now(UTC) for _, at in await _settled(process))
    assert await _runs(process) == [sound]
    warnings = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert warnings == {
        "cron skipped: its assistant or graph does not exist",
        "cron skipped: its run was refused",
    }


async def test_waiting_time_ends_with_the_next_tick(client: LangGraphClient, process: AppState) -> None:
    """Ours: seconds to the next tick, five at most, none for what is disabled."""
    assert await schedule_once(process) == cron_scheduler.POLL_S
    cron_id = await _made(client)
    await _due(process, cron_id, timedelta(seconds=-2))

    assert 0 <= await schedule_once(process) <= 2

    await client.crons.update(cron_id, enabled=False)
    assert await schedule_once(process) == cron_scheduler.POLL_S


@pytest.mark.parametrize(
    ("schedule", "after", "tick"),
    [
        pytest.param("30 2 * * *", "2026-03-29T00:00Z", "2026-03-29T01:00Z", id="the hour is left out"),
        pytest.param("30 2 * * *", "2026-03-29T01:00Z", "2026-03-30T00:30Z", id="once on that day"),
        pytest.param("30 2 * * *", "2026-10-24T22:00Z", "2026-10-25T00:30Z", id="the first of two hours"),
        pytest.param("30 2 * * *", "2026-10-25T00:30Z", "2026-10-26T01:30Z", id="not the second"),
        pytest.param("30 2 * * *", "2026-10-25T01:10Z", "2026-10-26T01:30Z", id="asked for in between"),
        pytest.param("*/30 * * * *", "2026-10-25T00:30Z", "2026-10-25T01:00Z", id="every half hour all the same"),
        pytest.param("0 9 * * MON", "2026-03-28T00:00Z", "2026-03-30T07:00Z", id="nine is nine in summer"),
        pytest.param("0 9 * * * 15", "2026-03-28T00:00Z", "2026-03-28T08:00:15Z", id="with seconds"),
    ],
)
def test_tick_is_of_the_crons_zone(schedule: str, after: str, tick: str) -> None:
    """Ours: a cron of a fixed hour runs once a day, on the days on which the clocks change, too."""
    found = cron_schedule.next_fire_time(schedule, BERLIN, datetime.fromisoformat(after))

    assert found == datetime.fromisoformat(tick)


def test_schedule_without_a_date_is_refused() -> None:
    """Ours: it would be asked for its next date for ever."""
    with pytest.raises(ValidationFailed):
        cron_schedule.next_fire_time("0 0 30 2 *", UTC, datetime.now(UTC))


async def test_runs_of_crons_count_as_their_owners(settings: Settings, gate: Gate) -> None:
    """Issue: they were not counted, so that one user's filled the queue of all."""
    chosen = settings.model_copy(update={"run_slots": 1, "max_queued_per_principal": 3})
    async with serving(chosen) as url, get_client(url=url, api_key=None) as client, opened(chosen) as process:
        made = [await _made(client, assistant_id="gated") for _ in range(8)]
        async with process.pool.connection() as conn:
            await conn.execute("""UPDATE crons SET principal = '{"identity": "ada", "permissions": []}'""")
        for cron_id in made:
            await _due(process, cron_id)
        await schedule_once(process)
        await _settled(process)
        number = len(await _runs(process))

    assert 3 <= number <= 3 + 2, "what waits, and what two processes with a slot each have begun"


async def test_a_cron_above_a_lowered_recursion_limit_is_skipped(settings: Settings) -> None:
    """Issue: the cap of `recursion_limit` held for the creation of a cron, and not for its runs."""
    above: Any = {"recursion_limit": 51}
    async with serving(settings) as url, get_client(url=url, api_key=None) as client:
        assistant = await client.assistants.create("chain", above)
        made = [await _made(client, config=above), await _made(client, assistant_id=assistant["assistant_id"])]
        allowed = await _made(client, config={"recursion_limit": 50})
    async with opened(settings.model_copy(update={"max_recursion": 50})) as process:
        for cron_id in [*made, allowed]:
            await _due(process, cron_id)
        await schedule_once(process)
        found = await _runs(process)

    assert found == [allowed]
