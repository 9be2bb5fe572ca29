"""Runs that are opened at once."""

import itertools
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields, replace
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import WAIT_S
from new_runs import new_run
from threadkeep.base import ids
from threadkeep.postgres import pool
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters, enable_row_security
from threadkeep.settings import Settings
from threadkeep.tables import TENANT_TABLES, queue
from threadkeep.tables.run_creation import (
    MAX_BATCH_SIZE,
    Arguments,
    NewRun,
    RunCreation,
    RunCreator,
    create_run_in_transaction,
    open_run_creator,
)
from threadkeep.tables.threads import Ttl

WORKER = ids.uuid7()
ADA, BOB = Filters({"owner": "ada"}, store_prefix="owner:ada"), Filters({"owner": "bob"}, store_prefix="owner:bob")


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        yield api


@pytest.fixture
async def openings(api: Pool) -> AsyncIterator[RunCreator]:
    async with open_run_creator(api) as openings:
        yield openings


async def _all(openings: RunCreator, *wanted: NewRun) -> list[RunCreation | psycopg.Error]:
    """The results of runs that are requested at once."""
    return await _all_of(openings, *((UNRESTRICTED, new) for new in wanted))


async def _all_of(openings: RunCreator, *wanted: tuple[Filters, NewRun]) -> list[RunCreation | psycopg.Error]:
    """The same, each asked for by a caller."""
    created: dict[int, RunCreation | psycopg.Error] = {}

    async def ask(number: int, filters: Filters, new: NewRun) -> None:
        try:
            created[number] = await openings.create_run(filters, new)
        except psycopg.Error as error:
            created[number] = error

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            for number, (filters, new) in enumerate(wanted):
                tasks.start_soon(ask, number, filters, new)
    return [created[number] for number in range(len(wanted))]


def _of(created: RunCreation | psycopg.Error) -> tuple[str | None, bool]:
    assert isinstance(created, RunCreation)
    return created.run and created.run.status, created.thread_created


async def test_each_request_of_a_batch_gets_its_own_result(openings: RunCreator) -> None:
    """Ours: on threads of their own all begin, and of one thread the first."""
    thread = ids.uuid7()
    wanted = [
        new_run(ids.uuid7(), WORKER),
        new_run(thread, WORKER),
        new_run(ids.uuid7(), WORKER),
        new_run(thread, WORKER),
    ]

    created = await _all(openings, *wanted)

    assert [_of(one) for one in created] == [
        ("running", True),
        ("running", True),
        ("running", True),
        ("pending", False),
    ]
    assert [one.run.run_id for one in created if isinstance(one, RunCreation) and one.run] == [
        new.run_id for new in wanted
    ]


async def test_a_batch_creates_the_same_rows_as_a_single_call(api: Pool, openings: RunCreator) -> None:
    """Ours: three new threads are inserted by one statement, and a single one by another."""
    new = replace(
        new_run(ids.uuid7(), WORKER),
        metadata={"of": "run"},
        assistant_metadata={"of_assistant": "it"},
        kwargs=b'{"input": {"n": [1, 1.5, "\xc3\xa4", null]}}',
        principal=b'{"identity": "ada"}',
        multitask_strategy="reject",
        delay_s=3600,
        ephemeral=True,
        record_events=False,
        thread_ttl=Ttl(strategy="delete", minutes=7.5),
    )
    *batch, other = [replace(new, run_id=ids.uuid7(), thread_id=ids.uuid7()) for _ in range(4)]

    await _all_of(openings, *((ADA, run) for run in batch))
    async with api.connection(ADA) as conn, conn.transaction():
        await create_run_in_transaction(conn, ADA, other)

    async with api.connection() as conn:
        batched, *others, single = [await _rows_of(conn, run) for run in (*batch, other)]
        cursor = await conn.execute(
            "SELECT count(DISTINCT xmin::text) FROM runs WHERE run_id = ANY(%s)", [[run.run_id for run in batch]]
        )
        assert await cursor.fetchone() == (1,)
    assert batched == single
    assert [batched] * 2 == others
    assert (batched["run multitask_strategy"], batched["run principal"]) == ("reject", {"identity": "ada"})


