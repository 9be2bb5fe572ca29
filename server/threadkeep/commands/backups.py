"""The commands `threadkeep backup`, `restore` and `upgrade-postgres`, without the parsing of their options."""

import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import anyio
import psycopg
from psycopg import IsolationLevel, sql

from threadkeep import serving
from threadkeep.base.problems import StartupError
from threadkeep.duties.store_items import store_index_config
from threadkeep.postgres import archives, client_programs, embedded_upgrade, migrate, start_errors
from threadkeep.postgres.archives import Archive, Target
from threadkeep.preparing import Prepared, patient
from threadkeep.progress import progress
from threadkeep.project import Project

Connection = psycopg.Connection[Any]

COUNTED: Final[Mapping[str, str]] = {
    "threads": "threads",
    "runs": "runs",
    "checkpoints": "checkpoints",
    "store": "store items",
    "crons": "crons",
    "api_keys": "API keys",
}
"""Table -> the name of its rows in messages."""
PROTECTED: Final = ("threads", "store", "crons", "api_keys")
"""Tables whose rows `restore` deletes only with `force`."""


def backup(prepared: Prepared, file: Path | None, *, force: bool) -> str:
    """Write the server's tables into a file that only this user can read, and return a message.

    Servers may go on meanwhile: the file has the state of the moment at which the command began. By default its name is the
    time. StartupError if the file exists and not `force`, or if there is no pg_dump for this database.
    """
    target_file = file or Path(f"threadkeep-{datetime.now(UTC):%Y%m%d-%H%M%S}.dump")
    # The file first, so that one that can't be written is refused before the database is started.
    with _new_file(target_file, force=force) as opened, _database(prepared) as (conn, target):
        conn.isolation_level = IsolationLevel.REPEATABLE_READ  # the counts and pg_dump see the same rows
        with conn.transaction():
            # This transaction does nothing while pg_dump uses its snapshot.
            conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            conn.execute("SET LOCAL statement_timeout = 0")
            counts = _counts(conn)
            if not _has_journal(conn):
                raise StartupError("this database has no tables of Threadkeep: check DATABASE_URI")
            with progress("Back up", unit="bytes") as step:
                archives.dump(conn, target, opened, step)
    return f"backed up {_listed(counts)} to {target_file} ({target_file.stat().st_size:,} bytes)"


def restore(prepared: Prepared, file: Path, *, force: bool) -> list[str]:
    """Replace the server's tables by those of a backup, apply pending migrations, and return messages.

    StartupError if a server uses the database, if it has threads, store items, crons or API keys and not `force`, or if the
    backup is of another schema. Then nothing is changed.
    """
    if not file.is_file():
        raise StartupError(f"the file {file} does not exist: check its path")
    with _database(prepared) as (conn, target):
        archive = archives.read(file, target.programs)
        _refuse_other_schema(conn, archive)
        _refuse_foreign(conn)
        _refuse_use(conn, prepared.settings.lease_s)
        if not force:
            _refuse_rows(conn)
        with progress("Restore", unit="bytes") as step:
            archives.restore(conn, archive, target, step)
        applied = anyio.run(_migrate, target.uri, prepared.project)
        # After the migrations, which create the role of row-level security that may be among the rights.
        missing = archives.restore_rights(archive, target)
        messages = [f"restored {_listed(_counts(conn))} from {file}"]
    if applied:
        messages.append(f"applied: {', '.join(applied)}")
    if missing:
        messages.append(f"rights of roles that do not exist here were left out: {', '.join(sorted(missing))}")
    return messages


def upgrade_postgres(prepared: Prepared, old_programs: Path | None) -> str:
    """Bring the data of the embedded Postgres to the major version of its programs, and return a message."""
    if prepared.settings.database_uri is not None:
        raise StartupError("DATABASE_URI is set: this command is for the embedded Postgres")
    with progress("Upgrade", unit="bytes") as step:
        done = embedded_upgrade.upgrade(prepared.settings.data_path, old_programs, prepared.foreign, step)
    return (
        f"upgraded from PostgreSQL {done.old_major} to {done.new_major}. The old data is in {done.old_data}: delete it when "
        "the server works as before"
    )


