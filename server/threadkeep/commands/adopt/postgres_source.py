"""Postgres source: a connection to another database, and which tables it has.

Each thread is read in one transaction that sees one snapshot and can't write. So its application may go on meanwhile.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from threadkeep.base.problems import StartupError
from threadkeep.postgres import start_errors
from threadkeep.postgres.pool import Conn
from threadkeep.preparing import patient

SourceConn: TypeAlias = psycopg.AsyncConnection[Any]

PAGE: Final = 500
"""Thread ids that are read at once."""
SAVER_TABLES: Final = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


@asynccontextmanager
async def open_source(uri: str) -> AsyncGenerator[SourceConn]:
    """Open the source. StartupError in one line if it can't be reached, or is lost later."""
    try:
        conninfo = make_conninfo(patient(uri), client_encoding="UTF8", application_name="threadkeep adopt")
    except psycopg.ProgrammingError:  # its text contains the password
        raise StartupError(
            "--from: libpq can't read this URI: write an @, / or % in a user's name or a password as %40, %2F or %25"
        ) from None
    with start_errors.in_a_line(uri):
        source: SourceConn = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        source.row_factory = dict_row
    async with source:
        # psycopg adds both settings to each BEGIN, so they hold in all transactions.
        await source.set_read_only(True)
        await source.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await source.execute("SET statement_timeout = 0")
        await source.execute("SET idle_in_transaction_session_timeout = 0")
        try:
            yield source
        except psycopg.OperationalError as lost:
            if source.broken:  # else it is the other database that was lost
                raise StartupError(f"--from: the source was lost: {str(lost).splitlines()[0]}") from None
            raise


async def columns(source: SourceConn, table: LiteralString) -> frozenset[str]:
    """The columns of a table. Empty if there is no such table."""
    cursor = await source.execute(
        """
        SELECT attname
          FROM pg_attribute
         WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
        """,
        {"table": table},
    )
    return frozenset(row["attname"] for row in await cursor.fetchall())


async def check_saver_tables(source: SourceConn) -> None:
    """StartupError if there are no tables of LangGraph's saver, or older ones than its newest version makes."""
    missing = [table for table in SAVER_TABLES if not await columns(source, table)]
    if missing:
        raise StartupError(f"--from: the database has no table {missing[0]} of LangGraph's saver in its search_path")
    if "task_path" not in await columns(source, "checkpoint_writes"):
        raise StartupError(
            "--from: the tables are of an older saver: call setup() of the current AsyncPostgresSaver first"
        )


async def is_same_table(source: SourceConn, conn: Conn) -> bool:
    """Whether the tables of both connections are the same ones.

    A lock that the source takes is seen by the other connection only in the same database.
    """
    # Random, so that two calls at once do not see each other's lock.
    key = secrets.randbits(62)
    async with source.transaction():
        cursor = await source.execute(
            "SELECT pg_advisory_xact_lock_shared(%(key)s), to_regclass('checkpoints')::oid AS oid", {"key": key}
        )
        row = await cursor.fetchone()
        same = await conn.execute(
            """
            SELECT FROM pg_locks
             WHERE locktype = 'advisory' AND (classid::bigint << 32) + objid::bigint = %(key)s -- the halves of the key
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND to_regclass('checkpoints')::oid = %(oid)s
            """,
            {"key": key, "oid": row["oid"] if row else None},
        )
        return await same.fetchone() is not None


async def thread_ids(source: SourceConn) -> AsyncGenerator[Sequence[str]]:
    """The ids of all threads with checkpoints, in pages. Each is one index lookup, whatever the number of checkpoints."""
    after = ""
    while True:
        cursor = await source.execute(
            """
            WITH RECURSIVE page AS (
                (SELECT thread_id, 1 AS place FROM checkpoints WHERE thread_id > %(after)s ORDER BY thread_id LIMIT 1)
                UNION ALL
                SELECT following.thread_id, page.place + 1
                  FROM page
                 CROSS JOIN LATERAL (
                    SELECT thread_id FROM checkpoints WHERE thread_id > page.thread_id ORDER BY thread_id LIMIT 1
                 ) AS following
                 WHERE page.place < %(limit)s
            )
            SELECT thread_id FROM page
            """,
            {"after": after, "limit": PAGE},
        )
        page = [row["thread_id"] for row in await cursor.fetchall()]
        if not page:
            return
        yield page
        after = page[-1]


async def count_threads(source: SourceConn) -> int:
    """The number of threads with checkpoints."""
    cursor = await source.execute("SELECT count(DISTINCT thread_id) AS threads FROM checkpoints")
    row = await cursor.fetchone()
    return row["threads"] if row else 0


async def head(source: SourceConn, thread_id: str, owner_key: str) -> dict[str, Any] | None:
    """The newest checkpoint of a thread without its values, and the times of the first and the newest one.

    None if the graph itself has no checkpoint.
    """
    cursor = await source.execute(
        """
        SELECT newest.checkpoint_id AS newest_checkpoint_id, newest.checkpoint ->> 'ts' AS updated_at,
               (SELECT checkpoint ->> 'ts'
                  FROM checkpoints
                 WHERE thread_id = %(thread_id)s AND checkpoint_ns = ''
                 ORDER BY checkpoint_id LIMIT 1) AS created_at,
               newest.metadata ->> 'graph_id' AS graph_id, newest.metadata ->> %(owner_key)s AS owner,
               ARRAY(SELECT jsonb_object_keys(newest.checkpoint -> 'versions_seen')) AS seen_nodes,
               (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread_id)s) AS checkpoints
          FROM checkpoints AS newest
         WHERE thread_id = %(thread_id)s AND checkpoint_ns = ''
         ORDER BY checkpoint_id DESC
         LIMIT 1
        """,
        {"thread_id": thread_id, "owner_key": owner_key},
    )
    return await cursor.fetchone()
