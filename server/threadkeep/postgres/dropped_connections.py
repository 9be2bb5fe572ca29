"""Dropped connections: finds connections of a pool that Postgres or the network has closed.

After a restart of Postgres, every idle connection is dead and would fail one request. A closed socket is readable. One
system call checks this, so each connection is checked before it is used.
"""

import select

from psycopg import OperationalError
from psycopg_pool import AsyncConnectionPool

from threadkeep.postgres.tenancy import Conn


async def check_connection(conn: Conn) -> None:
    """Check a connection, for `AsyncConnectionPool(check=…)`. OperationalError if it is closed.

    The pool then replaces all idle connections, because they may be closed too.
    """
    poll = select.poll()  # select.select refuses descriptors above 1023
    poll.register(conn.pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    # Postgres sends nothing to an idle connection but notices and changed parameters. If it was one, a live connection
    # is replaced, which is harmless.
    if conn.closed or poll.poll(0):
        pool = conn._pool  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - how a connection knows its pool
        if isinstance(pool, AsyncConnectionPool):
            await pool.drain()
        raise OperationalError("the connection was closed")
