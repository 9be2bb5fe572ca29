"""Archives: the server's tables in a file of pg_dump's custom format, and back into a database.

An archive holds the tables of one schema that migrations create, with their rows, and the functions and types of that schema.
Tables of other programs in it are left out. So are the rows of `workers`, because the processes are not part of the data:
runs that were going on return to the queue.

Roles are not part of a database. So policies are not restored: the migrations create the role and the policies anew.
A restore is one transaction. If it fails, the database is as before.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import psycopg

from threadkeep.base.problems import StartupError
from threadkeep.postgres import migrate
from threadkeep.postgres.client_programs import ClientPrograms, ended, first_error

OnBytes = Callable[[int], None]
"""Called with the number of further bytes that were written."""

CREATED: Final = re.compile(rb"^CREATE (?:OR REPLACE |UNLOGGED )*(TABLE|FUNCTION|DOMAIN) (\w+)", re.MULTILINE)
PROCESSES: Final = ("workers", "crash_markers")
"""Tables whose rows are not dumped."""
JOURNAL: Final = re.compile(r"^\d+; \d+ \d+ TABLE (.+) threadkeep_migrations ", re.MULTILINE)
VECTORS: Final = re.compile(r"^\d+; \d+ \d+ TABLE .+ store_vectors ", re.MULTILINE)
# The schema exists already, rights come after the commit (`restore_rights`), and migrations make the policies.
NOT_RESTORED: Final = re.compile(
    r"^\d+; \d+ \d+ (?:SCHEMA|EXTENSION|POLICY|ROW SECURITY|ACL|DEFAULT ACL|PUBLICATION TABLE|COMMENT \S+ (?:POLICY|SCHEMA)) "
)
RIGHTS: Final = re.compile(r"^\d+; \d+ \d+ ACL ")
DEFINITION: Final = re.compile(r"^\d+; \d+ \d+ (?:FUNCTION|PROCEDURE|AGGREGATE|TYPE|DOMAIN) \S+ (\w+)")
NO_ROLE: Final = re.compile(r'ERROR:  role "(.+)" does not exist')
UNKNOWN_BEFORE_17: Final = b"SET transaction_timeout = 0;\n"
"""A line of pg_restore 17 and newer that older servers refuse."""
HEAD_BYTES: Final = 16 * 1024
COPY_BYTES: Final = 256 * 1024
REPORT_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of the objects that migrations create, also of those that a later migration may have dropped."""

    tables: frozenset[str]
    functions: frozenset[str]
    domains: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database, and the programs for it."""

    uri: str
    programs: ClientPrograms


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file that is an archive of a Threadkeep database."""

    file: Path
    schema: str
    entries: Sequence[str]
    """The lines of its table of contents."""
    has_vectors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Statements for psql: own ones, and then those of some entries of an archive."""

    archive: Archive
    entries: Sequence[str]
    preface: Sequence[str] = ()
    is_transaction: bool


def own_names() -> Names:
    """Read the names from the migrations."""
    release = migrate.read_migrations()
    by_kind: dict[bytes, set[str]] = {b"TABLE": set(), b"FUNCTION": set(), b"DOMAIN": set()}
    for file in (*release.migrations, *release.functions):
        for kind, name in CREATED.findall(file.statements):
            by_kind[kind].add(name.decode())
    libraries = {table for library in (*migrate.LIBRARIES, migrate.VECTORS) for table in library.tables}
    return Names(
        tables=frozenset(by_kind[b"TABLE"] | libraries | {"threadkeep_migrations", "threadkeep_functions"}),
        functions=frozenset(by_kind[b"FUNCTION"]),
        domains=frozenset(by_kind[b"DOMAIN"]),
    )


def dump(conn: psycopg.Connection[Any], target: Target, file: IO[bytes], on_bytes: OnBytes) -> None:
    """Write an archive of the snapshot that the transaction of `conn` sees. StartupError if pg_dump fails."""
    row = conn.execute(
        """
        SELECT pg_export_snapshot(), current_schema(), array( -- so that pg_dump sees what the counts have counted
            SELECT relname
              FROM pg_class
             WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
               AND relname <> ALL(%(tables)s)
               AND NOT EXISTS (SELECT FROM pg_depend -- a sequence of a column of ours
                                WHERE objid = pg_class.oid AND classid = 'pg_class'::regclass AND deptype IN ('i', 'a')
                                  AND refobjid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)))
        """,
        {"tables": list(own_names().tables)},
    ).fetchone()
    snapshot, schema, others = cast("tuple[str, str, list[str]]", row)
    arguments = [
        # Without the timeout pg_dump would wait for ever for a table that a long ALTER TABLE has locked.
        *("--format=custom", f"--snapshot={snapshot}", "--lock-wait-timeout=60s", "--no-publications"),
        "--no-toast-compression",  # the embedded Postgres has no LZ4, and connections choose it where it is possible
        f"--schema={_pattern(schema)}",
        *(f"--exclude-table={_pattern(schema, name)}" for name in others),
        *(f"--exclude-table-data={_pattern(schema, name)}" for name in PROCESSES),
    ]
    with tempfile.TemporaryFile() as messages:
        process = target.programs.start("pg_dump", *arguments, uri=target.uri, stdout=file, stderr=messages)
        with ended(process):
            _report_size(process, file, on_bytes)
        if process.returncode != 0:
            raise StartupError(f"pg_dump failed: {first_error(messages)}")


def _pattern(*names: str) -> str:
    """A pattern of pg_dump that matches one name."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _report_size(process: subprocess.Popen[bytes], file: IO[bytes], on_bytes: OnBytes) -> None:
    """Wait for the process, and report the growth of the file meanwhile."""
    reported = 0
    while process.returncode is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(REPORT_S)
        size = os.fstat(file.fileno()).st_size
        on_bytes(size - reported)
        reported = size


