"""Event commit: the events of all kept runs, those that come together in one statement.

A transaction for each stream would cost more than its tokens.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeAlias

from threadkeep.postgres.batch_writer import Together
from threadkeep.postgres.pool import Pool
from threadkeep.tables import run_events
from threadkeep.tables.run_events import Batch

MOST_CHARACTERS: Final = 4 * 1024 * 1024
"""Of one statement, so that many large events are not put together in memory."""

EventCommit: TypeAlias = Together[Batch, None]


@asynccontextmanager
async def committing(pool: Pool) -> AsyncGenerator[EventCommit]:
    """An event commit whose writer runs until the block ends."""
    async with Together(partial(_append, pool), size=_characters, most=MOST_CHARACTERS).running() as commits:
        yield commits


def _characters(batch: Batch) -> int:
    return sum(len(event.data) for event in batch.events)


async def _append(pool: Pool, batches: list[Batch]) -> Sequence[None]:
    async with pool.connection() as conn:
        await run_events.append(conn, batches)
    return [None] * len(batches)
