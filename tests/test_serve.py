"""The server as a process: the rows that survive a kill, and the stop by a signal."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from conftest import free_port
from faults import forks


@asynccontextmanager
async def serving_process(
    folder: Path, **settings: str | None
) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx.AsyncClient]]:
    """`threadkeep serve` in a process of its own; killed at the end, if it still runs."""
    port = free_port()
    said = {**os.environ, "HOME": str(folder), "PORT": str(port), "LOG_LEVEL": "warning", **settings}
    environment = {name: value for name, value in said.items() if value is not None}
    with (folder / "log").open("ab") as output:
        process = await anyio.to_thread.run_sync(
            lambda: forks.start("serve", cwd=folder, env=environment, stdout=output, stderr=output)
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            await _ready(process, http, folder)
            yield process, http
    finally:
        process.kill()
        await anyio.to_thread.run_sync(process.wait)


async def _ready(process: subprocess.Popen[bytes], http: httpx.AsyncClient, folder: Path) -> None:
    with anyio.fail_after(30):
        while True:
            if process.poll() is not None:
                raise AssertionError(await anyio.Path(folder / "log").read_text())
            try:
                if (await http.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                await anyio.sleep(0.05)


async def _ask(http: httpx.AsyncClient, query: str, thread_id: str | None = None) -> dict[str, str]:
    body = {"query": query} | ({"thread_id": thread_id} if thread_id else {})
    answer = await http.post("/query", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_thread_survives_a_kill(database: str, tmp_path: Path) -> None:
    """Ours: memory persistence, which the original test failed."""
    async with serving_process(tmp_path, DATABASE_URI=database) as (process, http):
        thread_id = (await _ask(http, "My name is Ada."))["thread_id"]
        process.kill()

    async with serving_process(tmp_path, DATABASE_URI=database) as (_, http):
        assert "Ada" in (await _ask(http, "What is my name?", thread_id))["response"]


async def test_run_of_a_killed_process_is_taken_over(database: str, tmp_path: Path) -> None:
    """Ours: an accepted run ends, whatever dies; its attempt is counted."""
    fast = {"DATABASE_URI": database, "THREADKEEP_LEASE": "1", "THREADKEEP_SWEEP": "0.3"}
    run = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "What is 6 * 7?"}]},
        "config": {"configurable": {"simulated_latency_s": 3}},
    }
    async with serving_process(tmp_path, **fast) as (process, http):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=run)).json()["run_id"]
        path = f"/threads/{thread_id}/runs/{run_id}"
        with anyio.fail_after(5):
            while (await http.get(path)).json()["status"] != "running":
                await anyio.sleep(0.02)
        process.kill()

    async with serving_process(tmp_path, **fast) as (_, http):
        with anyio.fail_after(15):
            answer = (await http.get(f"{path}/join")).json()
        messages = (await http.get(f"/threads/{thread_id}/state")).json()["values"]["messages"]
        thread = (await http.get(f"/threads/{thread_id}")).json()

    assert "42" in answer["messages"][-1]["content"]
    assert [message["content"] for message in messages if message["type"] == "human"] == ["What is 6 * 7?"]
    assert thread["status"] == "idle"


@pytest.mark.parametrize("received", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_it_ends_its_runs_and_exits_with_0(
    database: str, tmp_path: Path, received: signal.Signals
) -> None:
    """Ours: a stop that was asked for is no failure, and no stream is cut."""
    run = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "hello"}]},
        "config": {"configurable": {"simulated_latency_s": 1}},
        "stream_mode": "values",
    }
    async with serving_process(tmp_path, DATABASE_URI=database) as (process, http):
        async with http.stream("POST", "/runs/stream", json=run) as answer:
            process.send_signal(received)
            streamed = await answer.aread()
        with anyio.fail_after(10):
            code = await anyio.to_thread.run_sync(process.wait)

    assert code == 0
    assert streamed.decode().count("event: values") >= 1


async def test_busy_port_is_an_error(database: str, tmp_path: Path) -> None:
    """Ours: it does not take another port, which no client would find."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {**os.environ, "DATABASE_URI": database, "PORT": str(taken.getsockname()[1])}
        done = await anyio.run_process([sys.executable, "-m", "threadkeep", "serve"], check=False, env=environment)

    assert done.returncode == 1
    assert "in use" in done.stderr.decode()


