"""Connection: psycopg's, closed where a pipeline fails.

What comes behind a statement that fails is passed over by Postgres, and psycopg may take one of those for prepared: each
later use on this connection would then fail, for as long as the pool keeps it. A pool replaces what comes back closed.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
from psycopg import AsyncConnection, AsyncPipeline


class Connection(AsyncConnection[Any]):
    """What the pools hand out."""

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[AsyncPipeline]:
        try:
            async with super().pipeline() as pipeline:
                yield pipeline
        except (psycopg.Error, anyio.get_cancelled_exc_class()):
            await self.close()
            raise
