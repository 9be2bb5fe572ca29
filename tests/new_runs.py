"""Runs for tests that open them by the statement itself."""

from uuid import UUID

from threadkeep.base import ids
from threadkeep.tables.run_creation import NewRun


def new_run(thread_id: UUID, worker_id: UUID | None) -> NewRun:
    """Of a graph that exists, by nobody; `worker_id` begins it at once if its thread is free, and tells nobody before; None: it waits."""
    return NewRun(
        run_id=ids.uuid7(),
        thread_id=thread_id,
        assistant_id=ids.uuid7(),
        graph_id="chain",
        metadata={},
        assistant_metadata={},
        kwargs=b"{}",
        synchronous_commit=False,
        create_thread=True,
        worker_id=worker_id,
    )
