"""Pools: one for the API and one for running graphs, with the settings that all statements rely on.

`api` connections return JSON columns as text (`json.RawJson`), so a row for a client is not decoded and encoded again.
`runs` connections decode JSON for the checkpointer and the store with Python's own `json`, because orjson turns integers
above 64 bits into floats. All connections use autocommit. Several statements inside `pipeline` are one round trip and one
transaction, and each statement sees the rows that were committed before it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from psycopg.rows import dict_row, scalar_row
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
"""Seconds without a free connection after which waiting requests get 503. See `TenantPool.getconn`."""

MAX_WAITING = 2000
"""The most requests that wait for a connection of one pool. Further ones get 503."""

RECONNECT_S = 2.0
"""Seconds for which the pool tries to reconnect with backoff. After that, each request tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Purpose:
    """The configuration of a pool."""

    name: str
    size: int
    configure: Callable[[Conn], Awaitable[None]]


@asynccontextmanager
async def open_api_pool(settings: Settings, uri: str, pooler: Pooler = "none") -> AsyncGenerator[Pool]:
    """Open the pool of the API and the queue. JSON columns are `RawJson`."""
    purpose = _Purpose(name="api", size=settings.api_connections, configure=_configure_api)
    async with _open(settings, uri, pooler, purpose) as pool:
        yield pool


@asynccontextmanager
async def open_runs_pool(settings: Settings, uri: str, pooler: Pooler = "none") -> AsyncGenerator[Pool]:
    """Open the pool of running graphs. It is separate, so that slow checkpoints do not delay readers."""
    purpose = _Purpose(name="runs", size=settings.run_connections, configure=_configure_runs)
    async with _open(settings, uri, pooler, purpose) as pool:
        yield pool


@asynccontextmanager
async def _open(settings: Settings, uri: str, pooler: Pooler, purpose: _Purpose) -> AsyncGenerator[Pool]:
    parameters: Mapping[str, list[str]] | None = None

    async def configure(conn: Conn) -> None:
        # Connections that open at the same time may each ask once. They get the same answer.
        nonlocal parameters
        conn.project_id = settings.project_id
        await purpose.configure(conn)
        if pooler != "transaction":  # the next client of the session would get the settings
            if parameters is None:
                parameters = await _set_up_parameters(conn)
            await conn.execute(session.SET_UP, parameters)

    pool = TenantPool(
        session.conninfo(uri),
        connection_class=Connection,
        # Behind a transaction pooler the next transaction may have another session, without the prepared statement.
        kwargs={"autocommit": True, "prepare_threshold": None if pooler == "transaction" else 2},
        min_size=1,
        max_size=purpose.size,
        timeout=CHECKOUT_TIMEOUT_S,
        max_waiting=MAX_WAITING,
        reconnect_timeout=RECONNECT_S,
        name=purpose.name,
        configure=configure,
        check=check_connection,
        # psycopg warns if a pool is opened by its constructor.
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


async def _set_up_parameters(conn: Conn) -> Mapping[str, list[str]]:
    """The parameters of `session.SET_UP`, with LZ4 where this Postgres has it.

    A pool asks once: the view of all settings costs as much as the rest of a session's set-up.
    """
    cursor = await conn.cursor(row_factory=scalar_row).execute(
        """
        SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals))
        """
    )
    names, values = session.PARAMETERS["names"], session.PARAMETERS["values"]
    if await cursor.fetchone():
        return {"names": [*names, *session.LZ4], "values": [*values, *session.LZ4.values()]}
    return session.PARAMETERS


async def check_sessions(pool: Pool) -> None:
    """StartupError if sessions are shared and the role's own settings do not fit."""
    if pool.pooler == "transaction":
        async with pool.connection() as conn:
            await session.check_shared_sessions(conn)


async def check_max_connections(pool: Pool, settings: Settings) -> None:
    """StartupError if Postgres does not allow enough connections. The limits of a pooler are unknown and not checked."""
    if pool.pooler != "none":
        return
    async with pool.connection() as conn:
        await usable_connections(conn, settings)


async def usable_connections(conn: Conn, settings: Settings) -> int:
    """Return how many connections Postgres allows this role in this database.

    StartupError if this process and its siblings may open more.
    """
    cursor = await conn.execute(
        """
        SELECT LEAST(
                 current_setting('max_connections')::int
                   - current_setting('superuser_reserved_connections')::int, -- only a superuser gets these
                 (SELECT NULLIF(rolconnlimit, -1) FROM pg_roles WHERE rolname = session_user), -- -1: no limit
                 (SELECT NULLIF(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
               ) AS usable
        """
    )
    row = await cursor.fetchone()
    usable = row[0] if row else 0
    if settings.max_connections * settings.workers > usable:
        processes = "this process" if settings.workers == 1 else f"each of {settings.workers} processes"
        raise StartupError(
            f"{processes} may open {settings.max_connections} connections (THREADKEEP_API_CONNECTIONS "
            # The other two connections are those of the listener and of the heartbeat.
            f"{settings.api_connections} + THREADKEEP_RUN_CONNECTIONS {settings.run_connections} + 2), "
            f"and Postgres allows {usable}: lower these settings or raise its max_connections"
        )
    return usable