async def test_every_field_of_a_request_is_read_under_its_name(api: Pool) -> None:
    """Ours: Postgres checks no key of JSON, so a key that no function reads would be lost."""
    async with api.connection() as conn:
        cursor = await conn.execute("SELECT proargnames, prosrc FROM pg_proc WHERE proname = 'run_requests'")
        requests = await cursor.fetchone()
        cursor = await conn.execute(
            """
            SELECT string_agg(prosrc, '') FROM pg_proc
             WHERE proname IN ('create_run', 'create_runs_on_new_threads')
            """
        )
        readers = await cursor.fetchone()

    assert requests is not None
    assert readers is not None
    columns = requests[0][4:]  # after the two arguments, the ordinal and the restriction
    record = re.search(r"AS field\((.*?)\)", requests[1], re.DOTALL)
    assert record is not None
    assert re.findall(r"(\w+) \w+(?:,|$)", record[1]) == columns == [each.name for each in fields(Arguments)]
    assert [name for name in columns if not re.search(rf"\b{name}\b", readers[0])] == []


async def test_a_run_is_created_with_each_field_in_its_place(api: Pool) -> None:
    """Ours: the call of `create_run` is by position, and two fields of one type could change places."""
    async with api.connection() as conn:
        cursor = await conn.execute(
            "SELECT proname, proargnames[1:pronargs], prosrc FROM pg_proc WHERE proname IN ('create_run', 'create_runs')"
        )
        functions = {name: (arguments, source) for name, arguments, source in await cursor.fetchall()}

    call = re.search(r"create_run\((.*?)\);", functions["create_runs"][1], re.DOTALL)
    assert call is not None
    assert re.findall(r"(?:request\.)?(\w+)(?:,|$)", call[1]) == functions["create_run"][0]


async def _rows_of(conn: Conn, new: NewRun) -> dict[str, Any]:
    """The columns of the run and of its thread, without those that differ between two of them: ids and times."""
    done = await conn.execute(
        """
        SELECT run_after - runs.created_at AS delay, to_jsonb(runs) AS run, to_jsonb(threads) AS thread
          FROM runs JOIN threads USING (thread_id)
         WHERE run_id = %(run_id)s
        """,
        {"run_id": new.run_id},
    )
    row = await done.fetchone()
    assert row is not None
    delay, run, thread = row[0], row[1].load(), row[2].load()
    own = {"run_id", "thread_id", "queue_position"}
    times = {name for name in run.keys() | thread.keys() if name.endswith(("_at", "_until", "_after"))}
    assert {"started_at", "ephemeral_until", "run_after"} <= times
    return {
        "delay": delay,
        **{f"run {name}": value for name, value in run.items() if name not in own | times},
        **{f"thread {name}": value for name, value in thread.items() if name not in own | times},
        **{f"has {name}": thread.get(name, run.get(name)) is not None for name in times},
    }


async def test_a_run_that_cannot_be_created_does_not_fail_others(openings: RunCreator) -> None:
    """Ours: an id that is taken fails alone."""
    taken = new_run(ids.uuid7(), WORKER)
    await openings.create_run(UNRESTRICTED, taken)
    again = replace(taken, thread_id=ids.uuid7())

    first, second, third = await _all(openings, new_run(ids.uuid7(), WORKER), again, new_run(ids.uuid7(), WORKER))

    assert isinstance(second, psycopg.errors.UniqueViolation)
    assert [_of(first), _of(third)] == [("running", True)] * 2


