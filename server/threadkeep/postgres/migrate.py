"""Migrations: applies our own migrations, and those of LangGraph's checkpointer and store.

Our own are `migrations/NNNN_subject.sql`: plain SQL, applied in order, each in one transaction, never edited later. SQL
functions and triggers are `migrations/functions/subject.sql`. A file is applied again if it has changed. All objects,
also the tables of LangGraph, are in the current schema, which is the first of the search path.
One process at a time applies them. Other processes poll for the lock and do not wait in a statement, because a waiting
statement holds a snapshot, and CREATE INDEX CONCURRENTLY waits for all snapshots.
"""

import hashlib
import importlib.resources
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import LiteralString

import psycopg
from anyio import fail_after, move_on_after, sleep, to_thread
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.store.postgres import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig
from psycopg import AsyncConnection, sql
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFile
from psycopg.rows import DictRow, class_row, dict_row, scalar_row, tuple_row

from threadkeep import __version__
from threadkeep.base.problems import StartupError
from threadkeep.postgres import session
from threadkeep.progress import Step

log = logging.getLogger(__name__)

LOCK = 7_474_500_001
"""The key of the advisory lock. It is arbitrary, but must be the same in every release."""

LOCK_WAIT_S = 60.0
"""Seconds to wait for the migrations of another process."""

LOCK_POLL_S = 0.1

ADVICE = (
    "Before 0.1 the tables may change: start with an empty database (another THREADKEEP_DATA_DIR, or CREATE DATABASE)"
)

CREATED = re.compile(rb"^CREATE (?:(?:UNLOGGED )?TABLE|(?:OR REPLACE )?(FUNCTION)) (\w+)", re.MULTILINE)
"""Finds the objects that a file creates: a function if there is a first group, else a table."""

JOURNALS: LiteralString = """
    CREATE TABLE IF NOT EXISTS threadkeep_migrations (
        number     integer     PRIMARY KEY,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS threadkeep_functions (
        name       text        PRIMARY KEY,
        checksum   text        NOT NULL,
        release    text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    );
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlFile:
    """One of our own files. A file of functions may be applied repeatedly."""

    name: str
    statements: bytes = field(repr=False)

    @property
    def checksum(self) -> str:
        """The hash of the whole file. It detects edited migrations, and files of functions to apply again."""
        return hashlib.sha256(self.statements).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration(SqlFile):
    """A file that is applied once, in the order of numbers."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The migrations and functions of this release."""

    migrations: tuple[Migration, ...]
    functions: tuple[SqlFile, ...]

    @property
    def newest(self) -> int:
        return self.migrations[-1].number


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A row of `threadkeep_migrations`."""

    number: int
    name: str
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFunctions:
    """A row of `threadkeep_functions`."""

    name: str
    checksum: str
    release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySchema:
    """Tables that LangGraph migrates itself. `versions` selects the last applied step as `v`."""

    name: str
    tables: tuple[str, ...]
    versions: LiteralString
    version: int


CHECKPOINTS = LibrarySchema(
    name="checkpoints",
    tables=("checkpoint_migrations", "checkpoints", "checkpoint_blobs", "checkpoint_writes"),
    versions="SELECT max(v) AS v FROM checkpoint_migrations",
    # LangGraph numbers its steps from 0, in the order of the list.
    version=len(AsyncPostgresSaver.MIGRATIONS) - 1,
)
STORE = LibrarySchema(
    name="store",
    tables=("store_migrations", "store"),
    versions="SELECT max(v) AS v FROM store_migrations",
    version=len(AsyncPostgresStore.MIGRATIONS) - 1,
)
LIBRARIES = (CHECKPOINTS, STORE)
VECTORS = LibrarySchema(
    name="vectors",
    tables=("vector_migrations", "store_vectors"),
    versions="SELECT max(v) AS v FROM vector_migrations",
    version=len(AsyncPostgresStore.VECTOR_MIGRATIONS) - 1,
)
"""The tables of the store's vector index."""


