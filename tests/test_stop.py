"""Told to stop: what load balancers, clients and the operator see of it."""

import signal
import subprocess
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest

from test_serve import serving_process


def asking(seconds: float, **more: Any) -> dict[str, Any]:
    """A run that takes so long."""
    return {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "hello"}]},
        "config": {"configurable": {"simulated_latency_s": seconds}},
        "stream_mode": "values",
    } | more


async def told_to_stop(process: subprocess.Popen[bytes], stream: AbstractAsyncContextManager[httpx.Response]) -> bytes:
    """Tell the process to stop when the stream has begun; what the stream says until it breaks off."""
    received = b""
    async with stream as answer:
        process.send_signal(signal.SIGTERM)
        try:
            async for chunk in answer.aiter_raw():
                received += chunk
        except httpx.RemoteProtocolError:
            return received
    raise AssertionError("the stream ended as if its run had")


async def test_listener_stays_open_for_a_while_but_is_not_ready(database: str, tmp_path: Path) -> None:
    """Ours: readiness is false at once; requests are taken until load balancers have seen it, and refused then."""
    async with serving_process(tmp_path, DATABASE_URI=database, THREADKEEP_LINGER="1.5") as (process, http):
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with anyio.fail_after(1):
            while (await http.get("/readyz")).status_code != 503:
                await anyio.sleep(0.02)
        async with httpx.AsyncClient(base_url=http.base_url) as another:
            answer = await another.post("/query", json={"query": "What is 6 * 7?"})
        with anyio.fail_after(10):
            code = await anyio.to_thread.run_sync(process.wait)

        async with httpx.AsyncClient(base_url=http.base_url) as another:
            with pytest.raises(httpx.ConnectError):
                await another.get("/livez")
    assert (answer.status_code, code) == (200, 0)
    assert time.monotonic() - began >= 1.5


async def test_stream_of_a_run_that_does_not_end_in_time_is_told_when_to_come_again(
    database: str, tmp_path: Path
) -> None:
    """Ours: the last it gets is a comment and `retry`; it does not look as if it had ended; the run is put back."""
    quick = {"DATABASE_URI": database, "THREADKEEP_LINGER": "0.2", "THREADKEEP_DRAIN": "1"}
    async with serving_process(tmp_path, **quick) as (process, http):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run = asking(60, stream_resumable=True)
        with anyio.fail_after(15):
            received = await told_to_stop(process, http.stream("POST", f"/threads/{thread_id}/runs/stream", json=run))
        with anyio.fail_after(10):
            code = await anyio.to_thread.run_sync(process.wait)

    assert code == 0
    assert received.endswith(b": the server is stopping\r\nretry: 1000\r\n")
    async with await psycopg.AsyncConnection.connect(database) as conn:
        found = await (await conn.execute("SELECT status, attempt FROM runs")).fetchall()
    assert found == [("pending", 0)]


async def test_stream_of_a_thread_is_ended_as_soon_as_no_run_goes_on(database: str, tmp_path: Path) -> None:
    """Ours: streams that never end by themselves hold no process back."""
    async with serving_process(tmp_path, DATABASE_URI=database, THREADKEEP_LINGER="0.2") as (process, http):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        began = time.monotonic()
        with anyio.fail_after(10):
            await told_to_stop(process, http.stream("GET", f"/threads/{thread_id}/stream"))
        with anyio.fail_after(10):
            code = await anyio.to_thread.run_sync(process.wait)

    assert code == 0
    assert time.monotonic() - began < 6


async def test_second_signal_ends_the_process_at_once(database: str, tmp_path: Path) -> None:
    """Ours: without waiting for the runs, which are put back all the same."""
    async with serving_process(tmp_path, DATABASE_URI=database) as (process, http):
        run_id = (await http.post("/runs", json=asking(60))).json()["run_id"]
        with anyio.fail_after(5):
            while (await http.get("/info")).json()["load"]["running"] == 0:
                await anyio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        await anyio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(5):
            await anyio.to_thread.run_sync(process.wait)

    async with await psycopg.AsyncConnection.connect(database) as conn:
        found = await (await conn.execute("SELECT run_id::text, status, attempt FROM runs")).fetchall()
    assert found == [(run_id, "pending", 0)]


DEAF = """
import time

from langgraph.graph import StateGraph


def sleeper(state: dict) -> dict:
    time.sleep(600)
    return state


graph = StateGraph(dict).add_node("sleeper", sleeper).set_entry_point("sleeper").compile()
"""


async def test_node_that_can_not_be_stopped_does_not_keep_the_process(database: str, tmp_path: Path) -> None:
    """Ours: one that sleeps in a thread is left behind, its run put back, and the exit code is 0."""
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"deaf": "./deaf.py:graph"}}')
    quick = {
        "DATABASE_URI": database,
        "THREADKEEP_LINGER": "0",
        "THREADKEEP_DRAIN": "0.5",
        "THREADKEEP_STOP_GRACE": "1",
    }
    async with serving_process(tmp_path, **quick) as (process, http):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        made = await http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "deaf", "input": {}})
        with anyio.fail_after(10):
            while (await http.get(f"/threads/{thread_id}/runs/{made.json()['run_id']}")).json()["status"] != "running":
                await anyio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(15):
            code = await anyio.to_thread.run_sync(process.wait)

    async with await psycopg.AsyncConnection.connect(database) as conn:
        row = await (await conn.execute("SELECT status FROM runs")).fetchone()
    assert (code, row) == (0, ("pending",))


async def test_run_that_is_being_opened_is_waited_for(database: str, tmp_path: Path) -> None:
    """Ours: told to come again, its client would make it a second time, for it is opened all the same."""
    quick = {"DATABASE_URI": database, "THREADKEEP_LINGER": "0", "THREADKEEP_DRAIN": "8"}
    answers: list[httpx.Response] = []
    async with serving_process(tmp_path, **quick) as (process, http):
        path = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}/runs/wait"

        async def ask() -> None:
            answers.append(await http.post(path, json=asking(0)))

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks, await psycopg.AsyncConnection.connect(database) as conn:
                await conn.execute("SELECT FROM threads FOR UPDATE")  # until the block ends
                tasks.start_soon(ask)
                await anyio.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                await anyio.sleep(0.5)
            code = await anyio.to_thread.run_sync(process.wait)

    assert ([answer.status_code for answer in answers], code) == ([200], 0)
    async with await psycopg.AsyncConnection.connect(database) as conn:
        assert await (await conn.execute("SELECT status FROM runs")).fetchall() == [("success",)]
