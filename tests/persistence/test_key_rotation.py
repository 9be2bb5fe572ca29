"""Rotation of encryption keys: threads of every earlier key are read, and are encrypted with the first key by a command."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langgraph.graph import START, StateGraph

from conftest import WAIT_S, serving
from faults import forks
from threadkeep.graphs import as_loaded_graph
from threadkeep.persistence import key_rotation
from threadkeep.persistence.encryption import AesGcmCipher
from threadkeep.postgres.connection import Connection
from threadkeep.settings import Settings

OLD, NEW = "o" * 32, "n" * 16
TABLES = ("checkpoint_blobs", "checkpoint_writes")


class State(TypedDict, total=False):
    """A list that each run makes longer."""

    rows: list[str]


async def _append(state: State) -> State:
    return {"rows": [*state.get("rows", []), "row"]}


@asynccontextmanager
async def _served(settings: Settings, keys: str | None) -> AsyncIterator[httpx.AsyncClient]:
    graph = StateGraph(State)
    graph.add_node("append", _append)
    graph.add_edge(START, "append")
    chosen = Settings.model_validate(settings.model_dump() | {"aes_key": keys})
    graphs = {"appending": as_loaded_graph("appending", graph, where="tests")}
    async with serving(chosen, graphs) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S * 3) as http:
        yield http


async def _thread(http: httpx.AsyncClient) -> str:
    thread_id: str = (await http.post("/threads", json={})).json()["thread_id"]
    assert await _run(http, thread_id) == {"rows": ["row"]}
    return thread_id


async def _run(http: httpx.AsyncClient, thread_id: str) -> Any:
    body = {"assistant_id": "appending", "input": {}, "durability": "sync"}
    return (await http.post(f"/threads/{thread_id}/runs/wait", json=body)).json()


async def _rows(database: str) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        found: list[Any] = []
        for table in TABLES:
            cursor = await conn.execute(f"SELECT type, blob FROM {table} WHERE type <> 'empty'")  # pyright: ignore[reportArgumentType, reportCallIssue] # fmt: skip
            found += await cursor.fetchall()
    return found


async def _rotate(database: str, *keys: str) -> key_rotation.Rotation:
    async with await Connection.connect(database, autocommit=True) as conn:
        return await key_rotation.rotate(conn, AesGcmCipher([key.encode() for key in keys]))


def _command(folder: Path, database: str, keys: str) -> Callable[[], subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "DATABASE_URI": database, "LANGGRAPH_AES_KEY": keys}
    return lambda: forks.run("keys", "rotate-encryption", cwd=folder, env=environment)


async def test_keys_are_rotated_by_a_command_beside_a_running_server(
    settings: Settings, database: str, tmp_path: Path
) -> None:
    """Threads without encryption, of the old key and of the new one are all read before, and with the new key afterwards."""
    async with _served(settings, None) as http:
        thread_ids = [await _thread(http)]
    async with _served(settings, OLD) as http:
        thread_ids.append(await _thread(http))
    async with _served(settings, f"{NEW},{OLD}") as http:
        thread_ids.append(await _thread(http))
        before = [(await http.get(f"/threads/{thread_id}/state")).json() for thread_id in thread_ids]
        done = await anyio.to_thread.run_sync(_command(tmp_path, database, f"{NEW},{OLD}"))
        again = await anyio.to_thread.run_sync(_command(tmp_path, database, f"{NEW},{OLD}"))
        during = [(await http.get(f"/threads/{thread_id}/state")).json() for thread_id in thread_ids]
    rows = await _rows(database)
    async with _served(settings, NEW) as http:
        after = [(await http.get(f"/threads/{thread_id}/state")).json() for thread_id in thread_ids]
        runs = [await _run(http, thread_id) for thread_id in thread_ids]

    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    assert done.stdout.startswith("encrypted with the new key: ")
    assert not done.stdout.startswith("encrypted with the new key: 0")
    assert again.stdout == f"encrypted with the new key: 0, already up to date: {len(rows)}\n"
    assert {kind.partition("+")[2] for kind, _ in rows} == {"aes-gcm"}
    assert before == during == after
    assert runs == [{"rows": ["row", "row"]}] * 3


async def test_rows_of_an_unknown_key_are_left_unchanged_and_reported(
    settings: Settings, database: str, tmp_path: Path
) -> None:
    """They are readable again as soon as the key is given."""
    async with _served(settings, OLD) as http:
        thread_id = await _thread(http)
    done = await anyio.to_thread.run_sync(_command(tmp_path, database, NEW))
    async with _served(settings, OLD) as http:
        answer = await http.get(f"/threads/{thread_id}/state")

    assert done.returncode == 1
    assert done.stdout == "encrypted with the new key: 0, already up to date: 0\n"
    assert f"encrypted with a missing key: {len(await _rows(database))}" in done.stderr
    assert answer.json()["values"] == {"rows": ["row"]}


async def test_rotation_goes_on_after_it_was_cut_short(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is committed alone, and a second rotation does not repeat the work of the first."""
    async with _served(settings, OLD) as http:
        for _ in range(3):
            await _thread(http)
    monkeypatch.setattr(key_rotation, "BATCH_ROWS", 2)
    count = len(await _rows(database))
    batches = 0

    class Cut(Exception):
        pass

    class Cutting(AesGcmCipher):
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            nonlocal batches
            batches += 1
            if batches == 5:
                raise Cut
            return super().encrypt(plaintext)

    with pytest.raises(Cut):
        async with await Connection.connect(database, autocommit=True) as conn:
            await key_rotation.rotate(conn, Cutting([NEW.encode(), OLD.encode()]))
    done = await _rotate(database, NEW, OLD)
    again = await _rotate(database, NEW)

    assert (done.rotated, done.current, done.unreadable) == (count - 4, count, 0)
    assert (again.rotated, again.current, again.unreadable) == (0, count, 0)


async def test_rotation_skips_locked_rows_and_reports_them(settings: Settings, database: str) -> None:
    """A row that a run has locked is left for another time."""
    async with _served(settings, OLD) as http:
        await _thread(http)
    count = len(await _rows(database))
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute("SELECT FROM checkpoint_blobs WHERE type <> 'empty' FOR UPDATE")
        with anyio.fail_after(WAIT_S):
            beside = await _rotate(database, NEW, OLD)
    after = await _rotate(database, NEW, OLD)

    assert beside.changed > 0
    assert (beside.rotated, after.rotated) == (count - beside.changed, beside.changed)
    assert (after.current, after.changed) == (count, 0)


def test_a_key_may_contain_commas_if_it_is_the_only_one() -> None:
    """So that a key from before the list is the same key."""
    assert Settings(aes_key="a,b," * 8).aes_keys == (b"a,b," * 8,)  # pyright: ignore[reportArgumentType]
    assert Settings(aes_key=f"{NEW},{OLD}").aes_keys == (NEW.encode(), OLD.encode())  # pyright: ignore[reportArgumentType]