async def migrate(
    uri: str, *, index: PostgresIndexConfig | None = None, folder: Path | None = None, step: Step | None = None
) -> list[str]:
    """Migrate the database to this release, and return the names of the applied files.

    With `index` it also creates the store's vector tables. `folder` replaces our own migrations. `step` shows the file that
    is being applied. StartupError if an applied file was edited or deleted, if a file fails, if `index` needs pgvector and
    it is missing, if the vector tables have other dimensions, or if another process still migrates after `LOCK_WAIT_S`.
    """
    release = await to_thread.run_sync(read_migrations, folder)
    async with _connected(uri) as conn:
        behind = await _behind(conn, release, _libraries(index))
        _warn_if_newer(await _applied(conn), release)
        applied: list[str] = []
        if behind or await _lacks_row_level_security(conn):
            async with _locked(uri):
                applied = await _apply(conn, release, index, step or Step(title="Migrate", total=None, unit="files"))
        if index is not None:
            await _refuse_other_vectors(conn, index)
        return applied


async def pending(uri: str, *, index: PostgresIndexConfig | None = None, folder: Path | None = None) -> list[str]:
    """The names of the files that `migrate` would apply. StartupError if an applied file was edited or deleted."""
    release = await to_thread.run_sync(read_migrations, folder)
    async with _connected(uri) as conn:
        return await _behind(conn, release, _libraries(index))


async def is_current(conn: AsyncConnection[object], *, folder: Path | None = None) -> bool:
    """Whether all files of this release are applied. Migrations are compared only by number."""
    release = await (
        to_thread.run_sync(_own_release) if folder is None else to_thread.run_sync(read_migrations, folder)
    )
    applied = await _applied(conn)
    if any(migration.number not in applied for migration in release.migrations):
        return False
    # Their checksums are not compared: in a rolling update, files of the newer release also serve this process.
    if {file.name for file in release.functions} - (await _function_files(conn)).keys():
        return False
    return not [library for library in LIBRARIES if await _is_behind(conn, library)]


@cache
def _own_release() -> Release:
    """The files of this release, read once, because each readiness probe compares them."""
    return read_migrations()


def read_migrations(folder: Path | None = None) -> Release:
    """Read the files of `folder`, else of the wheel, else of the checkout, in order."""
    place = folder or _own_folder()
    migrations = [_read_file(path) for path in sorted(place.glob("*.sql"))]
    if not migrations or [migration.number for migration in migrations] != sorted(
        {migration.number for migration in migrations}
    ):
        raise StartupError(
            f"migrations: two have the same number, or there are none: {[migration.name for migration in migrations]}"
        )
    paths = sorted((place / "functions").glob("*.sql"))
    functions = [SqlFile(name=f"functions/{path.stem}", statements=path.read_bytes()) for path in paths]
    return Release(migrations=tuple(migrations), functions=tuple(functions))


def _own_folder() -> Path:
    package = Path(str(importlib.resources.files("threadkeep")))
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parents[1] / "migrations"


def _read_file(path: Path) -> Migration:
    number, _, subject = path.stem.partition("_")
    if len(number) != 4 or not number.isdecimal() or not subject:
        raise StartupError(f"migration {path.name}: the name is not NNNN_subject.sql")
    return Migration(number=int(number), name=path.stem, statements=path.read_bytes())


@asynccontextmanager
async def _connected(uri: str) -> AsyncGenerator[AsyncConnection[DictRow]]:
    # Nothing is prepared, because a transaction pooler may send the next statement to another session.
    conn = await AsyncConnection[DictRow].connect(uri, autocommit=True, prepare_threshold=None, row_factory=dict_row)
    async with conn:
        backend = await (await conn.execute("SELECT pg_backend_pid() AS number")).fetchone()
        if backend is not None and backend["number"] == conn.info.backend_pid:  # there is no pooler
            await conn.execute(session.SET_UP, session.PARAMETERS)
            # A migration may take longer than a request.
            await conn.execute("SET statement_timeout = 0")
            await conn.execute("SET idle_in_transaction_session_timeout = 0")
        yield conn


