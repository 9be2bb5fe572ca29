"""A database that tests use one after the other, empty for each of them.

To create a database for each test took a third of the suite's CPU time. A test that changed more than rows, for example a
function or a policy, gets the next one a new database.
"""

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql

FILLED_TABLES: Final = """
SELECT oid::regclass::text
  FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
 ORDER BY relname
"""
CATALOGS: Final[tuple[LiteralString, ...]] = (
    "SELECT datacl, datallowconn FROM pg_database WHERE datname = current_database()",
    """
    SELECT setrole, setconfig
      FROM pg_db_role_setting
      JOIN pg_database ON pg_database.oid = setdatabase
     WHERE datname = current_database()
     ORDER BY setrole
    """,
    "SELECT nspname, nspowner, nspacl FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_' ORDER BY nspname",
    "SELECT extname, extversion FROM pg_extension ORDER BY extname",
    "SELECT defaclrole, defaclnamespace, defaclobjtype, defaclacl FROM pg_default_acl ORDER BY 1, 2, 3",
    """
    SELECT relname, relnamespace, relkind, relpersistence, relowner, relacl, relrowsecurity, relforcerowsecurity, reloptions
      FROM pg_class
     WHERE oid >= 16384 AND relnamespace::regnamespace::text !~ '^pg_(toast_)?temp_'
     ORDER BY oid
    """,
    """
    SELECT attrelid, attname, atttypid, attnotnull, atthasdef, attisdropped, attacl, attoptions
      FROM pg_attribute
     WHERE attrelid >= 16384 AND attnum > 0
     ORDER BY attrelid, attnum
    """,
    "SELECT oid, proname, prosrc, proconfig, proacl, proowner FROM pg_proc WHERE oid >= 16384 ORDER BY oid",
    "SELECT oid, polname, polcmd, polroles, polqual, polwithcheck FROM pg_policy ORDER BY oid",
    "SELECT oid, conname, contype, convalidated FROM pg_constraint WHERE oid >= 16384 ORDER BY oid",
    "SELECT oid, tgname, tgenabled FROM pg_trigger WHERE oid >= 16384 ORDER BY oid",
    "SELECT starelid, staattnum FROM pg_statistic WHERE starelid >= 16384 ORDER BY 1, 2",
)
"""All but rows that a test can change, and statistics, which change plans."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The rows of a database before the first test."""

    catalogs: str
    filled_tables: tuple[str, ...]
    rows: str


class CleanDatabase:
    """One database of a cluster, created from a template when it is needed."""

    def __init__(self, server: str, name: str, template: str) -> None:
        """`server` is the URI of the cluster."""
        self._server = server
        self._name = name
        self._template = template
        self._original: Fingerprint | None = None
        """None: there is no database yet, or it is not to be used again."""
        self.uri = psycopg.conninfo.make_conninfo(server, dbname=name)

    def prepare(self) -> None:
        """Make the database as the template is."""
        original, self._original = self._original, None
        if original is None or not self._emptied(original):
            self._create()
        else:
            self._original = original

    def disconnect(self) -> None:
        """End the sessions that a test left."""
        with psycopg.connect(self._server, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND backend_type = %s",
                (self._name, "client backend"),
            )

    def _create(self) -> None:
        name, template = sql.Identifier(self._name), sql.Identifier(self._template)
        with psycopg.connect(self._server, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, template))
        with psycopg.connect(self.uri, autocommit=True) as conn:
            tables = _filled_tables(conn)
            self._original = Fingerprint(_digest(conn, CATALOGS), tables, _rows(conn, tables))

    def _emptied(self, original: Fingerprint) -> bool:
        """Whether only rows have changed, which are deleted."""
        try:
            with psycopg.connect(self.uri, autocommit=True) as conn:
                tables = set(_filled_tables(conn)) - set(original.filled_tables)
                if tables:
                    names = sql.SQL(", ").join(map(sql.SQL, sorted(tables)))  # pyright: ignore[reportArgumentType] - a name
                    conn.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
                conn.execute("SELECT pg_stat_reset()")
                return (
                    Fingerprint(_digest(conn, CATALOGS), original.filled_tables, _rows(conn, original.filled_tables))
                    == original
                )
        except psycopg.Error:  # it may be gone, or refuse sessions
            return False


def _filled_tables(conn: psycopg.Connection) -> tuple[str, ...]:
    return tuple(name for (name,) in conn.execute(FILLED_TABLES).fetchall())


def _rows(conn: psycopg.Connection, tables: tuple[str, ...]) -> str:
    return _digest(conn, tuple(f"SELECT * FROM {table} ORDER BY 1" for table in tables))  # pyright: ignore[reportArgumentType] - names


def _digest(conn: psycopg.Connection, queries: tuple[LiteralString, ...]) -> str:
    parts = ", ".join(f"(SELECT md5(string_agg(part::text, ';')) FROM ({query}) AS part)" for query in queries)
    row = conn.execute(f"SELECT concat_ws(',', {parts})").fetchone()  # pyright: ignore[reportArgumentType] - of constants
    assert row is not None
    return row[0]
