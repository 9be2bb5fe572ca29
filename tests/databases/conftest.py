"""Databases as people have them: a Postgres of the test's own choice, roles of all kinds, a pooler in front."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from clusters import cluster_of
from faults.servers import free_port
from threadkeep.postgres import os_user

RUNS = int(os.environ.get("DATABASES_RUNS", "20"))
"""How many runs each database gets at once. `make databases` makes them 200."""

NAME = "databases_case"
OWNER = "databases_owner"

PGBOUNCER = """
[databases]
{name} = host={host} port={port} user={role}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
logfile = {log}
"""


class Databases:
    """Makes databases on a cluster and poolers in front of it, and removes them."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._made: list[sql.Composed] = []

    def execute(self, *statements: str, database: str | None = None, **names: str) -> None:
        """As the superuser. `names` are identifiers in the statements."""
        uri = make_conninfo(self.uri, dbname=database) if database else self.uri
        given = {name: sql.Identifier(value) for name, value in names.items()}
        with psycopg.connect(uri, autocommit=True) as conn:
            for statement in statements:
                conn.execute(sql.SQL(statement).format(**given))  # pyright: ignore[reportArgumentType]

    def make(self, name: str, *, owner: str | None = None, options: str = "") -> str:
        """An empty database, and a role that owns it if `owner` says so; the owner's URI."""
        self._drop(name)
        if owner is not None:
            self.execute("CREATE ROLE {owner} LOGIN", owner=owner)
        self.execute(f"CREATE DATABASE {{name}} {options}", name=name)
        if owner is not None:
            self.execute("ALTER DATABASE {name} OWNER TO {owner}", name=name, owner=owner)
        self._made.append(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        if owner is not None:
            self._made.append(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner)))
        return self.address(name, owner)

    def address(self, name: str, role: str | None = None, **more: str) -> str:
        """The URI of a database for a role."""
        return make_conninfo(self.uri, dbname=name, **({"user": role} if role else {}), **more)

    def role(self, name: str) -> None:
        """A role that may log in, and nothing else."""
        self.execute("DROP ROLE IF EXISTS {name}", "CREATE ROLE {name} LOGIN", name=name)
        self._made.append(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))

    def drop(self) -> None:
        """Remove what was made."""
        with psycopg.connect(self.uri, autocommit=True) as conn:
            for statement in self._made:
                conn.execute(statement)

    def _drop(self, name: str) -> None:
        self.execute("DROP DATABASE IF EXISTS {name} WITH (FORCE)", name=name)


@pytest.fixture
def databases(postgres: str) -> Iterator[Databases]:
    """On the embedded Postgres."""
    made = Databases(postgres)
    yield made
    made.drop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """A database, and a pooler in front of it."""

    direct: str
    through: str


@pytest.fixture
def pooled(databases: Databases, request: pytest.FixtureRequest) -> Iterator[Pooled]:
    """By the test's parameter: the mode of PgBouncer, its sessions, and settings of the role."""
    mode, size, *role_settings = request.param
    direct = databases.make(NAME, owner=OWNER)
    for setting in role_settings:
        databases.execute(f"ALTER ROLE {{owner}} SET {setting}", owner=OWNER)
    with pgbouncer(direct, mode, size=size) as through:
        yield Pooled(direct=direct, through=through)


@contextmanager
def pgbouncer(uri: str, mode: str, *, size: int) -> Iterator[str]:
    """PgBouncer in front of the database of `uri`; the URI that goes through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    said, port = conninfo_to_dict(uri), free_port()
    folder = Path(str(said["host"])) if str(said["host"]).startswith("/") else Path(tempfile.mkdtemp())
    user = os_user.choose_os_user(folder, Path(program))
    config, log = folder / f"pgbouncer-{port}.ini", folder / f"pgbouncer-{port}.log"
    config.write_text(
        PGBOUNCER.format(
            host=said["host"],
            port=said["port"],
            name=said["dbname"],
            role=said["user"],
            listen=port,
            mode=mode,
            size=size,
            log=log,
        )
    )
    if user.switch_to is not None:
        os.chown(config, user.uid, user.gid)
    options = {} if user.switch_to is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    process = subprocess.Popen([program, "-q", str(config)], cwd="/", stderr=subprocess.DEVNULL, **options)
    through = make_conninfo(uri, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
    try:
        _wait_for(through, process)
        yield through
    finally:
        process.terminate()
        process.wait(10)
        config.unlink()
        log.unlink(missing_ok=True)


def _wait_for(uri: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        assert process.poll() is None, "pgbouncer ended"
        try:
            psycopg.connect(uri, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if "refused" not in str(error):
                raise
            subprocess.run(["sleep", "0.05"], check=True)
        else:
            return
    raise TimeoutError("pgbouncer takes no connections")


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[str]:
    """The URI of a PostgreSQL 15, as Debian 12 has it."""
    binaries = Path("/usr/lib/postgresql/15/bin")
    if not binaries.is_dir():
        pytest.skip("PostgreSQL 15 is not installed")
    with cluster_of(binaries) as uri:
        yield uri
