"""Coming back to a run, leaving it, and what is deleted beside it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from agui.conftest import LOADED
from agui.pages import Page, check, of_type, text, types
from conftest import WAIT_S, serving
from graphs import Gate
from threadkeep.settings import Settings


@pytest.fixture(scope="module")
async def elsewhere(module_settings: Settings, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another server on the same database."""
    async with (
        serving(module_settings, LOADED) as other,
        httpx.AsyncClient(base_url=other, timeout=WAIT_S * 2) as http,
    ):
        yield http


@pytest.fixture(scope="module")
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=url, api_key=None) as client:
        yield client


async def until(events: AsyncIterator[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The events up to the next one of a type."""
    told: list[dict[str, Any]] = []
    async for event in events:
        told.append(event)
        if event["type"] == kind:
            return told
    raise AssertionError(f"there is no {kind}")


async def test_the_same_run_id_is_the_same_run_in_any_process(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, client: LangGraphClient, gate: Gate
) -> None:
    """Contract, Coming back: all events from the start, while it runs and after its end. Never a second run."""
    page, run_id = Page(http, "gate", messages=[{"id": "1", "role": "user", "content": "hello"}]), str(uuid4())
    other = Page(elsewhere, "gate", thread_id=page.thread_id, messages=page.messages)
    async with page.stream(runId=run_id) as here, other.stream(runId=run_id) as there:
        told = await until(here, "TEXT_MESSAGE_END")
        again = await until(there, "TEXT_MESSAGE_END")
        async with page.stream(runId=run_id) as third:
            beside = await until(third, "TEXT_MESSAGE_END")
        gate.open()
        told += [event async for event in here]
        again += [event async for event in there]
    later = [await each.run(runId=run_id) for each in (page, other)]

    check(told)
    assert beside == told[: len(beside)]
    assert text(told) == "before the gate|after the gate|"
    assert [again, *later] == [told] * 3
    assert len(await client.runs.list(page.thread_id)) == 1


async def test_two_requests_with_one_run_id_at_once_make_one_run(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, client: LangGraphClient
) -> None:
    """Contract, Coming back: also if the first request is not yet let in."""
    run_id, told = str(uuid4()), list[list[dict[str, Any]]]()
    page = Page(http, "echo", messages=[{"id": "1", "role": "user", "content": "hello"}])

    async def run(each: httpx.AsyncClient) -> None:
        other = Page(each, "echo", thread_id=page.thread_id, messages=page.messages)
        told.append(await other.run(runId=run_id))

    async with anyio.create_task_group() as tasks:
        for each in (http, elsewhere) * 3:
            tasks.start_soon(run, each)

    assert told == [told[0]] * 6
    assert text(told[0]) == "You said: hello|"
    assert len(await client.runs.list(page.thread_id)) == 1


async def test_leaving_stops_the_run_unless_the_client_comes_back(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, client: LangGraphClient, gate: Gate
) -> None:
    """Contract, Leaving: after a grace of 5 s. Coming back takes the run up, and so does `on_disconnect=continue`."""
    left, kept, back = (Page(http, "gate", messages=[{"id": "1", "role": "user", "content": "x"}]) for _ in range(3))
    run_ids = {page.thread_id: str(uuid4()) for page in (left, kept, back)}
    began = anyio.current_time()
    for page, query in ((kept, "?on_disconnect=continue"), (back, ""), (left, "")):
        async with page.stream(query, runId=run_ids[page.thread_id]) as events:
            await until(events, "TEXT_MESSAGE_END")
    other = Page(elsewhere, "gate", thread_id=back.thread_id, messages=back.messages)
    async with other.stream(runId=run_ids[back.thread_id]) as again:
        async with back.stream(runId=run_ids[back.thread_id]) as beside:  # a newer connection goes before an older one
            await until(beside, "TEXT_MESSAGE_START")
        (run,) = await client.runs.list(left.thread_id)
        with anyio.fail_after(WAIT_S * 3):
            await client.runs.join(left.thread_id, run["run_id"])
        took = anyio.current_time() - began
        await anyio.sleep(1)  # the grace of the connection that went last
        gate.open()
        told = [event async for event in again]
    ended = await left.run(runId=run_ids[left.thread_id])
    stayed = await kept.run(runId=run_ids[kept.thread_id])

    assert took >= 5
    check(told)
    assert text(told) == text(stayed) == "before the gate|after the gate|"
    assert ended[-1] == {"type": "RUN_ERROR", "message": "the run was cancelled", "code": "cancelled"}


async def test_a_client_that_leaves_a_run_of_another_surface_does_not_stop_it(
    http: httpx.AsyncClient, client: LangGraphClient, gate: Gate
) -> None:
    """Contract, Leaving: it stops what the page has started, and nothing else."""
    thread = await client.threads.create()
    messages = [{"role": "user", "content": "x"}]
    run = await client.runs.create(
        thread["thread_id"], "gate", input={"messages": messages}, stream_mode=["values", "messages-tuple"]
    )
    await gate.entered()
    page = Page(http, "gate", thread_id=thread["thread_id"])
    async with page.stream(runId=run["run_id"]) as events:
        await until(events, "TEXT_MESSAGE_START")
    row = await client.runs.get(thread["thread_id"], run["run_id"])
    gate.open()
    told = await page.run(runId=run["run_id"])

    assert "ag_ui" not in row["metadata"]
    assert text(told) == "before the gate|after the gate|"


async def test_a_thread_that_is_deleted_ends_the_stream_of_its_run(
    http: httpx.AsyncClient, client: LangGraphClient, gate: Gate
) -> None:
    """Contract, Errors: RUN_ERROR, also for a reader in another process."""
    page = Page(http, "gate", messages=[{"id": "1", "role": "user", "content": "x"}])
    async with page.stream() as events:
        await until(events, "TEXT_MESSAGE_END")
        await client.threads.delete(page.thread_id)
        with anyio.fail_after(WAIT_S * 2):
            rest = [event async for event in events]

    assert types(rest)[-1] == "RUN_ERROR"


async def test_a_run_that_is_deleted_after_its_end_may_be_made_again(
    http: httpx.AsyncClient, client: LangGraphClient
) -> None:
    """Contract, Coming back: there is nothing to come back to."""
    page, run_id = Page(http, "echo"), str(uuid4())
    await page.say("hello", runId=run_id)
    (run,) = await client.runs.list(page.thread_id)
    await client.runs.delete(page.thread_id, run["run_id"])
    events = await page.run(runId=run_id)

    assert events[-1]["type"] == "RUN_FINISHED"


async def test_events_that_are_gone_are_told_by_snapshots(
    http: httpx.AsyncClient, client: LangGraphClient, module_settings: Settings
) -> None:
    """Contract, Coming back: ended: replay or snapshots, then its end."""
    page, run_id = Page(http, "echo"), str(uuid4())
    await page.say("hello", runId=run_id)
    shown = page.messages
    async with await psycopg.AsyncConnection.connect(str(module_settings.database_uri), autocommit=True) as conn:
        await conn.execute("DELETE FROM run_events")
    events = await page.run(runId=run_id)

    assert types(events) == ["RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert page.messages == shown


async def test_messages_at_the_same_time_are_answered_one_after_the_other(
    http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, gate: Gate
) -> None:
    """Contract, Two messages at once: `enqueue`."""
    pages = [Page(each, "gate", thread_id="busy") for each in (http, elsewhere)]
    told: list[list[dict[str, Any]]] = []
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())

        async def say(page: Page) -> None:
            told.append(await page.say("hello"))

        tasks.start_soon(say, pages[0])
        await gate.entered()
        tasks.start_soon(say, pages[1])
        gate.open()

    assert [events[-1]["type"] for events in told] == ["RUN_FINISHED"] * 2
    assert len(of_type(told[1], "MESSAGES_SNAPSHOT")[0]["messages"]) == 4