async def test_unknown_setting_stops_the_start(tmp_path: Path) -> None:
    """Ours: a misspelt setting is not in force, so it must not look as if."""
    environment = {**os.environ, "THREADKEEP_RUN_SLOT": "3"}
    done = await anyio.to_thread.run_sync(lambda: forks.run("serve", cwd=tmp_path, env=environment))
    fresh = await anyio.run_process(done.args, check=False, env=environment, cwd=str(tmp_path))

    assert done.returncode == 1
    assert "did you mean THREADKEEP_RUN_SLOTS?" in done.stderr
    assert (done.returncode, done.stdout, done.stderr) == (
        fresh.returncode,
        fresh.stdout.decode(),
        fresh.stderr.decode(),
    ), "a fork is not as a fresh process"


async def test_stream_of_a_run_that_was_taken_over_goes_on_behind_what_was_told(database: str, tmp_path: Path) -> None:
    """Ours: ids rise over attempts, and no event comes twice. A `metadata` event marks the new attempt."""
    fast = {"DATABASE_URI": database, "THREADKEEP_LEASE": "1", "THREADKEEP_SWEEP": "0.3"}
    run = {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": "hello"}]},
        "config": {"configurable": {"simulated_latency_s": 2}},
        "stream_mode": "messages-tuple",
        "stream_resumable": True,
    }
    async with serving_process(tmp_path, **fast) as (process, http):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        async with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=run) as answer:
            location = answer.headers["location"]
            told = [line async for line in _ids(answer, 4)]
            await anyio.sleep(0.2)
            process.kill()

    async with serving_process(tmp_path, **fast) as (_, http):
        with anyio.fail_after(15):
            rest = (await http.get(location, headers={"last-event-id": str(told[-1])})).text

    ids = [int(line[4:]) for line in rest.splitlines() if line.startswith("id: ")]
    assert told == [1, 2, 3, 4]
    assert ids == sorted(set(ids))
    assert ids[0] > told[-1]
    assert '"attempt":2' in rest


LOOKING = """
import os
from typing import Any
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph

NAMES = ("DATABASE_URL", "PGHOST", "PGOPTIONS", "HOST", "AUTH_TYPE", "LOG_LEVEL", "LOG_JSON", "TOKEN")

class State(TypedDict, total=False):
    seen: Any

async def look(state: State) -> State:
    return {"seen": {name: os.environ.get(name) for name in NAMES}}

graph = StateGraph(State).add_node(look).add_edge(START, "look").compile()
"""


async def test_a_projects_env_is_for_its_graphs_and_steers_no_server(tmp_path: Path) -> None:
    """Issue: an app's own `DATABASE_URL`, `PGHOST` or `LOG_LEVEL` neither stops the start nor is taken for a setting."""
    app = {
        "DATABASE_URL": "sqlite:///app.db",
        "PGHOST": "db.app.invalid",
        "PGOPTIONS": "-c no_such_parameter=1",
        "HOST": "0.0.0.0",  # noqa: S104 - that this is not taken is the point
        "AUTH_TYPE": "oauth",
        "LOG_LEVEL": "VERBOSE",
        "LOG_JSON": "/var/log/app.json",
        "TOKEN": "secret",
    }
    own = {"THREADKEEP_LOG_LEVEL": "info", "THREADKEEP_DATA_DIR": str(tmp_path / "data"), "REDIS_URI": "redis://r"}
    (tmp_path / "looking.py").write_text(LOOKING)
    (tmp_path / ".env").write_text("\n".join(f"{name}={value}" for name, value in {**app, **own}.items()))
    (tmp_path / "langgraph.json").write_text('{"graphs": {"looking": "./looking.py:graph"}, "env": ".env"}')
    async with serving_process(tmp_path, LOG_LEVEL=None) as (process, http):
        seen = (await http.post("/runs/wait", json={"assistant_id": "looking", "input": {}})).json()["seen"]
        process.terminate()  # a killed server leaves its Postgres behind
        await anyio.to_thread.run_sync(process.wait)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    told = {line["message"]: line for line in lines}

    assert seen == app
    assert told["settings read"]["from_project"] == ["THREADKEEP_DATA_DIR", "THREADKEEP_LOG_LEVEL"]
    assert told["settings read"]["left_to_the_project"] == sorted(app.keys() - {"TOKEN", "PGOPTIONS"})
    assert told["variables without an effect on this server are ignored"]["variables"] == ["REDIS_URI"]
    assert "secret" not in (tmp_path / "log").read_text()


async def _ids(answer: httpx.Response, count: int) -> AsyncIterator[int]:
    """The first ids of a stream."""
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            yield int(line[4:])
            count -= 1
            if count == 0:
                return