@asynccontextmanager
async def _locked(uri: str) -> AsyncGenerator[None]:
    """Hold the lock in a transaction, because a transaction pooler keeps a session only for one transaction.

    It is read committed, so it holds no snapshot that CREATE INDEX CONCURRENTLY would wait for.
    """
    async with _connected(uri) as conn:
        try:
            with fail_after(LOCK_WAIT_S):
                while not await _try_lock(conn):  # noqa: ASYNC110 - Postgres has no other wait without a snapshot
                    await sleep(LOCK_POLL_S)
        except TimeoutError:
            raise StartupError(f"another process has been migrating this database for {LOCK_WAIT_S:.0f} s") from None
        try:
            yield
        finally:
            # The end of the connection would release the lock too, but only when Postgres notices it.
            with move_on_after(5, shield=True):
                await conn.rollback()


async def _try_lock(conn: AsyncConnection[DictRow]) -> bool:
    """Try to begin a transaction with the lock. Returns whether it has the lock.

    The statement has no parameters, because a portal would stay open with a snapshot until the end of the transaction.
    """
    await conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    await conn.execute("SELECT set_config('idle_in_transaction_session_timeout', '0', true)")
    cursor = await conn.execute(sql.SQL("SELECT pg_try_advisory_xact_lock({}) AS got").format(LOCK))
    row = await cursor.fetchone()
    if row is not None and row["got"]:
        return True
    await conn.rollback()
    return False


def _libraries(index: PostgresIndexConfig | None) -> tuple[LibrarySchema, ...]:
    return LIBRARIES if index is None else (*LIBRARIES, VECTORS)


async def _behind(conn: AsyncConnection[object], release: Release, libraries: tuple[LibrarySchema, ...]) -> list[str]:
    """The names of the missing or outdated files, in the order in which they are applied."""
    applied = await _applied(conn)
    _refuse_changed(applied, release)
    ours = [migration.name for migration in release.migrations if migration.number not in applied]
    library_names = [library.name for library in libraries if await _is_behind(conn, library)]
    return ours + library_names + [file.name for file in await _outdated(conn, release, applied)]


async def _outdated(conn: AsyncConnection[object], release: Release, applied: dict[int, Applied]) -> list[SqlFile]:
    """The files of functions to apply. Files of a newer release are not replaced, because older releases can use them."""
    # A newer release has migrated the database. Its functions also serve this release.
    if max(applied, default=0) > release.newest:
        return []
    applied_files = await _function_files(conn)
    return [
        file
        for file in release.functions
        if file.name not in applied_files
        or (
            applied_files[file.name].checksum != file.checksum
            and _parts(applied_files[file.name].release) <= _parts(__version__)
        )
    ]


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparisons."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


async def _function_files(conn: AsyncConnection[object]) -> dict[str, AppliedFunctions]:
    if not await _exist(conn, "threadkeep_functions"):
        return {}
    async with conn.cursor(row_factory=class_row(AppliedFunctions)) as cursor:
        await cursor.execute("SELECT name, checksum, release FROM threadkeep_functions")
        return {file.name: file async for file in cursor}


async def _applied(conn: AsyncConnection[object]) -> dict[int, Applied]:
    if not await _exist(conn, "threadkeep_migrations"):
        return {}
    async with conn.cursor(row_factory=class_row(Applied)) as cursor:
        await cursor.execute("SELECT number, name, checksum FROM threadkeep_migrations")
        return {row.number: row async for row in cursor}


def _refuse_changed(applied: dict[int, Applied], release: Release) -> None:
    by_number = {row.number: row for row in release.migrations}
    for number, row in sorted(applied.items()):
        if number > release.newest:  # a newer release has applied it, and keeps its tables usable for this one
            continue
        if number not in by_number:
            raise StartupError(
                f"migration {row.name} was applied to this database, but this release does not have its file. {ADVICE}"
            )
        if by_number[number].checksum != row.checksum:
            name = by_number[number].name
            raise StartupError(f"migration {name} was changed after it was applied to this database. {ADVICE}")


def _warn_if_newer(applied: dict[int, Applied], release: Release) -> None:
    newer = sorted(row.name for row in applied.values() if row.number > release.newest)
    if newer:
        log.warning("the database is newer than this release", extra={"newer_migrations": newer})


