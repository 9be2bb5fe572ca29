"""Thread reader: reads a thread on behalf of a caller, also after the runs before have ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

import anyio

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base import json
from threadkeep.graphs import Tenant
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import runs, thread_checkpoints, thread_runs, threads
from threadkeep.tables.runs import Run
from threadkeep.tables.thread_runs import WaitingThread
from threadkeep.tables.threads import Thread
from threadkeep.threads import history
from threadkeep.threads.history import CheckpointRef

SETTLE_S: Final = 60.0
"""The longest that a request waits for the runs before it, whose outcome decides how it continues the thread."""
MAX_RUNS_BEFORE: Final = 10
"""Of so many runs, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadReader:
    """Reads a thread on behalf of a caller."""

    call: AuthorizedRequest[Any, Any]
    filters: Filters

    @property
    def tenant(self) -> Tenant:
        """The caller to the thread's graph."""
        return Tenant.of(self.call.caller.user, self.filters)

    async def settled(self, thread_id: UUID) -> Thread | None:
        """Wait for the thread's active runs to end, and return the thread. None if the caller has no such thread."""
        service, thread = self.call.state.runs, None
        # Each end may let a queued run of the thread start. A busy thread must not hold the request forever.
        for _ in range(MAX_RUNS_BEFORE):
            async with service.pool.connection(self.filters) as conn:
                thread = await threads.get(conn, self.filters, thread_id)
                if thread is None or thread.status != "busy":
                    return thread
                # The newest run, because the runs of a thread end in their order.
                newest = await thread_runs.newest_run(conn, self.filters, thread_id)
            if newest is None:
                return thread
            with anyio.move_on_after(SETTLE_S):
                await service.follower.ended(self.filters, newest.run_id)
        return thread

    async def look(self, thread_id: UUID, run_ids: Sequence[UUID]) -> tuple[list[Run], Thread | None]:
        """Return those of the runs that the thread has, and the present thread. None if the caller has no such thread."""
        async with self.call.state.pool.connection(self.filters) as conn:
            several = await runs.get_several(conn, self.filters, run_ids)
            thread = await threads.get(conn, self.filters, thread_id)
        # A client's run id may be that of a run on another thread, which this request is not about.
        return [run for run in several if run.thread_id == thread_id], thread

    async def thread(self, thread_id: UUID) -> Thread | None:
        """Return the present thread, or None if the caller has no such thread."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await threads.get(conn, self.filters, thread_id)

    async def run(self, thread_id: UUID, run_id: UUID) -> Run | None:
        """Return a run of the thread, or None if the caller has no such run."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await runs.get(conn, self.filters, thread_id, run_id)

    async def newest_run(self, thread_id: UUID) -> Run | None:
        """Return the newest run of the thread, or None. The thread's questions come from this run."""
        async with self.call.state.pool.connection(self.filters) as conn:
            newest = await thread_runs.newest_run(conn, self.filters, thread_id)
            return newest and await runs.get(conn, self.filters, thread_id, newest.run_id)

    async def waiting(self, thread_id: UUID) -> WaitingThread | None:
        """Return the thread's questions and its newest run at one moment. None if the caller has no such thread."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await thread_runs.waiting_thread(conn, self.filters, thread_id)

    async def newest(self, thread: Thread) -> str | None:
        """The newest checkpoint of the thread."""
        return await self.newest_with(thread, {})

    async def newest_mark(self, thread: Thread, key: str) -> str | None:
        """The mark under `key` of the run that made the newest checkpoint."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await thread_checkpoints.newest_mark(conn, self.filters, thread.thread_id, key)

    async def newest_with(self, thread: Thread, mark: Mapping[str, str]) -> str | None:
        """The newest checkpoint whose metadata contains `mark`."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await thread_checkpoints.newest_with(conn, self.filters, thread.thread_id, mark)

    async def first(self, thread: Thread) -> str | None:
        """The first checkpoint of the thread, which is empty unless the thread was made with a state."""
        async with self.call.state.pool.connection(self.filters) as conn:
            return await thread_checkpoints.first_id(conn, self.filters, thread.thread_id)

    async def state_at(self, thread: Thread, checkpoint_id: str | None) -> dict[str, Any]:
        """The state at a checkpoint. AnswerTooLarge."""
        at = CheckpointRef(checkpoint_id=checkpoint_id)
        read = await history.get_state(self.call.state.threads, self.tenant, thread, at)
        # Through JSON, because a client sees messages as JSON and not as objects. A large state is encoded in a thread.
        return cast("dict[str, Any]", json.loads(await json.dumps_apart(read.state, size=read.bytes)))
