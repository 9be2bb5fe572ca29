"""Runs that are opened at once."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import psycopg
import pytest

from conftest import WAIT_S
from new_runs import new_run
from threadkeep.base import ids
from threadkeep.postgres import pool
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import EVERYTHING
from threadkeep.settings import Settings
from threadkeep.tables import queue
from threadkeep.tables.run_creation import NewRun, Opened, Openings, opening

WORKER = ids.uuid7()


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Pool]:
    async with pool.open_api_pool(settings, str(settings.database_uri)) as api:
        yield api


@pytest.fixture
async def openings(api: Pool) -> AsyncIterator[Openings]:
    async with opening(api) as openings:
        yield openings


async def _all(openings: Openings, *wanted: NewRun) -> list[Opened | psycopg.Error]:
    """What becomes of runs that are asked for at once."""
    found: dict[int, Opened | psycopg.Error] = {}

    async def ask(number: int, new: NewRun) -> None:
        try:
            found[number] = await openings.open_run(EVERYTHING, new)
        except psycopg.Error as error:
            found[number] = error

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            for number, new in enumerate(wanted):
                tasks.start_soon(ask, number, new)
    return [found[number] for number in range(len(wanted))]


def _of(found: Opened | psycopg.Error) -> tuple[str | None, bool]:
    assert isinstance(found, Opened)
    return found.run and found.run.status, found.new_thread


async def test_each_gets_its_own_answer(openings: Openings) -> None:
    """Ours: on threads of their own all begin, and of one thread the first."""
    thread = ids.uuid7()
    wanted = [
        new_run(ids.uuid7(), WORKER),
        new_run(thread, WORKER),
        new_run(ids.uuid7(), WORKER),
        new_run(thread, WORKER),
    ]

    found = await _all(openings, *wanted)

    assert [_of(one) for one in found] == [("running", True), ("running", True), ("running", True), ("pending", False)]
    assert [one.run.run_id for one in found if isinstance(one, Opened) and one.run] == [new.run_id for new in wanted]


async def test_one_that_can_not_be_opened_takes_no_other_along(openings: Openings) -> None:
    """Ours: an id that is taken fails alone."""
    taken = new_run(ids.uuid7(), WORKER)
    await openings.open_run(EVERYTHING, taken)
    again = replace(taken, thread_id=ids.uuid7())

    first, second, third = await _all(openings, new_run(ids.uuid7(), WORKER), again, new_run(ids.uuid7(), WORKER))

    assert isinstance(second, psycopg.errors.UniqueViolation)
    assert [_of(first), _of(third)] == [("running", True)] * 2


async def test_one_on_a_thread_that_somebody_holds_keeps_no_other_waiting(api: Pool, openings: Openings) -> None:
    """Ours: it waits for the thread by itself."""
    held = ids.uuid7()
    await openings.open_run(EVERYTHING, new_run(held, WORKER))
    waiting: list[Opened] = []

    async def ask() -> None:
        waiting.append(await openings.open_run(EVERYTHING, new_run(held, WORKER)))

    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, api.connection() as conn, conn.transaction():
            await queue.lock_thread(conn, held)
            tasks.start_soon(ask)
            [free] = await _all(openings, new_run(ids.uuid7(), WORKER))
            assert _of(free) == ("running", True)
            assert waiting == []

    assert [_of(one) for one in waiting] == [("pending", False)]


async def test_run_on_a_thread_that_is_not_there_is_not_opened(openings: Openings) -> None:
    """Ours: nor are the others kept."""
    absent = replace(new_run(ids.uuid7(), WORKER), create_thread=False)

    found, other = await _all(openings, absent, new_run(ids.uuid7(), WORKER))

    assert isinstance(found, Opened)
    assert (found.run, found.thread_found) == (None, False)
    assert _of(other) == ("running", True)


async def test_two_processes_that_make_the_same_threads_do_not_wait_for_each_other(api: Pool) -> None:
    """Ours: however they come, one of the two begins on each thread, and the other waits in line."""
    async with opening(api) as here, opening(api) as there:
        for _ in range(5):
            threads = [ids.uuid7() for _ in range(10)]
            found: list[list[Opened | psycopg.Error]] = []

            async def ask(openings: Openings, wanted: list[NewRun], found: list[list[Opened | psycopg.Error]]) -> None:
                found.append(await _all(openings, *wanted))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, here, [new_run(one, WORKER) for one in threads], found)
                tasks.start_soon(ask, there, [new_run(one, WORKER) for one in reversed(threads)], found)

            assert sorted(str(_of(one)[0]) for one in itertools.chain(*found)) == ["pending"] * 10 + ["running"] * 10