async def _refuse_foreign(
    conn: AsyncConnection[object], release: Release, libraries: tuple[LibrarySchema, ...]
) -> None:
    """StartupError if the schema has tables or functions of another program with the same names.

    Tables of LangGraph are accepted if its migrations table exists too.
    """
    applied, applied_functions = await _applied(conn), await _function_files(conn)
    files = [file for file in release.migrations if file.number not in applied]
    files += [file for file in release.functions if file.name not in applied_functions]
    statements = [statement for file in files for statement in CREATED.findall(file.statements)]
    tables = [name.decode() for kind, name in statements if not kind]
    for library in libraries:
        # Without this journal, tables with these names were not created by LangGraph.
        if not await _exist(conn, library.tables[0]):
            tables += library.tables[1:]
    functions = [name.decode() for kind, name in statements if kind] if not applied else []
    schema, names = await _names_in_use(conn, tables, functions)
    if names:
        raise StartupError(
            f"the schema {schema} has {names} of another program, and nothing was changed: give Threadkeep a schema "
            "of its own (CREATE SCHEMA threadkeep, and ?options=-csearch_path%3Dthreadkeep in DATABASE_URI) or another "
            "database"
        )


async def _names_in_use(
    conn: AsyncConnection[object], tables: list[str], functions: list[str]
) -> tuple[str | None, str | None]:
    """The current schema, and those of the names that it has already. None: there is none."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            """
            SELECT current_schema(), string_agg(name, ', ' ORDER BY name)
              FROM (SELECT relname FROM pg_class
                     WHERE relname = ANY(%(tables)s) AND relnamespace = current_schema()::regnamespace
                     UNION
                    SELECT proname FROM pg_proc
                     WHERE proname = ANY(%(functions)s) AND pronamespace = current_schema()::regnamespace) AS taken (name)
            """,
            {"tables": tables, "functions": functions},
        )
        return await cursor.fetchone() or (None, None)


async def _apply(
    conn: AsyncConnection[DictRow], release: Release, index: PostgresIndexConfig | None, step: Step
) -> list[str]:
    await _refuse_foreign(conn, release, _libraries(index))
    # Again under the lock: the process that held it before may have applied some of the files.
    behind = await _behind(conn, release, _libraries(index))
    step.total = len(behind)
    await conn.execute(JOURNALS)
    for migration in release.migrations:
        if migration.name in behind:
            with step.part(migration.name):
                await _apply_migration(conn, migration)
    # Before LangGraph's own steps, whose IF NOT EXISTS would accept an invalid index.
    await _mend_indexes(conn)
    for library in _libraries(index):
        if library.name in behind:
            with step.part(library.name):
                await _migrate_library(conn, library, index)
    for file in release.functions:
        if file.name in behind:
            with step.part(file.name):
                await _apply_functions(conn, file)
    # Each time, because LangGraph may have created tables after the file of functions was applied.
    if await _can_enable_row_level_security(conn):
        await conn.execute("SELECT enable_row_level_security()")
    return behind


async def _migrate_library(
    conn: AsyncConnection[DictRow], library: LibrarySchema, index: PostgresIndexConfig | None
) -> None:
    if library is CHECKPOINTS:
        await AsyncPostgresSaver(conn).setup()
    elif library is STORE:
        await AsyncPostgresStore(conn).setup()
    else:
        await _make_vectors(conn, index)


async def _lacks_row_level_security(conn: AsyncConnection[object]) -> bool:
    """Whether row-level security is off but can be turned on now."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            """
            SELECT NOT relrowsecurity
              FROM pg_class
             WHERE relname = 'threads' AND relnamespace = current_schema()::regnamespace
               AND pg_has_role(relowner, 'USAGE') -- another role may not change the table
            """
        )
        return bool(await cursor.fetchone()) and await _can_enable_row_level_security(conn)


async def _can_enable_row_level_security(conn: AsyncConnection[object]) -> bool:
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("SELECT to_regprocedure('enable_row_level_security()') IS NOT NULL")
        return bool(await cursor.fetchone())


async def _apply_functions(conn: AsyncConnection[DictRow], file: SqlFile) -> None:
    try:
        async with conn.transaction():
            await conn.execute(file.statements)
            await conn.execute(
                """
                INSERT INTO threadkeep_functions (name, checksum, release)
                VALUES (%(name)s, %(checksum)s, %(release)s)
                ON CONFLICT (name) DO UPDATE
                   SET checksum = EXCLUDED.checksum, release = EXCLUDED.release, applied_at = now()
                """,
                {"name": file.name, "checksum": file.checksum, "release": __version__},
            )
    except psycopg.Error as error:
        raise StartupError(f"migrations/{file.name}.sql failed and was rolled back: {error}") from error
    log.info("functions applied", extra={"file": file.name})


async def _make_vectors(conn: AsyncConnection[DictRow], index: PostgresIndexConfig | None) -> None:
    try:
        await AsyncPostgresStore(conn, index=index).setup()
    # Older versions of Postgres report a missing extension as an undefined file.
    except (FeatureNotSupported, UndefinedFile, InsufficientPrivilege) as error:
        raise StartupError(
            "store.index needs the extension pgvector, which this Postgres does not have: "
            f"{error.diag.message_primary}. Install it and run CREATE EXTENSION vector as a superuser"
        ) from error


async def _refuse_other_vectors(conn: AsyncConnection[object], index: PostgresIndexConfig) -> None:
    """StartupError if the vector column has another length, because it can't be changed."""
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            """
            SELECT atttypmod -- pgvector stores the dimensions here
              FROM pg_attribute
             WHERE attrelid = to_regclass('store_vectors') AND attname = 'embedding' AND NOT attisdropped
            """
        )
        stored_dims, index_dims = await cursor.fetchone(), index.get("dims")
    if stored_dims != index_dims:
        raise StartupError(
            f"store.index.dims is {index_dims}, but the vectors in the database have {stored_dims}: restore the number, "
            "or drop the tables store_vectors and vector_migrations and put the items again"
        )