@contextmanager
def _new_file(path: Path, *, force: bool) -> Generator[IO[bytes]]:
    """Open a file with another name, and rename it to `path` after the block. Delete it if the block fails."""
    _refuse_existing(path, force=force)
    try:
        # Beside the file, because a rename needs the same file system. `mkstemp` lets no other user read it.
        opened, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise StartupError(f"{path} can't be written: {error.strerror}") from None
    partial = Path(name)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file
            os.fsync(file.fileno())
        # Again, because a dump takes long, and another file may have got this name.
        _refuse_existing(path, force=force)
        partial.replace(path)
    except BaseException:  # also after Ctrl-C
        partial.unlink(missing_ok=True)
        raise


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise StartupError(f"{path} is a folder: name a file")
    if path.exists() and not force:
        raise StartupError(f"{path} exists already: name another file, or use --force")


@contextmanager
def _database(prepared: Prepared) -> Generator[tuple[Connection, Target]]:
    """Yield a connection in autocommit mode, and the database with its programs."""
    with serving.open_database(prepared) as uri:
        # pg_dump keeps a session for all its transactions, which a transaction pooler does not give.
        direct = prepared.settings.database_direct_uri or uri
        with start_errors.in_a_line(direct), psycopg.connect(patient(direct), autocommit=True) as conn:
            conn.execute("SET statement_timeout = 0")
            programs = client_programs.find_client_programs(conn.info.server_version // 10_000)  # 180001 is 18.1
            yield conn, Target(uri=direct, programs=programs)


def _has_journal(conn: Connection) -> bool:
    """Whether our migrations were applied to the current schema."""
    row = conn.execute(
        """
        SELECT EXISTS (SELECT FROM pg_class
                        WHERE relname = 'threadkeep_migrations' AND relnamespace = current_schema()::regnamespace)
        """
    ).fetchone()
    return bool(row and row[0])


async def _migrate(uri: str, project: Project) -> list[str]:
    return await migrate.migrate(patient(uri), index=store_index_config(project))


def _counts(conn: Connection) -> dict[str, int]:
    """The number of rows of each counted table that exists."""
    rows = conn.execute(
        """
        SELECT relname FROM pg_class
         WHERE relname = ANY(%(tables)s) AND relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
        """,
        {"tables": list(COUNTED)},
    ).fetchall()
    existing = {row[0] for row in rows}
    counts: dict[str, int] = {}
    for table in COUNTED:
        if table in existing:
            counted = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
            counts[table] = counted[0] if counted else 0
    return counts


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {COUNTED[table]}" for table, count in counts.items())


def _refuse_other_schema(conn: Connection, archive: Archive) -> None:
    row = conn.execute("SELECT current_schema()").fetchone()
    schema = row[0] if row else None
    if schema is None:
        raise StartupError("the search path of this database names no schema that exists: create it with CREATE SCHEMA")
    if schema != archive.schema:
        raise StartupError(
            f"{archive.file} has the tables of the schema {archive.schema}, and here they are in {schema}: restore into a "
            f"schema {archive.schema}, and rename it then (ALTER SCHEMA ... RENAME TO)"
        )


def _refuse_foreign(conn: Connection) -> None:
    """StartupError if tables with our names are of another program."""
    if _has_journal(conn):
        return
    rows = conn.execute(
        """
        SELECT relname FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(%(tables)s) ORDER BY relname
        """,
        {"tables": list(archives.own_names().tables)},
    ).fetchall()
    if rows:
        raise StartupError(
            f"the schema has {', '.join(row[0] for row in rows)} of another program, and nothing of it was changed: restore "
            "into another database"
        )


def _refuse_use(conn: Connection, lease_s: float) -> None:
    """StartupError if a server had a heartbeat within its lease."""
    if not _has_journal(conn):
        return
    row = conn.execute(
        """
        SELECT count(*), extract(epoch FROM clock_timestamp() - max(heartbeat_at))::float
          FROM workers
         WHERE heartbeat_at > clock_timestamp() - make_interval(secs => %(lease_s)s)
        """,
        {"lease_s": lease_s},
    ).fetchone()
    servers, age_s = row or (0, 0.0)
    if servers:
        raise StartupError(
            f"{servers} servers use this database (the last heartbeat was {age_s:.0f} s ago): stop them first. A server that "
            f"was killed counts for {lease_s:.0f} s"
        )


def _refuse_rows(conn: Connection) -> None:
    """StartupError if the tables have rows that a restore would delete."""
    counts = {table: count for table, count in _counts(conn).items() if table in PROTECTED and count}
    if counts:
        raise StartupError(f"this database has {_listed(counts)}: --force replaces them by the backup")
