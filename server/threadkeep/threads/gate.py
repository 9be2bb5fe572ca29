"""Gate: a thread that is held while its state is changed beside its runs.

The thread's row is locked in a transaction, and all checkpoints are read and written in the same transaction. So no run
starts in between, and the change is there whole or not at all.
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
    """A transaction that holds the thread, which no run executes on, until the block ends.

    `within_s` is how long the block may take between two statements, in seconds. NotFound if there is no such thread of
    the caller's, ThreadBusy if a run executes on it or is due.
    """
    async with pool.connection(filters) as conn, conn.transaction():
        if not await threads.lock(conn, filters, thread_id, within_s=within_s):
            raise NotFound(f"Thread with ID {thread_id} not found")
        if run_id := await threads.active_run_id(conn, thread_id):
            raise ThreadBusy(
                "Thread is running a task: its state can be updated when that has ended.", run_id=str(run_id)
            )
        yield conn


def in_transaction(graph: Graph, conn: Conn) -> Graph:
    """The graph with its checkpointer on `conn`, for the caller's transaction there.

    Subgraphs get the checkpointer from the graph that is called. A RemoteGraph keeps its threads elsewhere and is
    returned as it is.
    """
    checkpointer = getattr(graph, "checkpointer", None)
    if not isinstance(checkpointer, Checkpointer):
        return graph
    bound: Any = copy.copy(graph)
    bound.checkpointer = TransactionCheckpoints(checkpointer, conn)
    return bound
