"""Connection: psycopg's, closed where a pipeline fails, or where Postgres says nothing for too long.

What comes behind a statement that fails is passed over by Postgres, and psycopg may take one of those for prepared: each
later use on this connection would then fail, for as long as the pool keeps it. A pool replaces what comes back closed.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import psycopg
from psycopg import AsyncConnection, AsyncPipeline
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

Result = TypeVar("Result")

RESPONSE_TIMEOUT_S = 35.0
"""Above the statement timeout, with which Postgres itself ends what is slow: a server that hangs answers nothing at all."""


class Connection(AsyncConnection[Any]):
    """What the pools hand out."""

    project_id: str = ""
    """The project whose rows the statements on this connection read and write. Several may share a database."""

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[AsyncPipeline]:
        try:
            async with super().pipeline() as pipeline:
                yield pipeline
        except (psycopg.Error, anyio.get_cancelled_exc_class()):
            await self.close()
            raise

    async def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - psycopg's own
        """As psycopg's, with an end: OperationalError where nothing comes."""
        try:
            return await super().wait(gen, interval, RESPONSE_TIMEOUT_S if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.close()
            raise
