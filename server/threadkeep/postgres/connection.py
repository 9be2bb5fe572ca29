"""Connection: psycopg's connection, closed after a pipeline fails or Postgres does not answer in time.

Postgres skips the statements after a failed one in a pipeline, but psycopg may consider one of these prepared. Each later
use of it on this connection would fail. The pool replaces closed connections.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import anyio
import psycopg
from psycopg import AsyncConnection, AsyncPipeline
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

Result = TypeVar("Result")

RESPONSE_TIMEOUT_S = 35.0
"""Longer than the statement timeout of Postgres. It detects a server that does not answer at all."""


class Change(NamedTuple):
    """A thread or a run that a transaction has changed, for the change stream."""

    thread_id: UUID | None = None
    """None: only the run is known."""
    run_id: UUID | None = None
    """None: the thread itself has changed."""
    deleted_metadata: str | None = None
    """JSON of a deleted thread, which says whose it was. None: the thread was not deleted."""


class Connection(AsyncConnection[Any]):
    """A connection of the pools."""

    project_id: str = ""
    """The project whose rows this connection reads and writes. Several projects may share a database."""
    changes: list[Change] | None = None
    """The rows that this connection has changed. None: no process has a change stream, so nothing is noted."""

    def note_change(
        self, thread_id: UUID | None = None, run_id: UUID | None = None, deleted_metadata: str | None = None
    ) -> None:
        """Announce a change to the change streams of all processes, after the connection is released. Without ids: of unknown rows."""
        if self.changes is not None:
            self.changes.append(Change(thread_id, run_id, deleted_metadata))

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[AsyncPipeline]:
        try:
            async with super().pipeline() as pipeline:
                yield pipeline
        except (psycopg.Error, anyio.get_cancelled_exc_class()):
            await self.close()
            raise

    async def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - psycopg's own
        """Wait as psycopg does, but with a limit. OperationalError if nothing arrives."""
        try:
            # psycopg itself waits without a limit, and a TCP keepalive does not notice a server whose kernel still
            # answers.
            return await super().wait(gen, interval, RESPONSE_TIMEOUT_S if timeout is None else timeout)
        except psycopg.OperationalError:
            # The statement may still run in Postgres. Its late result would be taken for that of the next statement.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.close()
            raise
