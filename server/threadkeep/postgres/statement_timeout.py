"""Statement timeout: limits the time of statements whose cost depends on a client's conditions."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from psycopg.errors import QueryCanceled

from threadkeep.base.problems import SearchTimeout
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.tenancy import Filters

T = TypeVar("T")


@asynccontextmanager
async def search_connection(pool: Pool, filters: Filters, timeout_s: float) -> AsyncGenerator[Conn]:
    """Open `pool.pipeline` with a limit of `timeout_s` seconds for each statement. SearchTimeout after it."""
    try:
        async with pool.pipeline(filters) as conn:
            await set_statement_timeout(conn, timeout_s)
            yield conn
    except QueryCanceled:
        raise _too_long(timeout_s) from None


async def set_statement_timeout(conn: Conn, timeout_s: float) -> None:
    """Limit each further statement of this transaction."""
    # Postgres takes 0 as no limit at all, so a short time is rounded up.
    await conn.execute(
        "SELECT set_config('statement_timeout', %(ms)s, true)", {"ms": str(max(1, round(timeout_s * 1000)))}
    )


async def with_search_timeout(search: Awaitable[T], timeout_s: float) -> T:
    """Await a search for at most `timeout_s` seconds, then cancel its statement and raise SearchTimeout."""
    with anyio.move_on_after(timeout_s):
        return await search
    raise _too_long(timeout_s)


def _too_long(timeout_s: float) -> SearchTimeout:
    return SearchTimeout(f"the search took more than {timeout_s:g} s: narrow it")
