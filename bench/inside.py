"""The graph in this process, without a server: no saver, the stock saver, ours. Prints runs a second as JSON.

A process of its own, on uvloop as the server is: `python bench/inside.py POSTGRES_URI SECONDS CLIENTS`.
"""

import json
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
from echo import INPUT, builder
from threadkeep.db.checkpoints import open_checkpoints
from threadkeep.db.pool import open_runs_pool
from threadkeep.settings import Settings


async def rate(saver: Any, seconds: float, clients: int, **options: Any) -> float:
    """Runs a second of `clients` at once, each run on a thread of its own."""
    graph, done, end = builder.compile(checkpointer=saver), 0, time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await graph.ainvoke(INPUT, {"configurable": {"thread_id": str(uuid.uuid4())}}, **options)
            done += 1

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return done / (time.perf_counter() - began)


async def main(uri: str, seconds: float, clients: int) -> None:
    """All cases once, one after the other."""
    settings = Settings()
    arguments = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    size = settings.run_connections
    async with (
        AsyncConnectionPool(uri, min_size=size, max_size=size, kwargs=arguments, open=False) as pool,
        open_runs_pool(settings, uri) as own_pool,
        open_checkpoints(own_pool) as ours,
    ):
        stock = AsyncPostgresSaver(pool)  # pyright: ignore[reportArgumentType] - a pool of dict rows
        found = {"graph alone": await rate(None, seconds, clients)}
        for durability in ("async", "exit"):
            found[f"stock saver, {durability}"] = await rate(stock, seconds, clients, durability=durability)
            found[f"our saver, {durability}"] = await rate(ours, seconds, clients, durability=durability)
    print(json.dumps(found))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
