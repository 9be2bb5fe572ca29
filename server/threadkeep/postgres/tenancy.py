"""Bounds: row-level security, a second wall behind `Filters`, so that a forgotten filter still shows nothing.

While a request of a principal is bound, each of its transactions switches to a role for which the policies of
`migrations/0005_ownership.sql` hold, and says what its rows must contain. Both end with the transaction, so that a
connection, or a pooler's, is never left bound. Nobody pays for it while nobody is bound, and the server's own work
(runs, duties) never is.
"""

import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from threadkeep.base.problems import StartRefused
from threadkeep.postgres import store_spaces
from threadkeep.postgres.filters import Filters

log = logging.getLogger(__name__)

Conn: TypeAlias = AsyncConnection[Any]

LAST: Final = "\U0010ffff"
"""No namespace comes behind it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the policies compare with."""

    match: str
    """JSON."""
    space_from: str
    """The caller's part of the store: namespaces from here, by bytes."""
    space_to: str
    """To here, without this."""


_bounds: ContextVar[Bounds | None] = ContextVar("bounds", default=None)


@contextmanager
def bound_to(filters: Filters) -> Generator[None]:
    """Until the block ends, this task and those that it starts see only what is the caller's, in the store too."""
    space = store_spaces.current()
    token = _bounds.set(_of(filters))
    store_spaces.enter(filters.space)
    try:
        yield
    finally:
        _bounds.reset(token)
        store_spaces.enter(space)


def _of(filters: Filters) -> Bounds | None:
    if not filters.match and filters.space is None:
        return None
    # "/" comes right behind the period, with which all namespaces of a space go on.
    space = ("", LAST) if filters.space is None else (f"{filters.space}.", f"{filters.space}/")
    return Bounds(orjson.dumps(filters.match).decode(), *space)


@contextmanager
def as_server() -> Generator[None]:
    """Until the block ends, what is done is the server's own work, such as counting what is everybody's."""
    token = _bounds.set(None)
    try:
        yield
    finally:
        _bounds.reset(token)


def set_bounds(bounds: Bounds | None) -> None:
    """For work that is done on behalf of whoever asked for it: as `current` said there."""
    _bounds.set(bounds)


def unbind(space: str | None) -> None:
    """From here on this task is the server's own, whichever request started it; in the store it works in `space`."""
    _bounds.set(None)
    store_spaces.enter(space)


def current() -> Bounds | None:
    """What this task is bound to."""
    return _bounds.get()


async def _bind(conn: Conn, bounds: Bounds) -> None:
    """Begin a transaction, and hold `bounds` until it ends."""
    await conn.execute("BEGIN")
    await conn.execute(
        """
        SELECT set_config('threadkeep.match', %(match)s, true),
               set_config('threadkeep.space_from', %(space_from)s, true),
               set_config('threadkeep.space_to', %(space_to)s, true),
               set_config('role', 'threadkeep_tenant', true)
        """,
        {"match": bounds.match, "space_from": bounds.space_from, "space_to": bounds.space_to},
    )


class BoundPool(AsyncConnectionPool[Conn]):
    """A pool whose connections are bound while their taker is; a block is one transaction then."""

    walled = False
    """The database has the policies, and lets this process switch to the role that they are for (`find_wall`)."""

    def connection(  # pyright: ignore[reportIncompatibleMethodOverride] - the stock one names a private class
        self, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Conn]:
        """As the stock pool's."""
        bounds = _bounds.get() if self.walled else None
        return super().connection(timeout) if bounds is None else self._bound(bounds, timeout)

    @asynccontextmanager
    async def _bound(self, bounds: Bounds, wait_s: float | None) -> AsyncGenerator[Conn]:
        """The stock pool commits what is left open, or rolls it back after an exception."""
        async with super().connection(wait_s) as conn:
            async with conn.pipeline():
                await _bind(conn, bounds)
            yield conn

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[Conn]:
        """A connection in pipeline mode; bound in the same round trip."""
        bounds = _bounds.get() if self.walled else None
        async with super().connection() as conn, conn.pipeline():
            if bounds is None:
                yield conn
                return
            await _bind(conn, bounds)
            yield conn
            await conn.execute("COMMIT")


async def find_wall(*pools: BoundPool, needed: bool) -> None:
    """Have the pools bind their connections where that is possible; where it is `needed` and is not, say so.

    StartRefused where the policies would hide everything from the server itself.
    """
    async with pools[0].connection() as conn:
        missing = await _missing(conn)
    for pool in pools:
        pool.walled = missing is None
    if missing is not None and needed:
        log.warning("there is no row-level security behind the filters", extra={"reason": missing})


async def _missing(conn: Conn) -> str | None:
    hidden = await (await conn.execute("SELECT row_security_active('threads')")).fetchone()
    if hidden and hidden[0]:
        raise StartRefused(
            "row-level security hides every row from this server's own database role: make it the owner of the tables, "
            "or have a superuser run ALTER ROLE ... BYPASSRLS"
        )
    try:
        async with conn.transaction():
            await conn.execute("SELECT set_config('role', 'threadkeep_tenant', true)")
    except psycopg.Error as error:
        return error.diag.message_primary or type(error).__name__
    cursor = await conn.execute(
        """
        SELECT coalesce(string_agg(name, ', '), '')
          FROM unnest('{threads,runs,run_events,assistants,assistant_versions,crons,store,
                        checkpoints,checkpoint_blobs,checkpoint_writes}'::text[]) AS name
          LEFT JOIN pg_class ON pg_class.oid = to_regclass(name)
         WHERE relrowsecurity IS NOT TRUE
            OR NOT has_table_privilege('threadkeep_tenant', pg_class.oid, 'DELETE')
        """
    )
    row = await cursor.fetchone()
    return f"not on the tables {row[0]}" if row and row[0] else None
