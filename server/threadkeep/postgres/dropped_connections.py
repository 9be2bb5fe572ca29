"""Cut: a pool's connections that Postgres, or something on the way, has closed.

After a restart every idle connection is dead, and each would fail one request. A closed socket is readable, which one
system call tells, so that each connection is looked at whenever it is given out.
"""

import select

from psycopg import OperationalError
from psycopg_pool import AsyncConnectionPool

from threadkeep.postgres.tenancy import Conn


async def check_connection(conn: Conn) -> None:
    """For `AsyncConnectionPool(check=…)`: OperationalError where the connection is gone.

    The others are then doubtful too: the pool replaces all that are idle.
    """
    poll = select.poll()
    poll.register(conn.pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    if conn.closed or poll.poll(0):
        pool = conn._pool  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - how a connection knows its pool
        if isinstance(pool, AsyncConnectionPool):
            await pool.drain()
        raise OperationalError("the connection was cut")
