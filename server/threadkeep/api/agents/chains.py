"""Chains: the runs of a task of MCP or A2A, read on behalf of a caller.

The id of a task is that of the first run of its chain, and its state is that of the newest run. A chain is found by an index
(`tables/run_chains.py`). An unknown task and another user's give the same answer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from threadkeep.api.agents.questions import answer_key
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import IdempotencyKeyInUse, IdempotencyKeyReused, NotFound, ServiceUnavailable
from threadkeep.postgres.listen import thread_topic
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.service import Authorized, RunHandle
from threadkeep.tables import queue, run_chains
from threadkeep.tables.run_chains import ACTIVE, ChainRun

ANSWER_S: Final = 10.0
"""The longest that an answer waits for another request that answers or cancels the same chain."""
ANSWER_POLL_S: Final = 0.05
CLOSE: Final = hashlib.sha256(b" close").digest()
"""Stands for the digest of an answer in the key of a request that closes a question. No answer has it."""
NO_THREAD: Final = UUID(int=0)
"""The thread of a task that does not exist. It lets the caller be authorized in the same way."""
FOLLOW_S: Final = 60.0
"""Seconds for which the thread of a chain is followed at a time."""
POLL_S: Final = 5.0
"""Seconds between two reads of a chain without a notification."""


class ChainMovedOn(Exception):
    """The chain no longer waits at the run whose question is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReader:
    """Reads chains with the filters that the caller was given."""

    call: AuthorizedRequest[Any, Any]
    filters: Filters

    async def newest(self, chain_id: UUID) -> ChainRun | None:
        """Return the newest run of a chain, or None if the caller has no such chain."""
        async with self.call.state.pool.shielded(self.filters) as conn:
            return await run_chains.newest_run(conn, self.filters, chain_id)

    async def runs(self, *chain_ids: UUID) -> list[ChainRun]:
        """All runs of the chains, the oldest first. Empty if the caller has none of them."""
        async with self.call.state.pool.shielded(self.filters) as conn:
            return await run_chains.runs_of(conn, self.filters, chain_ids)

    def handle(self, run: ChainRun) -> RunHandle:
        """A run of a chain, to follow it."""
        return self.call.state.runs.handle_of(self.filters, run)

    async def settled(self, chain_id: UUID) -> ChainRun:
        """The newest run of a chain, when the chain has ended or asks. NotFound if it was deleted meanwhile.

        ServiceUnavailable if this process stops first.
        """
        # The end of a run is not the end of its chain: an answer may have made another run meanwhile.
        while run := await self.newest(chain_id):
            if run.state not in ACTIVE:
                return run
            # Other processes may execute the run for a long time, and this one closes its connections soon.
            if self.call.state.signals.leaving.is_set():
                raise ServiceUnavailable("the server is stopping")
            await self.handle(run).ended()
        raise NotFound("Task not found")

    async def moved_on(self, waiting: ChainRun) -> ChainRun | None:
        """The newest run of a chain, when its run `waiting` no longer waits for input. None if it was deleted.

        The run itself, still waiting, if this process stops.
        """
        state = self.call.state
        # Subscribed before the first read, so that no change between the read and the wait is missed.
        with state.wakeups.subscribe(thread_topic(waiting.thread_id)) as signal:
            while True:
                async with state.pool.shielded(self.filters) as conn:
                    # While the thread is followed, each new run of it sends a notification.
                    await queue.record_thread_events(conn, self.filters, waiting.thread_id, FOLLOW_S)
                    newest = await run_chains.newest_run(conn, self.filters, waiting.chain_id)
                if newest is None or newest.run_id != waiting.run_id or newest.state != "input_required":
                    return newest
                if state.signals.leaving.is_set():
                    return newest
                # A notification may be lost, so the chain is read again after a while without one.
                await signal.wait(POLL_S)


async def authorize_chain(call: AuthorizedRequest[Any, Any], chain_id: UUID | None) -> tuple[ChainReader, UUID | None]:
    """Authorize the caller to read the thread of a chain. Return the reader and the thread, which is None if the chain does not exist.

    Whether the caller may see the chain is decided by the reader's filters. Forbidden.
    """
    thread_id = await thread_of_chain(call, chain_id)
    value: dict[str, Any] = {"thread_id": thread_id or NO_THREAD, "run_id": chain_id, "metadata": {}}
    return ChainReader(call=call, filters=await call.authorize("threads.read", value)), thread_id


async def thread_of_chain(call: AuthorizedRequest[Any, Any], chain_id: UUID | None) -> UUID | None:
    """Return the thread of any owner's chain, for authorization, or None."""
    if chain_id is None:
        return None
    async with call.state.pool.connection() as conn:
        return await run_chains.thread_of(conn, chain_id)


async def require_waiting(chains: ChainReader, run: ChainRun, authorized: Authorized) -> Authorized:
    """Return the request of an answer unchanged if the chain still waits at `run`. Raise ChainMovedOn.

    It is called while the request holds the `answer_key`, so no other answer and no cancel comes between.
    """
    newest = await chains.newest(run.chain_id)
    if newest is None or newest.run_id != run.run_id or newest.state != "input_required":
        raise ChainMovedOn
    return authorized


async def close_question(chains: ChainReader, run: ChainRun) -> bool:
    """Cancel a chain that waits for an answer, so that it accepts none. Return False if an answer came first, or may come first.

    The thread waits on, and other surfaces may answer. The caller must be authorized to update the thread.
    """
    try:
        # The key is free afterwards: `require_waiting` refuses later answers to the chain, and those of other surfaces count.
        async with chains.call.state.runs.keys.held(answer_key(run.run_id, CLOSE)):
            return await retry_conflicts(partial(_mark_canceled, chains, run))
    except (IdempotencyKeyInUse, IdempotencyKeyReused):
        return False


async def _mark_canceled(chains: ChainReader, run: ChainRun) -> bool:
    async with chains.call.state.pool.connection(chains.filters) as conn, conn.transaction():
        return await run_chains.cancel_waiting(conn, chains.filters, run)


def parse_chain_id(text: str) -> UUID | None:
    """Return the id in a text, or None if the text is not an id."""
    try:
        return UUID(text)
    except ValueError:
        return None


def interrupts_of(run: ChainRun) -> object:
    """The open interrupts of a chain that waits for input. Empty in every other state."""
    return run.interrupts.load() if run.state == "input_required" else {}


def by_chain(runs: Sequence[ChainRun]) -> dict[UUID, list[ChainRun]]:
    """Runs of several chains, by chain."""
    chains: dict[UUID, list[ChainRun]] = {}
    for run in runs:
        chains.setdefault(run.chain_id, []).append(run)
    return chains