async def test_a_run_on_a_locked_thread_does_not_delay_others(api: Pool, openings: RunCreator) -> None:
    """Ours: it waits for the thread by itself."""
    held = ids.uuid7()
    await openings.create_run(UNRESTRICTED, new_run(held, WORKER))
    waiting: list[RunCreation] = []

    async def ask() -> None:
        waiting.append(await openings.create_run(UNRESTRICTED, new_run(held, WORKER)))

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, api.connection() as conn, conn.transaction():
            await queue.lock_thread(conn, held)
            tasks.start_soon(ask)
            [free] = await _all(openings, new_run(ids.uuid7(), WORKER))
            assert _of(free) == ("running", True)
            assert waiting == []

    assert [_of(one) for one in waiting] == [("pending", False)]


async def test_a_run_on_a_missing_thread_is_not_created(openings: RunCreator) -> None:
    """Ours: nor are the others kept."""
    absent = replace(new_run(ids.uuid7(), WORKER), create_thread=False)

    created, other = await _all(openings, absent, new_run(ids.uuid7(), WORKER))

    assert isinstance(created, RunCreation)
    assert (created.run, created.thread_found) == (None, False)
    assert _of(other) == ("running", True)


async def test_two_processes_that_create_the_same_threads_do_not_deadlock(api: Pool) -> None:
    """Ours: however they come, one of the two begins on each thread, and the other waits in line."""
    async with open_run_creator(api) as here, open_run_creator(api) as there:
        for _ in range(5):
            threads = [ids.uuid7() for _ in range(10)]
            created: list[list[RunCreation | psycopg.Error]] = []

            async def ask(
                openings: RunCreator, wanted: list[NewRun], created: list[list[RunCreation | psycopg.Error]]
            ) -> None:
                created.append(await _all(openings, *wanted))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, here, [new_run(one, WORKER) for one in threads], created)
                tasks.start_soon(ask, there, [new_run(one, WORKER) for one in reversed(threads)], created)

            assert sorted(str(_of(one)[0]) for one in itertools.chain(*created)) == ["pending"] * 10 + ["running"] * 10


async def test_principals_are_served_round_robin(api: Pool, openings: RunCreator) -> None:
    """Issue: the run of one waited behind all that another had asked for. Within one they stay in order."""
    bad = [replace(new_run(ids.uuid7(), None), holder="bad") for _ in range(2 * MAX_BATCH_SIZE)]
    good = replace(new_run(ids.uuid7(), None), holder="good")

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, api.connection() as conn, conn.transaction():
            await conn.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            tasks.start_soon(openings.create_run, UNRESTRICTED, new_run(ids.uuid7(), None))
            await _until_one_waits(conn)
            for new in (*bad, good):
                tasks.start_soon(openings.create_run, UNRESTRICTED, new)
            await anyio.wait_all_tasks_blocked()
    async with api.connection() as conn:
        cursor = await conn.execute("SELECT array_agg(run_id) FROM runs GROUP BY xmin ORDER BY xmin::text::bigint")
        transactions = [set(row[0]) for row in await cursor.fetchall()]

    assert [len(opened) for opened in transactions] == [1, MAX_BATCH_SIZE, MAX_BATCH_SIZE, 1]
    assert transactions[1] == {good.run_id, *(new.run_id for new in bad[: MAX_BATCH_SIZE - 1])}


