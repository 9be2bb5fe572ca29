"""Connections: pools that differ in who may wait for them, and the two habits every statement relies on.

`api` connections hand JSON columns through unread (`wire.Json`): a row that goes to a client is not decoded and
encoded again. `runs` connections decode it, for the checkpointer and the store, with Python's own `json`: orjson makes
floats of integers above 64 bits. All are in autocommit: several statements inside `pipeline` are one round trip and
one transaction, each seeing what was committed before it began.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads

from threadkeep.base.json import Json, dumps
from threadkeep.base.problems import StartRefused
from threadkeep.postgres import arrays
from threadkeep.postgres.connection import Connection
from threadkeep.postgres.dropped_connections import refuse_cut
from threadkeep.postgres.tenancy import TenantPool
from threadkeep.settings import Settings

Conn: TypeAlias = Connection
Pool: TypeAlias = TenantPool

POOL_TIMEOUT_S = 5.0
"""The longest wait for a connection; then the request is answered 503."""

MAX_WAITING = 2000
"""Those who wait for a connection of one pool; one more is answered 503."""

RECONNECT_S = 2.0
"""For how long the pool itself tries to connect again, ever more slowly; after that, each request does."""

STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_MS = 10_000
"""Of a process that was stopped in the middle of a transaction: its locks keep nobody waiting for longer."""


def conninfo(uri: str, *, direct: bool = True) -> str:
    """`uri` with what every connection of ours needs: it finds out soon that the other side is gone, and it thinks in UTC."""
    given = (
        f"-c timezone=UTC -c statement_timeout={STATEMENT_TIMEOUT_MS} "
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"
    )
    own = conninfo_to_dict(uri).get("options")  # a search path, for example
    options = {"options": f"{own} {given}" if own else given} if direct else {}
    return make_conninfo(
        uri,
        application_name="threadkeep",
        connect_timeout=5,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=10_000,
        **options,
    )


@asynccontextmanager
async def open_api_pool(settings: Settings, uri: str) -> AsyncGenerator[Pool]:
    """The pool of the API and the queue; JSON columns come as `Json`."""
    async with _open(settings, uri, "api", settings.api_connections, _configure_api) as pool:
        yield pool


@asynccontextmanager
async def open_runs_pool(settings: Settings, uri: str) -> AsyncGenerator[Pool]:
    """The pool of running graphs: a slow checkpoint never makes a reader wait."""
    async with _open(settings, uri, "runs", settings.run_connections, _configure_runs) as pool:
        yield pool


@asynccontextmanager
async def _open(settings: Settings, uri: str, name: str, size: int, configure: Any) -> AsyncGenerator[Pool]:
    direct = settings.database_direct_uri is None
    pool = TenantPool(
        conninfo(uri, direct=direct),
        connection_class=Connection,
        kwargs={"autocommit": True, "prepare_threshold": 2 if direct else None},
        min_size=1,
        max_size=size,
        timeout=POOL_TIMEOUT_S,
        max_waiting=MAX_WAITING,
        reconnect_timeout=RECONNECT_S,
        name=name,
        configure=partial(_configure, configure, settings.project_id),
        check=refuse_cut,
        open=False,
    )
    pool.project_id = settings.project_id
    async with pool:
        yield pool


async def _configure(configure: Callable[[Conn], Awaitable[None]], project_id: str, conn: Conn) -> None:
    conn.project_id = project_id
    await configure(conn)


async def _configure_api(conn: Conn) -> None:
    set_json_loads(Json, conn)
    set_json_dumps(dumps, conn)  # orjson alone refuses integers above 64 bits, as 1e308 comes back from jsonb
    arrays.register(conn)


async def _configure_runs(conn: Conn) -> None:
    conn.row_factory = dict_row
    arrays.register(conn)
    await _compress_quickly(conn)


async def _compress_quickly(conn: Conn) -> None:
    """What grows with a thread is compressed each turn: by LZ4, several times as fast, where this Postgres has it."""
    await conn.execute(
        """
        SELECT set_config(name, 'lz4', false)
          FROM pg_settings
         WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)
        """
    )


async def check_capacity(pool: Pool, settings: Settings) -> None:
    """StartRefused where Postgres can't give this process all the connections it may want.

    Its role and its database may have limits of their own, below the server's.
    """
    async with pool.connection() as conn:
        row = await (
            await conn.execute(
                """
                SELECT LEAST(
                         current_setting('max_connections')::int
                           - current_setting('superuser_reserved_connections')::int,
                         (SELECT NULLIF(rolconnlimit, -1) FROM pg_roles WHERE rolname = session_user),
                         (SELECT NULLIF(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
                       ) AS usable
                """
            )
        ).fetchone()
    usable = row[0] if row else 0
    if settings.connections > usable:
        raise StartRefused(
            f"this process may open {settings.connections} connections (THREADKEEP_API_CONNECTIONS "
            f"{settings.api_connections} + THREADKEEP_RUN_CONNECTIONS {settings.run_connections} + 2), "
            f"and Postgres gives {usable}: lower them or raise its max_connections"
        )
