"""`threadkeep adopt` beside two servers of the same database, beside deletes and runs there, and after a kill -9."""

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import anyio
import anyio.to_thread
import psycopg
import pytest
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

import threadkeep
from adopt_apps import Adopt, open_app, served_graphs, write_project
from conftest import WAIT_S, serving
from faults import forks
from threadkeep.commands.adopt.ids import thread_id_of
from threadkeep.settings import Settings

ADA, BOB, EVE = (f"0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d4{digit}" for digit in "012")
"""In the order in which threads are taken over."""
PROJECT = """
{"dependencies": ["."], "graphs": {"memory": "./agent.py:memory", "order": "./agent.py:order"},
 "store": {"index": {"dims": 2, "embed": "./embedding.py:embed", "fields": ["text"]}}}
"""
EMBEDDING = """
from pathlib import Path
from time import sleep

def embed(texts):
    Path("embedding").touch()
    while Path("held").exists():
        sleep(0.01)
    return [[1.0, float(len(text))] for text in texts]
"""
WAITS: LiteralString = "SELECT FROM pg_locks WHERE NOT granted"


@pytest.fixture(scope="module")
async def clients(module_settings: Settings) -> AsyncIterator[tuple[LangGraphClient, LangGraphClient]]:
    """Clients of two servers on one database."""
    async with (
        serving(module_settings, served_graphs()) as one,
        serving(module_settings, served_graphs()) as other,
        get_client(url=one, api_key=None) as client,
        get_client(url=other, api_key=None) as elsewhere,
    ):
        yield client, elsewhere


Act = Callable[[], Awaitable[object]]


@pytest.fixture
def beside_a_copy(source: str, adopt: Adopt, module_settings: Settings) -> Callable[[str, Act], Awaitable[None]]:
    """Does something with a thread in the middle of its second copy, and waits for both."""

    async def act_beside(thread_id: str, act: Act) -> None:
        async with open_app(source) as app:
            await app.say(thread_id, "My name is Ada")
            await adopt(source, into=module_settings)
            await app.say(thread_id, "there")
        async with anyio.create_task_group() as tasks, await psycopg.AsyncConnection.connect(source) as holder:
            await holder.execute("LOCK TABLE checkpoint_writes")
            tasks.start_soon(lambda: adopt(source, into=module_settings))
            await _until(_waiting(source))
            tasks.start_soon(act)
            await _until(_waiting(source, least=2))

    return act_beside


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(WAIT_S * 2):
        while not await condition():
            await anyio.sleep(0.01)


def _waiting(uri: str, least: int = 1) -> Callable[[], Awaitable[bool]]:
    """Whether so many statements wait for a lock in the cluster of a database."""

    async def look() -> bool:
        async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
            return (await conn.execute(WAITS)).rowcount >= least

    return look


def _count(settings: Settings, thread_id: str) -> list[int]:
    """The rows of a thread in each table."""
    statements: Sequence[LiteralString] = (
        "SELECT count(*) FROM threads WHERE thread_id = %s::uuid",
        "SELECT count(*) FROM checkpoints WHERE thread_id = %s",
        "SELECT count(*) FROM checkpoint_blobs WHERE thread_id = %s",
        "SELECT count(*) FROM checkpoint_writes WHERE thread_id = %s",
    )
    with psycopg.connect(str(settings.database_uri)) as conn:
        return [row[0] for one in statements for row in conn.execute(one, (thread_id,))]


async def _said(client: LangGraphClient, thread_id: str) -> list[str]:
    state: Any = await client.threads.get_state(thread_id)
    return [message["content"] for message in state["values"]["messages"] if message["type"] == "human"]


async def _run(client: LangGraphClient, thread_id: str, text: str) -> Any:
    return await client.runs.wait(thread_id, "memory", input={"messages": [{"role": "user", "content": text}]})


async def test_both_servers_serve_what_was_taken_over_beside_them(
    source: str, adopt: Adopt, module_settings: Settings, clients: tuple[LangGraphClient, LangGraphClient]
) -> None:
    async with open_app(source) as app:
        await app.say("from both", "My name is Ada")

    await adopt(source, into=module_settings)

    thread_id = str(thread_id_of("from both"))
    answers = [await _run(client, thread_id, f"Hello {number}") for number, client in enumerate(clients)]
    assert [answer["messages"][-1]["content"] for answer in answers] == ["You are Ada."] * 2
    assert await _said(clients[0], thread_id) == ["My name is Ada", "Hello 0", "Hello 1"]


