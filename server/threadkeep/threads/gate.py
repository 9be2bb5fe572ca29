"""Gate: locks a thread while a client changes its state.

One transaction locks the thread's row, and reads and writes all checkpoints. So no run starts in between, and the change
is atomic.
"""

import copy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from threadkeep.base.problems import NotFound, ThreadBusy
from threadkeep.graphs import Graph
from threadkeep.persistence.checkpointer import Checkpointer, TransactionCheckpoints
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import threads


@asynccontextmanager
async def held(pool: Pool, filters: Filters, thread_id: UUID, *, within_s: float) -> AsyncGenerator[Conn]:
    """Open a transaction that locks an idle thread until the block ends.

    `within_s` is the most seconds between two statements of the block. NotFound if the caller has no such thread,
    ThreadBusy if it has a running or pending run.
    """
    async with pool.connection(filters) as conn, conn.transaction():
        if not await threads.lock(conn, filters, thread_id, within_s=within_s):
            raise NotFound(f"Thread with ID {thread_id} not found")
        # A separate statement after the lock. It sees a run that was committed during the wait for the lock.
        if run_id := await threads.active_run_id(conn, thread_id):
            raise ThreadBusy(
                "Thread is running a task: its state can be updated after the task has ended.", run_id=str(run_id)
            )
        yield conn


def in_transaction(graph: Graph, conn: Conn) -> Graph:
    """Return the graph with a checkpointer that uses the caller's transaction on `conn`.

    Subgraphs inherit the checkpointer from the called graph. A RemoteGraph stores its threads on another server and is
    returned unchanged.
    """
    checkpointer = getattr(graph, "checkpointer", None)
    if not isinstance(checkpointer, Checkpointer):
        return graph
    # All requests share the loaded graph, so its own checkpointer must not change.
    bound: Any = copy.copy(graph)
    bound.checkpointer = TransactionCheckpoints(checkpointer, conn)
    return bound