def read(file: Path, programs: ClientPrograms) -> Archive:
    """Read the table of contents. StartupError if the file is not an archive of a Threadkeep database."""
    with tempfile.TemporaryFile() as messages:
        process = programs.start("pg_restore", "--list", str(file), stdout=subprocess.PIPE, stderr=messages)
        contents = process.communicate()[0].decode(errors="replace")
        if process.returncode != 0:
            raise StartupError(f"{file} can't be read: {first_error(messages)}")
    journal = JOURNAL.search(contents)
    if journal is None:
        raise StartupError(f"{file} is not a backup of Threadkeep: it has no table threadkeep_migrations")
    return Archive(
        file=file,
        schema=journal[1],
        entries=[line for line in contents.splitlines() if not line.startswith(";")],
        has_vectors=VECTORS.search(contents) is not None,
    )


def restore(conn: psycopg.Connection[Any], archive: Archive, target: Target, on_bytes: OnBytes) -> None:
    """Replace the server's tables by those of the archive, in one transaction.

    `conn` only reads. StartupError if a statement fails, for example because a view of another program needs a table.
    """
    names = own_names()
    # pg_dump selects tables, but no functions and types. So the archive has those of other programs too.
    taken = _definitions_of_others(conn, names)
    entries = [
        entry
        for entry in archive.entries
        if not NOT_RESTORED.match(entry) and not ((match := DEFINITION.match(entry)) and match[1] in taken)
    ]
    # A server that starts meanwhile waits with its migrations, and does not make tables in the middle of the restore.
    preface = [f"SELECT pg_advisory_xact_lock({migrate.LOCK})", *_drops(conn, names)]
    if archive.has_vectors:
        preface.append("CREATE EXTENSION IF NOT EXISTS vector")
    script = Script(archive=archive, entries=entries, preface=preface, is_transaction=True)
    with tempfile.TemporaryFile() as messages:
        if not _execute(script, target, messages, on_bytes):
            raise StartupError(f"nothing was restored, and the database is as before: {first_error(messages)}")


def restore_rights(archive: Archive, target: Target) -> set[str]:
    """Grant the rights on the tables as in the archive. Returns the roles that do not exist here."""
    entries = [entry for entry in archive.entries if RIGHTS.match(entry)]
    script = Script(archive=archive, entries=entries, is_transaction=False)
    with tempfile.TemporaryFile() as messages:
        if entries:
            _execute(script, target, messages, lambda _: None)
        messages.seek(0)
        return set(NO_ROLE.findall(messages.read().decode(errors="replace")))


