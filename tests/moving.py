"""The reader of docs/how-to/moving.md has an application, an Aegra server and a running server to move from."""

from urllib.parse import quote

import psycopg
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph_sdk import get_client
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from adopt_apps import AEGRA_TABLES, App, open_app, write_project
from code_blocks import ROOT, Block, Session

AEGRA_THREAD = "0c7a1b52-3a59-4b8e-8d0e-9f0f6a1c2d30"


async def prepare(reader: Session, running: Session, postgres: str) -> None:
    """Fill the sources that the page names, and start the running server. The reader has the same graphs."""
    for session in (reader, running):
        write_project(session.folder)
        session.environment["PYTHONPATH"] += f":{ROOT / 'tests'}"
        session.tell(f"export PYTHONPATH={session.environment['PYTHONPATH']}")
    reader.replaced["db.internal"] = quote(str(conninfo_to_dict(postgres)["host"]), safe="")
    app, aegra = (_database(postgres, name) for name in ("app", "aegra"))
    await _fill_app(app)
    await _fill_aegra(aegra)
    await running.run(Block("docs/how-to/moving.md", "sh", None, "threadkeep serve"))
    async with get_client(url=f"http://127.0.0.1:{running.port}", api_key=None) as client:
        thread = await client.threads.create()
        await client.runs.wait(thread["thread_id"], "order", input={"steps": ["ordered"]})


def _database(postgres: str, name: str) -> str:
    """Make a user and its database, and return the URI."""
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {name} LOGIN".encode())
        conn.execute(f"CREATE DATABASE {name} OWNER {name}".encode())
    return make_conninfo(postgres, dbname=name, user=name)


async def _fill_app(uri: str) -> None:
    async with open_app(uri) as app:
        await _talk(app, "user-17")
    async with AsyncPostgresStore.from_conn_string(uri) as store:
        await store.setup()
        await store.aput(("memories",), "tea", {"likes": "tea"})


async def _talk(app: App, thread_id: str) -> None:
    await app.say(thread_id, "My name is Ada", user_id="u-ada")
    await app.say(thread_id, "Hello", user_id="u-ada")
    await app.order("order 7")


async def _fill_aegra(uri: str) -> None:
    async with open_app(uri) as app:
        await app.say(AEGRA_THREAD, "My name is Ada")
    with psycopg.connect(uri) as conn:
        conn.execute(AEGRA_TABLES)
        conn.execute("INSERT INTO thread (thread_id, user_id) VALUES (%s, 'ada')", (AEGRA_THREAD,))
