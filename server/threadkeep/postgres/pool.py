"""Connections: pools that differ in who may wait for them, and the two habits every statement relies on.

`api` connections hand JSON columns through unread (`wire.RawJson`): a row that goes to a client is not decoded and
encoded again. `runs` connections decode it, for the checkpointer and the store, with Python's own `json`: orjson makes
floats of integers above 64 bits. All are in autocommit: several statements inside `pipeline` are one round trip and
one transaction, each seeing what was committed before it began.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads

from threadkeep.base.json import RawJson, dumps
from threadkeep.base.problems import StartupError
from threadkeep.postgres import arrays, session
from threadkeep.postgres.connection import Connection
from threadkeep.postgres.dropped_connections import check_connection
from threadkeep.postgres.session import Pooler
from threadkeep.postgres.tenancy import TenantPool
from threadkeep.settings import Settings

Conn: TypeAlias = Connection
Pool: TypeAlias = TenantPool

CHECKOUT_TIMEOUT_S = 5.0
"""The longest wait for a connection while nobody gets one; then the request is answered 503. See `TenantPool.getconn`."""

MAX_WAITING = 2000
"""Those who wait for a connection of one pool; one more is answered 503."""

RECONNECT_S = 2.0
"""For how long the pool itself tries to connect again, ever more slowly; after that, each request does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Purpose:
    """What a pool is for."""

    name: str
    size: int
    configure: Callable[[Conn], Awaitable[None]]


@asynccontextmanager
async def open_api_pool(settings: Settings, uri: str, pooler: Pooler = "none") -> AsyncGenerator[Pool]:
    """The pool of the API and the queue; JSON columns come as `RawJson`."""
    purpose = _Purpose(name="api", size=settings.api_connections, configure=_configure_api)
    async with _open(settings, uri, pooler, purpose) as pool:
        yield pool


@asynccontextmanager
async def open_runs_pool(settings: Settings, uri: str, pooler: Pooler = "none") -> AsyncGenerator[Pool]:
    """The pool of running graphs: a slow checkpoint never makes a reader wait."""
    purpose = _Purpose(name="runs", size=settings.run_connections, configure=_configure_runs)
    async with _open(settings, uri, pooler, purpose) as pool:
        yield pool


@asynccontextmanager
async def _open(settings: Settings, uri: str, pooler: Pooler, purpose: _Purpose) -> AsyncGenerator[Pool]:
    async def configure(conn: Conn) -> None:
        conn.project_id = settings.project_id
        await purpose.configure(conn)
        if pooler != "transaction":  # it would hand the settings to whoever gets the session next
            await conn.execute(session.SET_UP, session.PARAMETERS)
            await _compress_quickly(conn)

    pool = TenantPool(
        session.conninfo(uri),
        connection_class=Connection,
        kwargs={"autocommit": True, "prepare_threshold": None if pooler == "transaction" else 2},
        min_size=1,
        max_size=purpose.size,
        timeout=CHECKOUT_TIMEOUT_S,
        max_waiting=MAX_WAITING,
        reconnect_timeout=RECONNECT_S,
        name=purpose.name,
        configure=configure,
        check=check_connection,
        open=False,
    )
    pool.project_id, pool.pooler = settings.project_id, pooler
    async with pool:
        yield pool


async def _configure_api(conn: Conn) -> None:
    set_json_loads(RawJson, conn)
    set_json_dumps(dumps, conn)  # orjson alone refuses integers above 64 bits, as 1e308 comes back from jsonb
    arrays.register(conn)


async def _configure_runs(conn: Conn) -> None:
    conn.row_factory = dict_row
    arrays.register(conn)


async def _compress_quickly(conn: Conn) -> None:
    """What grows with a thread is compressed each turn: by LZ4, several times as fast, where this Postgres has it."""
    await conn.execute(
        """
        SELECT set_config(name, 'lz4', false)
          FROM pg_settings
         WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)
        """
    )


async def check_sessions(pool: Pool) -> None:
    """StartupError if sessions are shared, and the role's own settings don't fit."""
    if pool.pooler == "transaction":
        async with pool.connection() as conn:
            await session.check_shared_sessions(conn)


async def check_max_connections(pool: Pool, settings: Settings) -> None:
    """StartupError where Postgres can't give this process all the connections it may want.

    Its role and its database may have limits of their own, below the server's. A pooler has limits that only it knows.
    """
    if pool.pooler != "none":
        return
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
    if settings.max_connections > usable:
        raise StartupError(
            f"this process may open {settings.max_connections} connections (THREADKEEP_API_CONNECTIONS "
            f"{settings.api_connections} + THREADKEEP_RUN_CONNECTIONS {settings.run_connections} + 2), "
            f"and Postgres gives {usable}: lower them or raise its max_connections"
        )
