"""The protocol v2 against v1: the server's cost of a token, with twelve streaming threads.

Starts a server of its own on an embedded Postgres, lets twelve clients stream the graph `words` through v1
(`/runs/stream`, messages and values), through v1 with all that v2 streams (every mode, subgraphs, resumable), and through
v2 (`run.start`, then the events of a thread), in turns, and compares the CPU time of the server's process. Prints a table.
With --write it goes into docs/benchmarks.md.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import psutil

from parts import Part, Ratios, main

FOLDER = Path(__file__).parent / "graphs"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
STREAM = {"assistant_id": "words", "input": HELLO, "if_not_exists": "create"}
EVERY = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "tools"]
CHANNELS = ["values", "messages", "lifecycle", "input", "tools", "updates", "custom", "tasks", "checkpoints"]
CLIENTS = 12
LIMIT = 1.3
"""The most that v2 may cost, of v1."""

Way = Callable[[httpx.AsyncClient], Awaitable[int]]


async def v1(http: httpx.AsyncClient) -> int:
    """Make a run of v1. Return the number of tokens."""
    return await _run(http, {"stream_mode": ["messages-tuple", "values"]})


async def v1_everything(http: httpx.AsyncClient) -> int:
    """The same with all that v2 streams."""
    return await _run(http, {"stream_mode": EVERY, "stream_subgraphs": True, "stream_resumable": True})


async def _run(http: httpx.AsyncClient, more: dict[str, object]) -> int:
    tokens = 0
    async with http.stream("POST", f"/threads/{uuid.uuid4()}/runs/stream", json=STREAM | more) as answer:
        async for line in answer.aiter_lines():
            tokens += line == "event: messages"
    return tokens - 1  # the model's last chunk is empty


async def v2(http: httpx.AsyncClient) -> int:
    """Make a run of v2 and follow it to its end. Return the number of tokens."""
    thread, tokens = f"/threads/{uuid.uuid4()}", 0
    params = {"assistant_id": "words", "input": HELLO}
    started = await http.post(f"{thread}/commands", json={"id": 1, "method": "run.start", "params": params})
    started.raise_for_status()
    async with http.stream("POST", f"{thread}/stream/events", json={"channels": CHANNELS}) as answer:
        async for line in answer.aiter_lines():
            tokens += '"text-delta"' in line
            # The cheap test first: most lines are tokens, and parsing them would slow the client.
            if line.startswith("data: ") and '"completed"' in line and json.loads(line[6:])["method"] == "lifecycle":
                return tokens
    raise RuntimeError("the stream ended before its run")


WAYS: dict[str, Way] = {"v1": v1, "v1, every mode, resumable": v1_everything, "v2": v2}


async def measure(port: int, server: psutil.Process, clients: int, seconds: float, rounds: int) -> dict[str, float]:
    """CPU milliseconds of the server a token, the median of the rounds, by way."""
    ratios: dict[str, list[float]] = {name: [] for name in WAYS}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits) as http:
        for _ in range(rounds + 1):
            for name, way in WAYS.items():
                before = _cpu(server)
                tokens = await at_once(http, way, clients, seconds)
                ratios[name].append((_cpu(server) - before) * 1000 / tokens)
    # Without the first round, in which caches and pools are filled.
    return {name: statistics.median(costs[1:]) for name, costs in ratios.items()}


def _cpu(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


async def at_once(http: httpx.AsyncClient, way: Way, clients: int, seconds: float) -> int:
    """The tokens that several clients read in so many seconds."""
    end, total = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal total
        while time.monotonic() < end:
            tokens = await way(http)
            total += tokens

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return total


def measured(seconds: float, rounds: int) -> dict[str, float]:
    """CPU milliseconds a token by way, of a server that is started for it."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        # Only now can the server bind the port.
        free.close()
        serve = [sys.executable, "-m", "threadkeep", "serve", "--port", str(port)]
        # Nothing else is inherited: a developer's own settings would be measured.
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "THREADKEEP_DATA_DIR": folder}
        with subprocess.Popen(
            serve, cwd=FOLDER, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                _wait(port)
                ratios = asyncio.run(measure(port, psutil.Process(server.pid), CLIENTS, seconds, rounds))
            finally:
                server.terminate()
    return ratios


def table(ratios: Ratios) -> list[str]:
    """Return the ways and their costs as Markdown."""
    rows = [f"| {name} | {cost:.3f} | {cost / ratios['v1']:.2f}x |" for name, cost in ratios.items()]
    return [f"| {CLIENTS} token streams | CPU ms a token | of v1 |", "|---|---|---|", *rows]


def _wait(port: int) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)  # noqa: TID251 - nothing else goes on here
    raise RuntimeError("the server did not start")


PART = Part(
    section="protocol",
    description=__doc__,
    measure=measured,
    table=table,
    is_missed=lambda ratios: ratios["v2"] > LIMIT * ratios["v1"],
    note=f". v2 must cost at most {LIMIT}x",
)

if __name__ == "__main__":
    raise SystemExit(main(PART))