async def _apply_migration(conn: AsyncConnection[DictRow], migration: Migration) -> None:
    try:
        async with conn.transaction():
            await conn.execute(migration.statements)
            await conn.execute(
                """
                INSERT INTO threadkeep_migrations (number, name, checksum)
                VALUES (%(number)s, %(name)s, %(checksum)s)
                """,
                {"number": migration.number, "name": migration.name, "checksum": migration.checksum},
            )
    except psycopg.Error as error:
        raise StartupError(f"migration {migration.name} failed and was rolled back: {error}") from error
    log.info("migration applied", extra={"migration": migration.name})


async def _is_behind(conn: AsyncConnection[object], library: LibrarySchema) -> bool:
    if not await _exist(conn, *library.tables):
        return True
    async with conn.cursor(row_factory=scalar_row) as cursor:
        version = await (await cursor.execute(library.versions)).fetchone()
    return version is None or version < library.version or bool(await _invalid_indexes(conn, library))


async def _exist(conn: AsyncConnection[object], *tables: str) -> bool:
    async with conn.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            """
            SELECT count(*) = cardinality(%(tables)s::text[])
              FROM pg_class
             WHERE relname = ANY(%(tables)s) AND relnamespace = current_schema()::regnamespace
            """,
            {"tables": list(tables)},
        )
        return bool(await cursor.fetchone())


async def _invalid_indexes(conn: AsyncConnection[object], library: LibrarySchema) -> list[sql.Identifier]:
    """Indexes of an interrupted CREATE INDEX CONCURRENTLY. No query uses them, and LangGraph does not repair them."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            """
            SELECT namespace.nspname, index.relname
              FROM pg_index
              JOIN pg_class index ON index.oid = pg_index.indexrelid
              JOIN pg_namespace namespace ON namespace.oid = index.relnamespace
             WHERE NOT pg_index.indisvalid
               AND namespace.oid = current_schema()::regnamespace
               AND pg_index.indrelid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
            """,
            {"tables": list(library.tables)},
        )
        return [sql.Identifier(schema, name) async for schema, name in cursor]


async def _mend_indexes(conn: AsyncConnection[DictRow]) -> None:
    for library in (*LIBRARIES, VECTORS):
        for invalid in await _invalid_indexes(conn, library):
            # Otherwise the writes of running servers would wait for the whole rebuild.
            await conn.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(invalid))
            log.warning("index rebuilt", extra={"index": invalid.as_string()})