def _definitions_of_others(conn: psycopg.Connection[Any], names: Names) -> set[str]:
    """The functions and types in the current schema that are not ours. They stay as they are."""
    rows = conn.execute(
        """
        SELECT proname FROM pg_proc
         WHERE pronamespace = current_schema()::regnamespace AND proname <> ALL(%(functions)s)
         UNION
        SELECT typname FROM pg_type
         WHERE typnamespace = current_schema()::regnamespace AND typname <> ALL(%(domains)s)
        """,
        {"functions": list(names.functions), "domains": list(names.domains)},
    )
    return {row[0] for row in rows}


def _drops(conn: psycopg.Connection[Any], names: Names) -> list[str]:
    """Statements that drop our objects in the current schema, in the order in which one does not need a later one.

    They fail if an object of another program needs one of ours.
    """
    rows = conn.execute(
        """
        SELECT statement FROM (
        SELECT 1 AS place, format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass) AS statement -- because triggers need functions
          FROM pg_trigger
         WHERE NOT tgisinternal AND tgrelid IN (SELECT to_regclass(name) FROM unnest(%(tables)s::text[]) AS name)
         UNION ALL
        SELECT 2, 'DROP FUNCTION ' || string_agg(oid::regprocedure::text, ', ')
          FROM pg_proc
         WHERE pronamespace = current_schema()::regnamespace AND proname = ANY(%(functions)s)
        HAVING count(*) > 0
         UNION ALL
        SELECT 3, 'DROP TABLE ' || string_agg(format('%%I.%%I', current_schema(), relname), ', ')
          FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname = ANY(%(tables)s)
        HAVING count(*) > 0
         UNION ALL
        SELECT 4, 'DROP DOMAIN ' || string_agg(format('%%I.%%I', current_schema(), typname), ', ')
          FROM pg_type
         WHERE typnamespace = current_schema()::regnamespace AND typtype = 'd' AND typname = ANY(%(domains)s)
        HAVING count(*) > 0) AS statements
         ORDER BY place
        """,
        {"tables": list(names.tables), "functions": list(names.functions), "domains": list(names.domains)},
    )
    return [row[0] for row in rows]


def _execute(script: Script, target: Target, messages: IO[bytes], on_bytes: OnBytes) -> bool:
    """Execute a script by psql, and return whether it was successful. StartupError if the archive can't be read.

    A transaction is committed only if pg_restore was successful.
    """
    options, begin, commit = ["--no-psqlrc", "--quiet", "--file=-"], b"", b""
    if script.is_transaction:  # otherwise the right of a role that does not exist fails alone
        # Not --single-transaction, with which psql commits at the end of its input, also after a failure of pg_restore.
        options, begin, commit = [*options, "--set=ON_ERROR_STOP=1"], b"BEGIN;\n", b"COMMIT;\n"
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    psql = target.programs.start("psql", *options, uri=target.uri, stdin=pipe, stdout=null, stderr=messages)
    statements = cast("IO[bytes]", psql.stdin)
    with ended(psql):
        with suppress(BrokenPipeError), statements as sink:  # psql ended early, and its message tells why
            sink.write(begin + "".join(f"{statement};\n" for statement in script.preface).encode())
            _copy_statements(script, target.programs, sink, on_bytes)
            sink.write(commit)
        psql.wait()
    return psql.returncode == 0


def _copy_statements(script: Script, programs: ClientPrograms, sink: IO[bytes], on_bytes: OnBytes) -> None:
    """Write the statements of the script's entries. StartupError if pg_restore fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as chosen, tempfile.TemporaryFile() as messages:
        chosen.write("\n".join(script.entries) + "\n")
        # pg_restore opens the file by its name, so the buffer must be written before.
        chosen.flush()
        arguments = (
            "--file=-",
            "--no-owner",
            "--no-tablespaces",
            f"--use-list={chosen.name}",
            str(script.archive.file),
        )
        source = programs.start("pg_restore", *arguments, stdout=subprocess.PIPE, stderr=messages)
        with ended(source):
            output = cast("IO[bytes]", source.stdout)
            # The line is among the settings at the top. In the rows below, the same bytes would be data.
            first = output.read(HEAD_BYTES)
            sink.write(first.replace(UNKNOWN_BEFORE_17, b""))
            while piece := output.read(COPY_BYTES):
                sink.write(piece)
                on_bytes(len(piece))
            if source.wait() != 0:
                raise StartupError(f"nothing was restored, and the database is as before: {first_error(messages)}")