async def test_a_delete_waits_for_a_thread_that_is_copied_again_and_leaves_nothing_of_it(
    module_settings: Settings,
    clients: tuple[LangGraphClient, LangGraphClient],
    beside_a_copy: Callable[[str, Act], Awaitable[None]],
) -> None:
    await beside_a_copy(ADA, lambda: clients[1].threads.delete(ADA))

    assert _count(module_settings, ADA) == [0, 0, 0, 0]


async def test_a_run_waits_for_a_thread_that_is_copied_again_and_goes_on_from_the_copy(
    clients: tuple[LangGraphClient, LangGraphClient], beside_a_copy: Callable[[str, Act], Awaitable[None]]
) -> None:
    await beside_a_copy(BOB, lambda: _run(clients[1], BOB, "here"))

    history = await clients[0].threads.get_history(BOB, limit=100)
    assert await _said(clients[0], BOB) == ["My name is Ada", "there", "here"]
    assert [(state["parent_checkpoint"] or {}).get("checkpoint_id") for state in history] == [
        *(state["checkpoint"]["checkpoint_id"] for state in history[1:]),
        None,
    ]


def _project(folder: Path) -> None:
    write_project(folder, PROJECT)
    (folder / "embedding.py").write_text(EMBEDDING)


def _start(folder: Path, source: str, settings: Settings) -> "subprocess.Popen[bytes]":
    """The command in a process of its own."""
    paths = os.pathsep.join([str(Path(threadkeep.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = {
        **os.environ,
        "DATABASE_URI": str(settings.database_uri),
        "PYTHONPATH": paths,
        "LOG_LEVEL": "warning",
    }
    with (folder / "out").open("wb") as out:
        return forks.start("adopt", "--from", source, cwd=folder, env=environment, stdout=out, stderr=out)


async def _killed(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    await anyio.to_thread.run_sync(process.wait)


async def _finished(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    """What the command reports."""
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    return await anyio.Path(folder / "out").read_text()


async def _fill(source: str) -> None:
    """Three threads, and an item whose time to live ends next year."""
    async with open_app(source) as app:
        for name in (ADA, BOB, EVE):
            await app.say(name, f"My name is {name}")
    async with AsyncPostgresStore.from_conn_string(source) as store:
        await store.setup()
        await store.aput(("memories",), "tea", {"text": "likes tea"}, ttl=None)
    with psycopg.connect(source) as conn:
        conn.execute("UPDATE store SET ttl_minutes = 600000, expires_at = created_at + interval '600000 minutes'")


async def test_a_call_after_a_kill_doubles_nothing_and_forgets_nothing(
    source: str, settings: Settings, tmp_path: Path
) -> None:
    """It is killed in the middle of a thread, and again while the vectors of items are computed."""
    await _fill(source)
    _project(tmp_path)
    async with await psycopg.AsyncConnection.connect(str(settings.database_uri)) as holder:
        await holder.execute(
            "INSERT INTO threads (thread_id, project_id) VALUES (%s, %s)", (UUID(EVE), settings.project_id)
        )
        first = _start(tmp_path, source, settings)
        await _until(_waiting(str(settings.database_uri)))
        await _killed(first)
        await holder.rollback()
    (tmp_path / "held").touch()
    second = _start(tmp_path, source, settings)
    await _until((anyio.Path(tmp_path) / "embedding").exists)
    await _killed(second)
    (tmp_path / "held").unlink()

    report = await _finished(_start(tmp_path, source, settings), tmp_path)

    assert report.splitlines() == [
        "taken over from the tables of LangGraph's saver: 0 assistants, 0 threads, 0 checkpoints, 1 store items, 0 crons",
        "already here: 3 threads",
    ]
    with psycopg.connect(source) as conn:
        [source_item] = conn.execute("SELECT key, created_at, updated_at, expires_at, ttl_minutes FROM store")
    with psycopg.connect(str(settings.database_uri)) as conn:
        [item] = conn.execute("SELECT key, created_at, updated_at, expires_at, ttl_minutes FROM store")
        vectors = conn.execute("SELECT key, field_name FROM store_vectors").fetchall()
    assert (item, vectors) == (source_item, [("tea", "text")])
    sources = settings.model_copy(update={"database_uri": source})
    with psycopg.connect(source) as conn:
        conn.execute("CREATE TABLE threads (thread_id uuid)")
        conn.execute("INSERT INTO threads SELECT DISTINCT thread_id::uuid FROM checkpoints")
    assert [_count(settings, name) for name in (ADA, BOB, EVE)] == [_count(sources, name) for name in (ADA, BOB, EVE)]
