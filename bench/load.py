"""A load on servers of the LangGraph API, from a separate process. Prints JSON.

KIND is `stateless`, `new thread` (a thread for each run, in one request), `two requests` (the same, with a separate request
for the thread), or `same thread` (one thread for each client). Clients take the ports and the keys in turn.
"""

import argparse
import json
import statistics
import time
import uuid
from dataclasses import dataclass, field

import anyio
import uvloop

from connection import Connection, connected, dumped

RUN = {"assistant_id": "echo", "input": {"messages": [{"role": "user", "content": "hello"}]}}
STATELESS = dumped(RUN)
CREATING = dumped({**RUN, "if_not_exists": "create"})
KINDS = ("stateless", "new thread", "two requests", "same thread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Until when or how often, and how long each run took, in seconds."""

    kind: str
    end: float
    runs: int
    keys: list[str] = field(default_factory=list[str])
    """API keys. Empty: the server has no authentication."""
    latencies: list[float] = field(default_factory=list[float])

    def goes_on(self) -> bool:
        """Whether one more run is to be started."""
        return len(self.latencies) < self.runs and time.perf_counter() < self.end


async def run_once(connection: Connection, kind: str, thread_id: str) -> None:
    """Make one run of the graph and check its answer. Raise RuntimeError if it is wrong."""
    if kind == "stateless":
        answer = await connection.post("/runs/wait", STATELESS)
    else:
        if kind == "two requests":
            await connection.post("/threads", dumped({"thread_id": thread_id}))
        answer = await connection.post(f"/threads/{thread_id}/runs/wait", CREATING)
    # A server that answers an error quickly must not look fast.
    if b"echo: hello" not in answer:
        raise RuntimeError(f"a wrong answer: {answer[:300]!r}")


async def _client(port: int, key: str | None, load: Load) -> None:
    async with connected(port, key) as connection:
        thread_id = str(uuid.uuid4())
        while load.goes_on():
            if load.kind != "same thread":
                thread_id = str(uuid.uuid4())
            began = time.perf_counter()
            await run_once(connection, load.kind, thread_id)
            load.latencies.append(time.perf_counter() - began)


async def main(ports: list[int], clients: int, load: Load) -> None:
    """One load, and its figures."""
    began, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for number in range(clients):
            key = load.keys[number % len(load.keys)] if load.keys else None
            tasks.start_soon(_client, ports[number % len(ports)], key, load)
    elapsed = time.perf_counter() - began
    latencies = load.latencies
    figures = {
        "runs": len(latencies),
        "rate": len(latencies) / elapsed,
        "p50_ms": statistics.median(latencies) * 1000,
        # `inclusive`, because the default extrapolates beyond the slowest run if there are few.
        "p99_ms": statistics.quantiles(latencies, n=100, method="inclusive")[98] * 1000 if len(latencies) > 1 else 0,
        "client_cpu_ms": (time.process_time() - cpu) * 1000 / len(latencies),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ports", type=lambda text: [int(port) for port in text.split(",")])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("clients", type=int)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--keys", type=lambda text: text.split(","), default=[])
    chosen = parser.parse_args()
    end = time.perf_counter() + chosen.seconds
    uvloop.run(main(chosen.ports, chosen.clients, Load(kind=chosen.kind, end=end, runs=chosen.runs, keys=chosen.keys)))
