"""Patroni: two nodes of Postgres on loopback, with etcd and HAProxy, by the files in docs/examples/high-availability."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg

from faults.servers import free_port, program
from threadkeep.postgres import os_user
from threadkeep.postgres.os_user import OsUser

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples" / "high-availability"
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
NEEDED = ("patroni", "etcd", "haproxy")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/usr/local/bin"
READY_S = 120
"""Seconds for a node to be primary or synchronous standby. A rewind after a crash takes the longest."""


def missing() -> str:
    """What is not installed, or an empty text."""
    names = [name for name in NEEDED if shutil.which(name, path=SYSTEM_PATH) is None]
    names += [] if (PROGRAMS / "initdb").exists() else ["postgresql-15"]
    return f"{', '.join(names)} of Debian not installed" if names else ""


@dataclass(slots=True, kw_only=True)
class Node:
    """One Postgres with its Patroni."""

    name: str
    home: Path
    port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.home / self.name

    @property
    def config(self) -> Path:
        return self.home / f"{self.name}.yml"

    def uri(self, database: str = "postgres") -> str:
        """As the superuser."""
        return f"postgresql://postgres:secret-of-postgres@127.0.0.1:{self.port}/{database}"

    async def answers(self, path: str) -> bool:
        """Whether Patroni answers 200, for example to /primary."""
        async with httpx.AsyncClient(timeout=5) as http:
            with suppress(httpx.TransportError):
                return (await http.get(f"http://127.0.0.1:{self.api_port}{path}")).status_code == 200
        return False

    async def until(self, path: str) -> None:
        """Wait until it answers 200."""
        with anyio.fail_after(READY_S):
            while not await self.answers(path):
                await anyio.sleep(0.1)

    async def promoted_at(self) -> float:
        """Wait until this standby takes writes, and return when that was."""
        with anyio.fail_after(READY_S):
            async with await psycopg.AsyncConnection.connect(self.uri(), autocommit=True) as conn:
                while True:
                    row = await (await conn.execute("SELECT pg_is_in_recovery()")).fetchone()
                    if row == (False,):
                        return time.monotonic()
                    await anyio.sleep(0.02)

    def kill(self) -> None:
        """`kill -9` of Patroni and Postgres, as the end of a machine."""
        if self.process is not None:
            # Patroni first, or it would start the killed Postgres again.
            self.process.kill()
            self.process.wait()
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((self.data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)


@dataclass(slots=True, kw_only=True)
class Cluster:
    """Two nodes and their addresses."""

    home: Path
    user: OsUser
    nodes: tuple[Node, Node]
    etcd_port: int = field(default_factory=free_port)
    proxy_port: int = field(default_factory=free_port)

    @property
    def through_proxy(self) -> str:
        """The server's URI through HAProxy."""
        return f"postgresql://threadkeep:secret@127.0.0.1:{self.proxy_port}/threadkeep"

    @property
    def multi_host(self) -> str:
        """The server's URI with both nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://threadkeep:secret@{hosts}/threadkeep?target_session_attrs=read-write"

    @property
    def options(self) -> dict[str, Any]:
        """For the programs: the user who runs them."""
        switch = self.user.switch_to is not None
        # Without the empty list the program keeps the groups of root.
        others: list[str] | None = [] if switch else None
        return {
            "cwd": "/",
            "user": self.user.switch_to,
            "group": self.user.gid if switch else None,
            "extra_groups": others,
            # Ctrl-C in the terminal must not reach the programs before the scenario ends them.
            "start_new_session": True,
        }

    async def start(self, node: Node) -> None:
        """Start a node with the data that it has."""
        with (self.home / f"{node.name}.log").open("ab") as log:
            node.process = await anyio.to_thread.run_sync(
                lambda: subprocess.Popen(["patroni", str(node.config)], stdout=log, stderr=log, **self.options)
            )

    async def switch_over(self, old: Node, new: Node) -> None:
        """Make the standby the primary, as planned."""
        async with httpx.AsyncClient(timeout=60) as http:
            names = {"leader": old.name, "candidate": new.name}
            answer = await http.post(f"http://127.0.0.1:{old.api_port}/switchover", json=names)
            assert answer.status_code == 200, answer.text

    def write(self, name: str, text: str, addresses: Mapping[str, str]) -> Path:
        """Write a file of the examples with the addresses of this machine."""
        for example, here in addresses.items():
            # An example that was edited must not leave a node on the addresses of the documentation.
            assert example in text, example
            text = text.replace(example, here)
        path = self.home / name
        path.write_text(text)
        return path


@asynccontextmanager
async def patroni_cluster(folder: Path) -> AsyncGenerator[Cluster]:
    """Two nodes, the first one primary and the second one synchronous, with an empty database `threadkeep`."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        home = Path(name)
        # Postgres refuses to run as root.
        user = os_user.choose_os_user(home / "none", PROGRAMS)
        os_user.grant_search(user, home)
        cluster = Cluster(home=home, user=user, nodes=(Node(name="pg1", home=home), Node(name="pg2", home=home)))
        write_files(cluster)
        os.chown(home, user.uid, user.gid)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_etcd(cluster))
            # Registered before the nodes start, so that a failed start leaves no process.
            stack.callback(_kill_all, cluster)
            await _bootstrap(cluster)
            await stack.enter_async_context(_haproxy(cluster))
            await _until_checked(cluster)
            yield cluster


