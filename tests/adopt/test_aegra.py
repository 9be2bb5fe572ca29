"""`threadkeep adopt` from the database of an Aegra server: the columns that it reads, and LangGraph's own tables."""

from typing import Any

import psycopg
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph_sdk import get_client
from psycopg.types.json import Jsonb

from adopt_apps import AEGRA_TABLES, Adopt, open_app, served_graphs
from conftest import MakeKey, serving
from threadkeep.settings import Settings
from threadkeep.tables.assistants import system_id

ADA, BOB, EMPTY, BUSY = (f"0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d3{digit}" for digit in "0123")
POLITE, OTHER, NIGHTLY = (f"0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d3{digit}" for digit in "456")


async def _fill(source: str) -> None:
    """Two users with threads, one of them with an assistant, a cron and an item."""
    async with open_app(source) as app:
        await app.say(ADA, "My name is Ada")
        await app.order(BOB)
    async with AsyncPostgresStore.from_conn_string(source) as store:
        await store.setup()
        await store.aput(("users", "ada", "memories"), "tea", {"likes": "tea"})
    threads = [(ADA, "ada", "memory", "idle"), (BOB, "bob", "order", "interrupted")]
    with psycopg.connect(source) as conn:
        conn.execute(AEGRA_TABLES)
        for thread_id, user, graph, status in [*threads, (EMPTY, "bob", None, "idle"), (BUSY, "bob", "order", "busy")]:
            conn.execute(
                "INSERT INTO thread (thread_id, user_id, metadata_json, status) VALUES (%s, %s, %s, %s)",
                (thread_id, user, Jsonb({"graph_id": graph, "topic": "moving"} if graph else {}), status),
            )
        for assistant_id, user, graph in [
            (str(system_id("memory")), "system", "memory"),
            (POLITE, "ada", "memory"),
            (OTHER, "bob", "gone"),
        ]:
            conn.execute(
                "INSERT INTO assistant (assistant_id, name, graph_id, user_id, config) VALUES (%s, 'Polite', %s, %s, %s)",
                (assistant_id, graph, user, Jsonb({"configurable": {"tone": "polite"}, "recursion_limit": 7})),
            )
        conn.execute(
            """
            INSERT INTO crons (cron_id, assistant_id, user_id, schedule, payload)
            VALUES (%s, %s, 'ada', '0 3 * * *', %s)
            """,
            (NIGHTLY, POLITE, Jsonb({"input": {"messages": []}, "timezone": "Europe/Paris"})),
        )


async def test_users_of_aegra_find_what_they_had(
    source: str, adopt: Adopt, settings: Settings, make_key: MakeKey
) -> None:
    await _fill(source)
    secured = settings.model_copy(update={"auth_type": "api_key"})

    report = await adopt(source, into=secured)
    again = await adopt(source, into=secured)

    counts = ("assistants", "threads", "store items", "crons")
    assert [report.taken[kind] for kind in counts] == [1, 3, 1, 1]
    assert {key: reason.examples for key, reason in report.skipped.items()} == {
        ("assistants", "the project has no graph 'gone'"): [OTHER],
        ("threads", "a run is in progress at the source: call again when it has ended"): [BUSY],
    }
    assert again.taken.total() == 0
    assert [again.here[kind] for kind in counts] == [1, 3, 1, 1]
    async with serving(secured, served_graphs()) as url:
        await _check_ada(url, await make_key("ada"))
        await _check_bob(url, await make_key("bob"))


async def _check_ada(url: str, key: str) -> None:
    async with get_client(url=url, api_key=key) as client:
        [thread] = await client.threads.search()
        assert (thread["thread_id"], thread["metadata"]["topic"], thread["status"]) == (ADA, "moving", "idle")
        assert thread["created_at"][:19] == "2025-01-02T03:04:05"
        [assistant] = await client.assistants.search(metadata={"adopted_from": "aegra"})
        assert (assistant["assistant_id"], assistant["context"]) == (POLITE, {"tone": "polite"})
        assert assistant["config"] == {"recursion_limit": 7, "configurable": {"tone": "polite"}}
        question: Any = {"messages": [{"role": "user", "content": "Who am I?"}]}
        answer: Any = await client.runs.wait(ADA, POLITE, input=question)
        assert answer["messages"][-1]["content"] == "You are Ada."
        item: Any = await client.store.get_item(("memories",), "tea")
        assert item["value"] == {"likes": "tea"}
        [cron] = await client.crons.search()
        assert (cron["cron_id"], cron["assistant_id"], cron["schedule"]) == (NIGHTLY, POLITE, "0 3 * * *")
        assert (cron["enabled"], cron["timezone"]) == (False, "Europe/Paris")


async def _check_bob(url: str, key: str) -> None:
    async with get_client(url=url, api_key=key) as client:
        found = await client.threads.search(sort_by="thread_id", sort_order="asc")
        assert [(thread["thread_id"], thread["status"]) for thread in found] == [(BOB, "interrupted"), (EMPTY, "idle")]
        shipped: Any = await client.runs.wait(BOB, "order", command={"resume": "Grace"})
        assert shipped["steps"][-1] == "shipped"
        assert await client.crons.search() == []


async def test_crons_are_switched_on_when_the_source_is_off(
    source: str, adopt: Adopt, settings: Settings, make_key: MakeKey
) -> None:
    await _fill(source)
    secured = settings.model_copy(update={"auth_type": "api_key"})
    await adopt(source, into=secured)

    report = await adopt(source, into=secured, enable_crons=True)

    assert (report.taken["crons"], report.here["crons"]) == (1, 0)
    key = await make_key("ada")
    async with serving(secured, served_graphs()) as url, get_client(url=url, api_key=key) as client:
        [cron] = await client.crons.search()
    assert cron["enabled"] is True
    assert cron["next_run_date"] is not None
