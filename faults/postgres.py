"""Postgres: a scenario's own one, to be stopped, crashed and started again, and a TCP proxy in front of it."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import psycopg
from anyio.abc import ByteStream, SocketStream

from threadkeep.postgres import embedded, migrate
from threadkeep.postgres.embedded import Cluster

DATABASE = "postgres"


@dataclass(slots=True)
class Postgres:
    """An embedded Postgres without the comfort of being kept alive."""

    cluster: Cluster
    uri: str
    admin_uri: str
    """Of a database that no server uses."""
    socket_folder: Path

    async def stop(self, mode: Literal["fast", "immediate"]) -> None:
        """`fast` cuts every connection. `immediate` is a crash with a recovery."""
        await anyio.to_thread.run_sync(self._stop, mode)

    def _stop(self, mode: str) -> None:
        stopped = self.cluster.run("pg_ctl", "stop", f"--pgdata={self.cluster.data}", f"--mode={mode}", "--wait")
        assert stopped.returncode == 0, stopped.stdout

    async def start(self) -> None:
        """Start it on the data that it left, and wait until it takes connections."""
        await anyio.to_thread.run_sync(embedded.ensure_running, self.cluster)

    async def execute(self, *statements: str) -> list[Any]:
        """Execute statements as the superuser, each in its own transaction. Return the rows of the last."""
        rows: list[Any] = []
        async with await psycopg.AsyncConnection.connect(self.admin_uri, autocommit=True) as conn:
            for statement in statements:
                cursor = await conn.execute(statement.encode())
                rows = await cursor.fetchall() if cursor.description else []
        return rows


@asynccontextmanager
async def own_postgres(folder: Path) -> AsyncGenerator[Postgres]:
    """Yield a running, migrated Postgres. It is stopped at the end, even with connections."""
    with tempfile.TemporaryDirectory(dir=folder) as data:
        postgres = await anyio.to_thread.run_sync(_make, Path(data))
        try:
            yield postgres
        finally:
            with anyio.CancelScope(shield=True), suppress(AssertionError):  # it may be stopped already
                await postgres.stop("immediate")


def _make(data: Path) -> Postgres:
    # Without fsync. A crash of Postgres alone loses nothing, because the operating system keeps what was written.
    cluster = embedded.find_cluster(data, durable=False)
    with embedded.locked(cluster) as lock:
        embedded.ensure_data(cluster, lock)
        embedded.ensure_running(cluster)
        embedded.ensure_database(cluster)
    anyio.run(migrate.migrate, cluster.uri())
    return Postgres(cluster, cluster.uri(), cluster.uri("postgres"), cluster.socket_folder)


@dataclass(slots=True)
class Unix(ByteStream):
    """A connection to a socket file. anyio's own sets a future twice when it is cancelled while something comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if piece := await self._read(max_bytes):
            return piece
        raise anyio.EndOfStream

    async def _read(self, max_bytes: int) -> bytes:
        try:
            return await self.reader.read(max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send(self, item: bytes) -> None:
        try:
            self.writer.write(item)
            await self.writer.drain()
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        self.writer.write_eof()

    async def aclose(self) -> None:
        self.writer.close()


@dataclass(slots=True)
class Proxy:
    """A network between the server and Postgres. Bytes may be delayed, or never arrive."""

    port: int
    target: str
    delay_s: float = 0.0
    """Seconds before each piece of Postgres's answers."""
    swallows: bool = False
    """A black hole: connections stay open, new ones are taken, and nothing arrives."""
    _wakes: anyio.Event = field(default_factory=anyio.Event)

    def close_hole(self) -> None:
        """Let everything pass from now on. Swallowed bytes and their connections are lost."""
        self.swallows = False
        self._wakes.set()
        # An event can't be cleared. Connections of a later hole wait for this new one.
        self._wakes = anyio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled."""
        async with await anyio.abc.SocketListener.from_socket(listener) as listening:
            await listening.serve(self._pass)

    async def _pass(self, client: SocketStream) -> None:
        async with client:
            if self.swallows:
                await self._wakes.wait()
                return
            try:
                server = Unix(*await asyncio.open_unix_connection(self.target))
            except OSError:  # Postgres is stopped
                return
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(self._pump, client, server, False, tasks.cancel_scope)
                tasks.start_soon(self._pump, server, client, True, tasks.cancel_scope)

    async def _pump(self, source: ByteStream, sink: ByteStream, slow: bool, both: anyio.CancelScope) -> None:
        try:
            while True:
                piece = await source.receive()
                if self.swallows:
                    await self._wakes.wait()
                    break
                if slow and self.delay_s:
                    await anyio.sleep(self.delay_s)
                await sink.send(piece)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        # The end of one direction ends the other, as a closed connection does.
        both.cancel()


@asynccontextmanager
async def proxied(uri: str) -> AsyncGenerator[tuple[Proxy, str]]:
    """A proxy before the Postgres at `uri`, and the URI through it."""
    parts = psycopg.conninfo.conninfo_to_dict(uri)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        listener.setblocking(False)
        proxy = Proxy(listener.getsockname()[1], f"{parts['host']}/.s.PGSQL.5432")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.serve, listener)
            address = f"127.0.0.1:{proxy.port}/{parts['dbname']}"
            # Postgres offers no TLS on a socket file, so a request for it would only cost a round trip.
            yield proxy, f"postgresql://{parts['user']}@{address}?sslmode=disable&gssencmode=disable"
            tasks.cancel_scope.cancel()
