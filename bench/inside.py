"""The graph in this process, without a server: no saver, the stock saver, ours. Prints JSON.

A process of its own, on uvloop as the server is: `python bench/inside.py POSTGRES_URI SECONDS CLIENTS`. Each case has
runs a second, the median of a run in milliseconds, and this process' CPU a run.
"""

import json
import statistics
import sys
import time
import uuid
from typing import Any

import anyio
import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

import threadkeep  # noqa: F401 - before langgraph, whose strict msgpack it turns on
from graphs.echo import INPUT, builder
from threadkeep.persistence.checkpointer import Checkpointer
from threadkeep.persistence.group_commit import open_group_commit
from threadkeep.postgres.pool import open_runs_pool
from threadkeep.settings import Settings


async def measured(saver: Any, seconds: float, clients: int, **options: Any) -> dict[str, float]:
    """`clients` at once, each run on a thread of its own."""
    graph, latencies = builder.compile(checkpointer=saver), list[float]()
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            await graph.ainvoke(INPUT, {"configurable": {"thread_id": str(uuid.uuid4())}}, **options)
            latencies.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return {
        "runs": len(latencies),
        "rate": len(latencies) / (time.perf_counter() - began),
        "p50_ms": statistics.median(latencies) * 1000,
        "cpu_ms": (time.process_time() - cpu) * 1000 / len(latencies),
    }


async def main(uri: str, seconds: float, clients: int) -> None:
    """All cases once, one after the other."""
    settings = Settings()
    # As `AsyncPostgresSaver.from_conn_string` sets them. With other values the stock saver would be slower.
    arguments = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    # The same number of connections for both savers.
    size = settings.run_connections
    async with (
        AsyncConnectionPool(uri, min_size=size, max_size=size, kwargs=arguments, open=False) as pool,
        open_runs_pool(settings, uri) as own_pool,
        open_group_commit(own_pool) as commits,
    ):
        ours = Checkpointer(own_pool, commits)
        stock = AsyncPostgresSaver(pool)  # pyright: ignore[reportArgumentType] - a pool of dict rows
        figures: dict[str, dict[str, float]] = {}
        for durability in ("async", "exit"):
            figures[f"stock saver, {durability}"] = await measured(stock, seconds, clients, durability=durability)
            figures[f"our saver, {durability}"] = await measured(ours, seconds, clients, durability=durability)
        figures["no saver"] = await measured(None, seconds, clients)  # last: next the server is measured without one
    print(json.dumps(figures))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
