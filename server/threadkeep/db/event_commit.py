"""Event commit: the events of all kept runs, those that come together in one statement.

A transaction for each stream would cost more than its tokens. Who comes first writes for all that wait; where that
fails, each writes its own, so that a batch that fails, fails alone.
"""

from dataclasses import dataclass
from typing import Final

import anyio
import anyio.lowlevel
import psycopg

from threadkeep.db import events
from threadkeep.db.events import Batch
from threadkeep.db.pool import Pool

MOST: Final = 2000
"""Events that are written at once, if not one run alone has more."""


@dataclass(eq=False, slots=True)
class _Waiting:
    batch: Batch
    written: bool = False


class EventCommit:
    """Who waits to have events written."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._writing = anyio.Lock()

    async def write(self, pool: Pool, batch: Batch) -> None:
        """Write `batch`; raises what Postgres says of it."""
        mine = _Waiting(batch)
        self._waiting.append(mine)
        await anyio.lowlevel.checkpoint()  # those who come with it
        async with self._writing:
            if not mine.written:
                await self._write_with(pool, mine)

    async def _write_with(self, pool: Pool, mine: _Waiting) -> None:
        together = self._take(mine)
        try:
            await _append(pool, together)
        except psycopg.Error:
            if len(together) == 1:
                raise
            await _append(pool, [mine])

    def _take(self, mine: _Waiting) -> list[_Waiting]:
        """`mine`, and as many of the others as go along."""
        others = [one for one in self._waiting if one is not mine]
        taken, total = [mine], len(mine.batch.events)
        while others and total + len(others[0].batch.events) <= MOST:
            taken.append(others.pop(0))
            total += len(taken[-1].batch.events)
        self._waiting = others
        return taken


async def _append(pool: Pool, several: list[_Waiting]) -> None:
    async with pool.connection() as conn:
        await events.append(conn, [one.batch for one in several])
    for one in several:
        one.written = True
