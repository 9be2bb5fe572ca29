"""Session: the settings of every connection, and the detection of a connection pooler in front of Postgres.

A role, a database and PGOPTIONS may change the settings of a session. So a connection sets the values that the server's
statements rely on. Behind a transaction pooler each transaction may get another session. There nothing is set or prepared,
and unsuitable settings stop the start.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, LiteralString, TypeAlias

import anyio
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from threadkeep.base.problems import StartupError

Pooler: TypeAlias = Literal["none", "session", "transaction"]
"""The kind of pooler, by the time for which a connection keeps its session of Postgres. `none`: there is no pooler."""

STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_IN_TRANSACTION_MS: Final = 10_000
"""The time after which Postgres ends the transaction of a stopped process, so that its locks are released."""

SETTINGS: Final[Mapping[str, str]] = {
    "bytea_output": "hex",
    "datestyle": "ISO, MDY",  # psycopg parses no times in other styles
    "default_transaction_isolation": "read committed",  # a statement after a lock must see what the lock waited for
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    "idle_session_timeout": "0",  # a pool holds idle connections
    "intervalstyle": "postgres",  # psycopg parses no intervals in other styles
    "lock_timeout": "0",  # requests may wait for the lock of a thread as long as a statement may take
    "row_security": "on",  # with off, Postgres refuses each statement that a policy would filter
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
    "timezone": "UTC",
    "transaction_timeout": "0",
}
"""Values by name. Only Postgres 17 and later have a transaction_timeout."""

SET_UP: Final[LiteralString] = """
    SELECT set_config(name, value, false)
      FROM (SELECT name, value
              FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)
             WHERE current_setting(name, true) IS NOT NULL
            UNION ALL
            -- Row-level security switches to another role, for which "$user" is another schema.
            SELECT 'search_path', string_agg(quote_ident(schema), ', ' ORDER BY position)
              FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, position)
            HAVING count(*) > 0) AS settings
"""
PARAMETERS: Final[Mapping[str, list[str]]] = {"names": list(SETTINGS), "values": list(SETTINGS.values())}
"""The parameters of the statement SET_UP."""
LZ4: Final[Mapping[str, str]] = {"default_toast_compression": "lz4"}
"""For the values of a thread, which are compressed at each turn: it is several times faster than Postgres's own method."""

APPLICATION: Final = "threadkeep"
"""The application name of every connection of a server."""
CONNECT_S: Final = 5
PROBE_S: Final = 10.0
"""Seconds for the detection of a pooler."""
PROBES: Final = 5
"""Comparisons of two connections. A busy transaction pooler might give each one the same session by chance."""


def conninfo(uri: str) -> str:
    """The URI with the options of every connection, which detect a dead server soon and use UTF-8.

    `options` do not change, so PGOPTIONS and the options of the URI stay valid.
    """
    return make_conninfo(
        uri,
        application_name=APPLICATION,
        client_encoding="UTF8",
        connect_timeout=CONNECT_S,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )


async def detect_pooler(uri: str) -> Pooler:
    """Detect a pooler by comparing backends.

    Postgres sends the backend's pid when a client connects. A pooler invents one. A connection of a transaction pooler may
    get another backend for each transaction, also one that another connection has just used.
    """
    try:
        # If a pooler has one session, the first connection waits for the one that the second holds in its transaction.
        with anyio.fail_after(PROBE_S):
            async with await _connect(uri) as first:
                if await _backend(first) == first.info.backend_pid:
                    return "none"
                async with await _connect(uri) as second:
                    return await _compare(first, second)
    except TimeoutError:
        raise StartupError(
            f"the pooler in front of Postgres gave no second session within {PROBE_S:.0f} s: make its pool larger"
        ) from None


async def _connect(uri: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(conninfo(uri), autocommit=True, prepare_threshold=None)


async def _backend(conn: AsyncConnection[Any]) -> int:
    row = await (await conn.execute("SELECT pg_backend_pid()")).fetchone()
    return row[0] if row else 0


async def _compare(first: AsyncConnection[Any], second: AsyncConnection[Any]) -> Pooler:
    for _ in range(PROBES):
        backend = await _backend(first)
        async with second.transaction():
            # The open transaction holds its session. So a transaction pooler must give the first connection another
            # one.
            if await _backend(second) == backend or await _backend(first) != backend:
                return "transaction"
    return "session"


async def check_shared_sessions(conn: AsyncConnection[Any]) -> None:
    """StartupError if the role's settings do not fit, and the server can't change them behind a transaction pooler."""
    cursor = await conn.execute(
        """
        SELECT current_setting('default_transaction_isolation') AS isolation,
               current_setting('DateStyle') AS datestyle,
               current_setting('search_path') LIKE '%%$user%%' AND to_regnamespace(quote_ident(session_user)) IS NOT NULL
                 AS follows_role
        """
    )
    row = await cursor.fetchone()
    isolation, datestyle, follows_role = row or ("", "", False)
    wrong: list[str] = []
    if isolation != "read committed":
        wrong.append("default_transaction_isolation = 'read committed'")
    if not datestyle.startswith("ISO"):
        wrong.append("DateStyle = 'ISO'")
    if follows_role:
        wrong.append('search_path to the name of the schema in place of "$user"')
    if wrong:
        raise StartupError(
            f"behind a transaction pooler the database role needs other settings: ALTER ROLE ... SET {' and '.join(wrong)}"
        )
