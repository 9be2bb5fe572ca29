"""`threadkeep adopt` from the database of an application with LangGraph's own saver."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import anyio
import psycopg
import pytest
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

import threadkeep
from adopt_apps import Adopt, App, open_app, served_graphs, write_project
from conftest import MakeKey, serving
from threadkeep.base.problems import StartupError
from threadkeep.commands.adopt.ids import NAMESPACE
from threadkeep.settings import Settings

TABLES = ("threads", "checkpoints", "checkpoint_blobs", "checkpoint_writes", "store", "assistants")


async def _moved(app: App) -> None:
    await app.say("ada", "My name is Ada", user_id="u-ada")
    await app.say("ada", "Hello", user_id="u-ada")
    await app.order("order 7")


async def _search(client: LangGraphClient, original_id: str) -> Any:
    [thread] = await client.threads.search(metadata={"original_thread_id": original_id})
    return thread


async def _ask(client: LangGraphClient, thread_id: str, **run: Any) -> Any:
    return await client.runs.wait(thread_id, **run)


async def test_threads_of_an_application_go_on_here(source: str, adopt: Adopt, settings: Settings) -> None:
    async with open_app(source) as app:
        await _moved(app)
        ids = {name: await app.checkpoint_ids(graph, name) for name, graph in (("ada", "memory"), ("order 7", "order"))}

    report = await adopt(source)

    assert (report.taken["threads"], report.skipped, report.notes) == (2, {}, {})
    async with serving(settings, served_graphs()) as url, get_client(url=url, api_key=None) as client:
        ada, order = await _search(client, "ada"), await _search(client, "order 7")
        assert ada["thread_id"] == str(uuid5(NAMESPACE, "ada"))
        assert (ada["status"], ada["metadata"]["graph_id"], ada["title"]) == ("idle", "memory", "My name is Ada")
        assert [message["content"] for message in ada["values"]["messages"]][1::2] == ["You are Ada."] * 2
        assert order["status"] == "interrupted"
        assert [entry["value"] for entries in order["interrupts"].values() for entry in entries] == ["Who approves?"]
        for name, thread in (("ada", ada), ("order 7", order)):
            history = await client.threads.get_history(thread["thread_id"], limit=100)
            assert [state["checkpoint"]["checkpoint_id"] for state in history] == ids[name]
            assert thread["created_at"][:19] == history[-1]["created_at"][:19]
            assert thread["updated_at"][:19] == history[0]["created_at"][:19]

        answer = await _ask(
            client, ada["thread_id"], assistant_id="memory", input={"messages": [{"role": "user", "content": "And?"}]}
        )
        assert answer["messages"][-1]["content"] == "You are Ada."
        shipped = await _ask(client, order["thread_id"], assistant_id="order", command={"resume": "Grace"})
        assert shipped["steps"] == ["ordered", "priced", "ordered", "priced", "approved by Grace", "shipped"]


async def test_a_second_call_doubles_nothing_and_leaves_what_has_changed(
    source: str, adopt: Adopt, settings: Settings, database: str
) -> None:
    async with open_app(source) as app:
        for name in ("ada", "bob", "eve"):
            await app.say(name, f"My name is {name}")
        first = await adopt(source, limit=1)
        assert (first.taken["threads"], first.is_cut) == (1, True)
        await adopt(source)
        before = _rows(database)

        again = await adopt(source)

        assert (again.taken.total(), again.here["threads"], again.skipped) == (0, 3, {})
        assert _rows(database) == before

        async with serving(settings, served_graphs()) as url, get_client(url=url, api_key=None) as client:
            bob = (await _search(client, "bob"))["thread_id"]
            await _ask(client, bob, assistant_id="memory", input={"messages": [{"role": "user", "content": "here"}]})
            await app.say("ada", "there")
            await app.say("bob", "there")
            last = await adopt(source)

            assert (last.taken["threads"], last.here["threads"]) == (1, 1)
            [(kind, reason)] = last.skipped
            assert (kind, last.skipped[kind, reason].examples) == ("threads", ["bob"])
            assert "changed here and at the source" in reason
            said = {name: (await _search(client, name))["values"]["messages"] for name in ("ada", "bob")}
            assert [said[name][-2]["content"] for name in ("ada", "bob")] == ["there", "here"]


async def test_a_call_that_is_stopped_leaves_no_half_of_a_thread(source: str, adopt: Adopt, database: str) -> None:
    async with open_app(source) as app:
        for name in ("ada", "bob"):
            await app.say(name, f"My name is {name}")
    nothing = _rows(database) | {"assistants": 2}
    async with await psycopg.AsyncConnection.connect(source) as holder, anyio.create_task_group() as tasks:
        await holder.execute("LOCK TABLE checkpoint_writes")
        tasks.start_soon(adopt, source)
        with anyio.fail_after(10):
            while not (await holder.execute("SELECT FROM pg_locks WHERE NOT granted")).rowcount:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert _rows(database) == nothing

    report = await adopt(source)

    assert (report.taken["threads"], report.here.total(), report.skipped) == (2, 0, {})


def test_the_command_tells_what_it_did(source: str, database: str, tmp_path: Path) -> None:
    anyio.run(_prepare, source)
    write_project(tmp_path)
    server = Path(threadkeep.__file__).parents[1]
    paths = os.pathsep.join([str(server), str(Path(__file__).parents[1])])
    command = [sys.executable, "-m", "threadkeep", "adopt", "--from", source]
    environment = {**os.environ, "DATABASE_URI": database, "PYTHONPATH": paths}

    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout.splitlines()) == (
        0,
        [
            "taken over from the tables of LangGraph's saver: 0 assistants, 2 threads, 11 checkpoints, 0 store items, "
            "0 crons"
        ],
    ), ended.stderr


async def _prepare(source: str) -> None:
    async with open_app(source) as app:
        await _moved(app)


async def test_a_dry_run_writes_nothing(source: str, adopt: Adopt, database: str) -> None:
    async with open_app(source) as app:
        await _moved(app)
    before = _rows(database)

    report = await adopt(source, dry_run=True)

    assert report.taken["threads"] == 2
    assert report.lines[0].startswith(
        "would be taken over from the tables of LangGraph's saver: 0 assistants, 2 threads"
    )
    assert _rows(database) == before


async def test_a_dry_run_makes_no_tables(source: str, adopt: Adopt, settings: Settings) -> None:
    async with open_app(source) as app:
        await _moved(app)
    async with AsyncPostgresStore.from_conn_string(source) as store:
        await store.setup()
        await store.aput(("memories",), "tea", {"likes": "tea"})
    fresh = settings.model_copy(update={"database_uri": source, "auth_type": "api_key"})

    report = await adopt(source, into=fresh, dry_run=True, owner="ada")

    assert (report.taken["threads"], report.taken["store items"], report.skipped) == (2, 1, {})
    with psycopg.connect(source) as conn:
        assert conn.execute("SELECT to_regclass('threads')").fetchone() == (None,)


async def test_each_owner_sees_its_own_threads_and_items(
    source: str, adopt: Adopt, settings: Settings, make_key: MakeKey
) -> None:
    async with open_app(source) as app:
        await app.say("ada", "My name is Ada", user_id="u-ada")
        await app.say("bob", "My name is Bob", user_id="u-bob")
        await app.say("nobody", "My name is Nemo")
    async with AsyncPostgresStore.from_conn_string(source) as store:
        await store.setup()
        await store.aput(("memories", "food"), "tea", {"likes": "tea", "cups": 1.5})
    secured = settings.model_copy(update={"auth_type": "api_key"})

    report = await adopt(source, into=secured, owner_key="user_id")

    assert (report.taken["threads"], sorted(kind for kind, _ in report.skipped)) == (2, ["store items", "threads"])
    rest = await adopt(source, into=secured, owner_key="user_id", owner="u-ada")
    assert (rest.taken["threads"], rest.here["threads"], rest.taken["store items"], rest.skipped) == (1, 2, 1, {})
    async with serving(secured, served_graphs()) as url:
        seen: dict[str, Any] = {}
        for identity in ("u-ada", "u-bob"):
            async with get_client(url=url, api_key=await make_key(identity)) as client:
                found = await client.threads.search()
                items = await client.store.search_items(("memories",))
                seen[identity] = (
                    sorted(str(thread["metadata"]["original_thread_id"]) for thread in found),
                    [(item["namespace"], item["key"], item["value"]) for item in items["items"]],
                )
    tea = (["memories", "food"], "tea", {"likes": "tea", "cups": 1.5})
    assert seen == {"u-ada": (["ada", "nobody"], [tea]), "u-bob": (["bob"], [])}


async def test_values_are_encrypted_here(source: str, adopt: Adopt, settings: Settings, database: str) -> None:
    async with open_app(source) as app:
        await _moved(app)
    sealed = type(settings).model_validate(settings.model_dump() | {"aes_key": "k" * 32})

    report = await adopt(source, into=sealed)

    assert (report.taken["threads"], report.skipped, report.notes) == (2, {}, {})
    with psycopg.connect(database) as conn:
        kinds = conn.execute("SELECT DISTINCT type FROM checkpoint_blobs UNION SELECT type FROM checkpoint_writes")
        assert {row[0] for row in kinds} <= {"msgpack+aes-gcm", "null+aes-gcm", "empty"}
        assert conn.execute("SELECT FROM checkpoints WHERE checkpoint::text ~ 'secret note'").rowcount == 0
    async with serving(sealed, served_graphs()) as url, get_client(url=url, api_key=None) as client:
        order = await _search(client, "order 7")
        history = await client.threads.get_history(order["thread_id"], limit=10)
        assert history[0]["values"] == {"steps": ["ordered", "priced"], "amount": 12, "note": "secret note"}
        shipped = await _ask(client, order["thread_id"], assistant_id="order", command={"resume": "Grace"})
        assert shipped["steps"][-1] == "shipped"


async def test_the_server_may_take_over_its_own_database(database: str, adopt: Adopt, settings: Settings) -> None:
    """The application has used it before. Its UUIDs stay, and other ids are copied."""
    kept = "0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d3e"
    async with open_app(database) as app:
        await app.say(kept, "My name is Ada")
        await app.say("bob", "My name is Bob")

    report = await adopt(database)
    again = await adopt(database)

    assert (report.taken["threads"], report.skipped) == (2, {})
    assert (again.taken.total(), again.skipped) == (0, {})
    async with serving(settings, served_graphs()) as url, get_client(url=url, api_key=None) as client:
        for thread_id, name in ((kept, "Ada"), (str(uuid5(NAMESPACE, "bob")), "Bob")):
            answer = await _ask(
                client, thread_id, assistant_id="memory", input={"messages": [{"role": "user", "content": "Who?"}]}
            )
            assert answer["messages"][-1]["content"] == f"You are {name}."


async def test_a_thread_that_exists_here_is_left_alone(
    source: str, adopt: Adopt, settings: Settings, database: str
) -> None:
    taken = UUID("0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d3e")
    async with open_app(source) as app:
        await app.say(str(taken), "My name is Ada")
    with psycopg.connect(database) as conn:
        conn.execute("INSERT INTO threads (thread_id, project_id) VALUES (%s, %s)", (taken, settings.project_id))

    report = await adopt(source)

    assert report.taken.total() == 0
    [(kind, reason)] = report.skipped
    assert (kind, reason) == ("threads", "a thread with this id exists here, and does not come from this source")


async def test_a_client_cannot_have_the_thread_of_another_owner_filled_for_itself(
    source: str, adopt: Adopt, settings: Settings, make_key: MakeKey
) -> None:
    """Clients write metadata, so Bob may create a thread that looks as if it had been adopted without a state."""
    taken = "0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d3e"
    async with open_app(source) as app:
        await app.say(taken, "My name is Ada", user_id="ada")
    secured = settings.model_copy(update={"auth_type": "api_key"})
    async with (
        serving(secured, served_graphs()) as url,
        get_client(url=url, api_key=await make_key("bob")) as bob,
        get_client(url=url, api_key=await make_key("ada")) as ada,
    ):
        await bob.threads.create(thread_id=taken, metadata={"adopted_from": "langgraph-postgres"})

        report = await adopt(source, into=secured, owner_key="user_id")

        question: Any = {"messages": [{"role": "user", "content": "Who am I?"}]}
        answer = await _ask(bob, taken, assistant_id="memory", input=question)
        assert answer["messages"][-1]["content"] == "I do not know you."
        assert await ada.threads.search() == []
    assert [reason for _, reason in report.skipped] == ["a thread with this id belongs to another owner here"]


async def test_a_thread_of_another_project_is_neither_changed_nor_counted(
    source: str, adopt: Adopt, settings: Settings, database: str
) -> None:
    """Two projects of one database may take over one source. A thread id exists once in a database."""
    async with open_app(source) as app:
        await app.say("ada", "My name is Ada")
        await adopt(source)
        await app.say("ada", "Hello")
    before = _rows(database)
    other = settings.model_copy(update={"project": "other"})
    assert other.project_id != settings.project_id

    report = await adopt(source, into=other)

    assert (report.taken["threads"], report.here["threads"]) == (0, 0)
    assert [reason for _, reason in report.skipped] == ["a thread with this id belongs to another project"]
    assert _rows(database) | {"assistants": 0} == before | {"assistants": 0}


async def test_a_checkpoint_that_cannot_be_read_leaves_the_thread_without_values(source: str, adopt: Adopt) -> None:
    async with open_app(source) as app:
        await app.say("ada", "My name is Ada")
    with psycopg.connect(source) as conn:
        conn.execute("UPDATE checkpoint_blobs SET blob = '\\xc1' WHERE channel = 'messages'")

    report = await adopt(source)

    assert report.taken["threads"] == 1
    [(kind, reason)] = report.notes
    assert kind == "threads"
    assert reason.startswith("its newest checkpoint can't be read, so it has no values yet")


async def test_a_graph_must_be_named_if_several_fit(source: str, adopt: Adopt) -> None:
    async with open_app(source) as app:
        await app.say("ada", "My name is Ada")
    with psycopg.connect(source) as conn:
        conn.execute(
            "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{versions_seen}', '{\"__start__\": {}}')"
        )

    report = await adopt(source)
    named = await adopt(source, graph="memory", only=("a*",))

    assert [reason for _, reason in report.skipped] == [
        "the nodes of several graphs fit: choose one with --graph, and its threads with --only"
    ]
    assert named.taken["threads"] == 1
    with pytest.raises(StartupError, match="--graph other: the project serves memory, order"):
        await adopt(source, graph="other")


async def test_a_database_without_a_saver_is_refused_in_one_line(source: str, adopt: Adopt) -> None:
    with pytest.raises(StartupError, match="the database has no table checkpoints of LangGraph's saver"):
        await adopt(source)


def _rows(database: str) -> dict[str, int]:
    with psycopg.connect(database) as conn:
        counted = {table: conn.execute(f"SELECT count(*) FROM {table}").fetchone() for table in TABLES}  # pyright: ignore[reportArgumentType, reportCallIssue]
    return {table: row[0] for table, row in counted.items() if row}