async def _until_one_waits(conn: Conn) -> None:
    """Wait until a statement waits for a lock."""
    while True:
        cursor = await conn.execute(
            "SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        if cursor.rowcount:
            return
        await anyio.sleep(0.02)


@pytest.fixture
async def row_security(api: Pool) -> None:
    await enable_row_security(api, tables=TENANT_TABLES, needed=True)
    assert api.row_security


@pytest.mark.usefixtures("row_security")
async def test_runs_of_several_callers_are_created_in_one_transaction_on_their_own_threads(
    api: Pool, openings: RunCreator
) -> None:
    """Issue 14: with API keys as fast as without. The owner of the thread is checked for each run."""
    hers, new = ids.uuid7(), [new_run(ids.uuid7(), WORKER) for _ in range(3)]
    await openings.create_run(ADA, new_run(hers, WORKER))

    created = await _all_of(openings, (ADA, new[0]), (BOB, new_run(hers, WORKER)), (BOB, new[1]), (ADA, new[2]))

    assert [_of(one) for one in created] == [("running", True), (None, False), ("running", True), ("running", True)]
    async with api.connection() as conn:
        cursor = await conn.execute(
            """
            SELECT threads.metadata ->> 'owner', runs.xmin::text
              FROM threads JOIN runs USING (thread_id)
             WHERE thread_id = ANY(%(threads)s) ORDER BY array_position(%(threads)s, thread_id)
            """,
            {"threads": [one.thread_id for one in new]},
        )
        rows = await cursor.fetchall()
    assert [owner for owner, _ in rows] == ["ada", "bob", "ada"]
    assert len({transaction for _, transaction in rows}) == 1


@pytest.mark.usefixtures("row_security")
async def test_row_level_security_holds_for_each_run_of_a_batch(
    api: Pool, openings: RunCreator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: Postgres checks the owner even if the statement does not. The connection keeps no role afterwards."""
    hers, his = ids.uuid7(), ids.uuid7()
    await _all_of(openings, (ADA, new_run(hers, WORKER)), (BOB, new_run(his, WORKER)))
    monkeypatch.setattr(Filters, "jsonb", property(lambda _: Jsonb({})))

    created = await _all_of(openings, (BOB, new_run(hers, None)), (ADA, new_run(hers, None)), (ADA, new_run(his, None)))

    assert [_of(one) for one in created] == [(None, False), ("pending", False), (None, False)]
    async with api.connection() as conn:
        cursor = await conn.execute(
            "SELECT current_user = session_user, coalesce(current_setting('threadkeep.metadata_filter', true), '')"
        )
        assert await cursor.fetchone() == (True, "")


@pytest.mark.usefixtures("row_security")
async def test_row_level_security_checks_each_new_thread_of_a_batch(
    api: Pool, openings: RunCreator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: the threads of a batch are inserted by one statement, and each must belong to the caller of its own run."""
    with_owner = Filters.with_owner

    def with_false_owner(filters: Filters, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        return with_owner(BOB if metadata == {"of": "bob"} else filters, metadata)

    monkeypatch.setattr(Filters, "with_owner", with_false_owner)
    wanted = [(filters, new_run(ids.uuid7(), WORKER)) for filters in (ADA, BOB) * 6]
    stolen = replace(new_run(ids.uuid7(), WORKER), metadata={"of": "bob"})

    *created, refused = await _all_of(openings, *wanted, (ADA, stolen))

    assert [_of(one) for one in created] == [("running", True)] * len(wanted)
    assert isinstance(refused, psycopg.errors.InsufficientPrivilege)


@pytest.mark.usefixtures("row_security")
async def test_a_run_on_a_locked_thread_is_created_under_row_level_security_too(
    api: Pool, openings: RunCreator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: it is opened alone, once the thread is free."""
    hers, opened = ids.uuid7(), list[RunCreation]()
    await openings.create_run(ADA, new_run(hers, WORKER))
    monkeypatch.setattr(Filters, "jsonb", property(lambda _: Jsonb({})))

    async def ask(filters: Filters) -> None:
        opened.append(await openings.create_run(filters, new_run(hers, None)))

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, api.connection() as conn, conn.transaction():
            await queue.lock_thread(conn, hers)
            tasks.start_soon(ask, BOB)
            tasks.start_soon(ask, ADA)

    assert sorted(str(_of(one)[0]) for one in opened) == ["None", "pending"]


async def test_a_misspelt_argument_is_refused_by_postgres(api: Pool) -> None:
    """Ours: functions have named arguments with types, because nothing checks the keys of JSON."""
    async with api.connection() as conn:
        with pytest.raises(psycopg.errors.UndefinedFunction):
            await conn.execute("SELECT * FROM claim_run(claimer => %s, positions_per_atempt => 1)", [WORKER])
