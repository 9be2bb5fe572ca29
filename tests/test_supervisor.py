"""Several processes on one port, and roles: a graph that blocks, a process that is killed, a stop."""

import logging
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import psutil
import pytest

from conftest import free_port
from test_serve import serving_process
from test_stop import asking

log = logging.getLogger(__name__)

LANGGRAPH_JSON = '{"dependencies": ["."], "graphs": {"blocking": "./blocking.py:graph"}}'
BLOCKING = """
import os
import time
from pathlib import Path
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    seconds: float
    pid: int


async def begin(state: State) -> State:
    return {"pid": os.getpid()}


async def block(state: State) -> State:
    with Path("blocked").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(state["seconds"])
    return {}


graph = StateGraph(State).add_sequence([begin, block]).add_edge(START, "begin").compile()
"""
FAST = {"THREADKEEP_LEASE": "5", "THREADKEEP_SWEEP": "0.3"}
LIMIT_S = 0.5
"""The promise is 0.05 s. A loaded machine may take longer."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a graph that blocks the event loop."""
    (tmp_path / "langgraph.json").write_text(LANGGRAPH_JSON)
    (tmp_path / "blocking.py").write_text(BLOCKING)
    return tmp_path


def _children(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


async def _blocked(folder: Path, count: int) -> list[int]:
    """The pids of the processes in which graphs block, when they are so many."""
    path = anyio.Path(folder / "blocked")
    with anyio.fail_after(30):
        while len(pids := set((await path.read_text()).split() if await path.exists() else ())) < count:
            await anyio.sleep(0.02)
    return [int(pid) for pid in pids]


async def _times(http: httpx.AsyncClient, paths: list[str], seconds: float) -> dict[str, list[float]]:
    """How long requests take, by path, in turn for some seconds."""
    times: dict[str, list[float]] = {path: [] for path in paths}
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        for path in paths:
            began = time.monotonic()
            (await http.get(path)).raise_for_status()
            times[path].append(time.monotonic() - began)
    return times


def _tell(times: dict[str, list[float]]) -> None:
    """Log what was measured: `pytest --log-cli-level=info` shows it."""
    for path, seconds in times.items():
        median, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
        log.info("%s: %d requests, median %.1f ms, p95 %.1f ms", path, len(seconds), median * 1000, p95 * 1000)


async def _metrics(http: httpx.AsyncClient) -> dict[str, float]:
    lines = (await http.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def _metrics_of_two(http: httpx.AsyncClient) -> dict[str, float]:
    """The metrics when two processes serve again: each has 12 slots."""
    with anyio.fail_after(30):
        while (found := await _metrics(http))["threadkeep_run_slots"] != 24:
            await anyio.sleep(0.1)
    return found


async def test_graphs_that_block_workers_leave_the_api_fast_and_a_killed_worker_is_replaced(
    database: str, project: Path
) -> None:
    """Issue 20: one process of role api, two of role worker below a supervisor."""
    own = {"DATABASE_URI": database, **FAST}
    async with (
        serving_process(project, **own, THREADKEEP_ROLE="api") as (_, api),
        serving_process(project, **own, THREADKEEP_ROLE="worker", THREADKEEP_WORKERS="2") as (supervisor, health),
    ):
        thread = f"/threads/{(await api.post('/threads', json={})).json()['thread_id']}"
        body = {"assistant_id": "blocking", "input": {"seconds": 0}}
        assert (await api.post(f"{thread}/runs/wait", json=body)).json()["seconds"] == 0

        (project / "blocked").unlink()
        slow = {"assistant_id": "blocking", "input": {"seconds": 3}}

        async def start() -> dict[str, str]:
            return (await api.post("/runs", json={**slow, "on_completion": "keep"})).json()

        # One process could claim all runs that are in the queue before its first one blocks it.
        runs = [await start()]
        await _blocked(project, 1)
        runs += [await start() for _ in range(3)]
        blocked = await _blocked(project, 2)
        assert set(blocked) == {child.pid for child in _children(supervisor)}
        times = await _times(api, ["/livez", thread, f"{thread}/state"], 2)
        os.kill(blocked[0], signal.SIGKILL)
        for run in runs:
            joined = await api.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")
            assert joined.json()["seconds"] == 3
        metrics = [await _metrics_of_two(health), await _metrics(api)]

    _tell(times)
    assert all(statistics.quantiles(seconds, n=20)[-1] < LIMIT_S for seconds in times.values())
    assert sum(found["threadkeep_run_recoveries_total"] for found in metrics) >= 1  # any process may recover runs
    assert metrics[0]['threadkeep_runs_total{graph_id="blocking",outcome="success"}'] >= 4


async def test_a_stop_drains_all_processes(database: str, tmp_path: Path) -> None:
    """Issue 20: also if a service manager sends its signal to each of them, as systemd does."""
    own = {"DATABASE_URI": database, "THREADKEEP_WORKERS": "2", "LOG_LEVEL": "info", "THREADKEEP_LINGER": "0.2"}
    async with serving_process(tmp_path, **own) as (supervisor, http):
        await _metrics_of_two(http)
        children = _children(supervisor)
        async with http.stream("POST", "/runs/stream", json=asking(2)) as answer:
            for pid in (supervisor.pid, *(child.pid for child in children)):
                os.kill(pid, signal.SIGTERM)
            streamed = await answer.aread()
        with anyio.fail_after(15):
            code = await anyio.to_thread.run_sync(supervisor.wait)

    assert code == 0
    assert b"event: values" in streamed
    assert b"the server is stopping" not in streamed
    assert [child.is_running() for child in children] == [False, False]
    assert (
        '"message":"waiting for runs","logger":"threadkeep.serving","runs":1,"at_most_s":20'
        in (tmp_path / "log").read_text()
    )


async def test_a_second_signal_ends_all_processes_at_once(database: str, tmp_path: Path) -> None:
    """Ours: as with one process. Their runs return to the queue."""
    own = {"DATABASE_URI": database, "THREADKEEP_WORKERS": "2"}
    async with serving_process(tmp_path, **own) as (supervisor, http):
        run = (await http.post("/runs", json=asking(60))).json()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        with anyio.fail_after(10):
            while (await http.get(path)).json()["status"] != "running":
                await anyio.sleep(0.05)
        supervisor.send_signal(signal.SIGTERM)
        await anyio.sleep(0.5)
        supervisor.send_signal(signal.SIGTERM)
        with anyio.fail_after(15):
            await anyio.to_thread.run_sync(supervisor.wait)


def test_a_graph_that_can_not_be_loaded_stops_the_start(database: str, project: Path) -> None:
    """Issue 20: one line, and the same exit code as with one process."""
    (project / "blocking.py").write_text("raise ValueError('no such thing')")
    environment = {**os.environ, "DATABASE_URI": database, "PORT": str(free_port()), "LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "threadkeep", "serve"]
    one, several = (
        subprocess.run([*command, *more], cwd=project, env=environment, capture_output=True, text=True, check=False)
        for more in ((), ("--workers", "2"))
    )

    assert (several.returncode, several.stderr, several.stdout) == (one.returncode, one.stderr, one.stdout)
    assert several.returncode == 1
    assert several.stderr.count("\n") == 1