def write_files(cluster: Cluster) -> None:
    """Write the files of the examples for this machine."""
    first, second = cluster.nodes
    for node in cluster.nodes:
        addresses = {
            "name: pg1": f"name: {node.name}",
            "10.0.0.11:5432": f"127.0.0.1:{node.port}",
            "10.0.0.11:8008": f"127.0.0.1:{node.api_port}",
            "10.0.0.10:2379": f"127.0.0.1:{cluster.etcd_port}",
            "10.0.0.0/24": "127.0.0.1/32",
            "/var/lib/postgresql/15/threadkeep": str(node.data),
        }
        text = (EXAMPLES / "patroni.yml").read_text()
        path = cluster.write(f"{node.name}.yml", text, addresses)
        socket_folder = f"  parameters:\n    unix_socket_directories: ''\n  pgpass: {cluster.home}/{node.name}.pgpass\n"
        path.write_text(path.read_text().replace("\npostgresql:\n", f"\npostgresql:\n{socket_folder}"))
    addresses = {
        "10.0.0.10:5432": f"127.0.0.1:{cluster.proxy_port}",
        "10.0.0.11:5432 check port 8008": f"127.0.0.1:{first.port} check port {first.api_port}",
        "10.0.0.12:5432 check port 8008": f"127.0.0.1:{second.port} check port {second.api_port}",
    }
    cluster.write("haproxy.cfg", (EXAMPLES / "haproxy.cfg").read_text(), addresses)


def _etcd(cluster: Cluster) -> Any:
    client, peer = f"http://127.0.0.1:{cluster.etcd_port}", f"http://127.0.0.1:{free_port()}"
    command = [
        *("etcd", f"--data-dir={cluster.home}/etcd", f"--listen-client-urls={client}", "--logger=zap"),
        *(f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        f"--initial-cluster=default={peer}",
    ]
    return program(command, cluster.etcd_port, cluster.home / "etcd.log", stop=signal.SIGKILL, **cluster.options)


def _haproxy(cluster: Cluster) -> Any:
    command = ["/usr/sbin/haproxy", "-db", "-f", str(cluster.home / "haproxy.cfg")]
    return program(command, cluster.proxy_port, cluster.home / "haproxy.log", stop=signal.SIGKILL, **cluster.options)


async def _bootstrap(cluster: Cluster) -> None:
    first, second = cluster.nodes
    await cluster.start(first)
    await first.until("/primary")
    async with await psycopg.AsyncConnection.connect(first.uri(), autocommit=True) as conn:
        # CREATEROLE is needed for the role of row-level security.
        await conn.execute("CREATE ROLE threadkeep LOGIN CREATEROLE PASSWORD 'secret'")
        await conn.execute("CREATE DATABASE threadkeep OWNER threadkeep")
    await cluster.start(second)
    await second.until("/sync")


async def _until_checked(cluster: Cluster) -> None:
    """Wait until HAProxy has checked both nodes. Before that it gives each of them every second connection."""
    primary = 0
    with anyio.fail_after(READY_S):
        # Four in a row: one or two may be luck while half of the connections go to the standby.
        while primary < 4:
            async with await psycopg.AsyncConnection.connect(cluster.through_proxy, autocommit=True) as conn:
                row = await (await conn.execute("SELECT pg_is_in_recovery()")).fetchone()
            primary = primary + 1 if row == (False,) else 0
            await anyio.sleep(0.1)


def _kill_all(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.kill()
