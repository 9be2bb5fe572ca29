"""Serving: from a prepared project to a listening server: graphs, database, uvicorn.

Graphs are imported before the event loop runs, for they may block.
"""

import asyncio
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import anyio
import uvicorn
from langgraph.store.postgres.base import PostgresIndexConfig
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from threadkeep import agent, graphs
from threadkeep.api import loopback
from threadkeep.api.connections import uvicorn_config
from threadkeep.api.console_files import is_served
from threadkeep.app import create_app
from threadkeep.auth import loading
from threadkeep.base import libpq
from threadkeep.base.problems import StartupError
from threadkeep.duties.store_items import store_index_config
from threadkeep.graphs import LoadedGraph
from threadkeep.postgres import embedded, start_errors
from threadkeep.postgres import migrate as migrations
from threadkeep.preparing import Prepared, patient
from threadkeep.project import Project
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Idle connections are kept longer than any client's pool keeps them, so that it is never we who hang up on a request."""
GC_THRESHOLD = 20_000
"""Objects made and not yet freed, after which Python looks for cycles among them; its own threshold is 700."""
LOCAL_SEGMENT_BYTES = 32_000
"""The largest TCP segment. Those of a network are smaller, those of this machine are 64 kB by default: Linux then buffers
4 MB of a request before the server has read a byte of it, in place of 1.6 MB."""
STREAMS_END_S = 5
"""How long connections may take to end when the runs have been drained."""
FORCE_STOP_S = 3.0
"""What a second signal leaves: then the process ends whatever it does."""


class Server(uvicorn.Server):
    """uvicorn, but the runs are drained when the signal comes, for uvicorn first waits for the connections that wait
    for them; and a stop that was asked for is no failure: the exit code is 0."""

    shutdown_delay_s: float = 0
    """How long the listeners stay open after the first signal."""
    greet: Callable[[], None] = staticmethod(lambda: None)
    """Called when it has started."""
    _told_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but a failure does not end the process: the caller tells of it, and closes what is open."""
        try:
            await super().startup(sockets)
        except SystemExit:
            self.should_exit = True
        if self.started:
            self.greet()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, a second one ends the process at once."""
        del sig, frame
        again, self._told_at = self._told_at is not None, self._told_at or time.monotonic()
        app: Any = self.config.app
        if told := getattr(app.state, "hurried" if again else "stopping", None):
            told.set()
        else:
            self.should_exit = True  # it has not started
        if again:
            self.force_exit = self.should_exit = True
            last = threading.Timer(FORCE_STOP_S, os._exit, [1])
            last.daemon = True
            last.start()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but what does not end does not keep the process: a deaf graph stays behind in its loop."""
        loop = (self.config.get_loop_factory() or asyncio.new_event_loop)()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self.serve(sockets=sockets))

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening: some time after the signal, so that load balancers see it coming."""
        if self._told_at is not None and time.monotonic() - self._told_at >= self.shutdown_delay_s:
            self.should_exit = True
        return await super().on_tick(counter)


class Started:
    """The application as uvicorn sees it; why it could not start is kept, and told in a line in place of a trace."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self.state = app.state
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application itself, but for a failure of its start."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "lifespan.startup.complete"
            if started:
                await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if started:
                raise
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": ""})


def serve(prepared: Prepared) -> None:
    """Serve until told to stop; StartupError where something can't be loaded."""
    found, chosen = prepared.project, prepared.settings
    loopback.install()  # before the graphs' modules make clients
    loading.check_start(chosen, found)
    loaded = load_graphs(found, chosen)
    with listening_socket(chosen) as listener, open_database(prepared) as uri:
        anyio.run(_migrate, chosen.database_direct_uri or uri, store_index_config(found))
        app = Started(create_app(chosen, uri, loaded, found))
        server = Server(
            uvicorn_config(
                app,
                chosen,
                forwarded_allow_ips=prepared.trusted_proxies,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(chosen.drain_s) + STREAMS_END_S,
                lifespan="on",
            )
        )
        server.shutdown_delay_s = chosen.shutdown_delay_s
        port, prefix = listener.getsockname()[1], found.http.mount_prefix or ""
        addresses = Addresses(database=uri, port=port, prefix=prefix.rstrip("/"), has_console=is_served(found.http))
        server.greet = lambda: print_startup_message(chosen, sorted(loaded), addresses)
        logging.getLogger("uvicorn.error").addFilter(_tells_more)
        tune_garbage_collector()
        server.run(sockets=[listener])
        if app.failure is not None:
            raise app.failure
        if not server.started:
            raise StartupError("the server could not start; the log says why")
    _leave()


def _tells_more(record: logging.LogRecord) -> bool:
    """Not that the start failed: why is told in a line of its own."""
    return not record.getMessage().startswith("Application startup failed")


def tune_garbage_collector() -> None:
    """Look for cycles less often, and never at what was imported, which stays.

    Each run makes thousands of objects and few cycles: with Python's own thresholds it takes 5 to 8 % longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


def _leave() -> None:
    """End now where a node still runs in a thread, for which Python would wait at its exit. Everything is closed."""
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(0)


def migrate(prepared: Prepared, *, check: bool) -> list[str]:
    """Apply what is missing, or, with `check`, only say what that is."""
    index = store_index_config(prepared.project)
    with open_database(prepared) as uri:
        return anyio.run(_pending if check else _migrate, prepared.settings.database_direct_uri or uri, index)


async def _migrate(uri: str, index: PostgresIndexConfig | None) -> list[str]:
    return await migrations.migrate(patient(uri), index=index)


async def _pending(uri: str, index: PostgresIndexConfig | None) -> list[str]:
    return await migrations.pending(patient(uri), index=index)


def load_graphs(found: Project, chosen: Settings) -> Mapping[str, LoadedGraph]:
    """The project's graphs, or the built-in agent."""
    if not found.builtin:
        return graphs.load_graphs(found)
    built = agent.build(chosen.model, chosen.model_base_url, pause_s=chosen.offline_pause_s)
    description = "The built-in agent: a calculator, a clock, a memory, and a human to ask"
    return {"agent": graphs.as_loaded_graph("agent", built, where="the built-in agent", description=description)}


@contextmanager
def open_database(prepared: Prepared) -> Generator[str]:
    """The operator's Postgres, or the embedded one, running until the block ends.

    What is wrong with it is a StartupError of one line. An answer is waited for `CONNECT_S` seconds at most.
    """
    chosen = prepared.settings
    if chosen.database_uri is not None:
        with start_errors.in_a_line(chosen.database_direct_uri or chosen.database_uri):
            yield chosen.database_uri
        return
    with embedded.embedded_postgres(chosen.data_path, foreign=prepared.foreign) as uri:
        yield libpq.pinned(uri, prepared.foreign)


@contextmanager
def listening_socket(chosen: Settings) -> Generator[socket.socket]:
    """The bound socket, before anything slow is done; StartupError where the port is taken."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it: who reads nothing is cut, with what is unsent
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(chosen.write_timeout_s * 1000))
        if hasattr(socket, "TCP_MAXSEG"):  # connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, LOCAL_SEGMENT_BYTES)
        try:
            listener.bind((chosen.host, chosen.port))
        except OSError as error:
            reason = error.strerror or "it can't be bound"
            raise StartupError(f"{chosen.host}:{chosen.port}: {reason}; choose another with --port") from None
        yield listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a server that has started is found."""

    database: str
    port: int
    prefix: str
    has_console: bool


def print_startup_message(chosen: Settings, names: list[str], addresses: Addresses) -> None:
    """How to talk to the server, for whoever started it."""
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    url = f"http://{host}:{addresses.port}{addresses.prefix}"
    example = """-H 'content-type: application/json' -d '{"query": "My name is Ada."}'"""
    print(f"\nThreadkeep serves {', '.join(names)} on {url}\n", flush=True)  # noqa: T201 - for the person who started it
    if addresses.has_console:
        print(f"  console   {url}/console")  # noqa: T201
    print(f"  ask       curl -s {url}/query {example}")  # noqa: T201
    print(f'  python    langgraph_sdk.get_client(url="{url}")')  # noqa: T201
    if chosen.database_uri is None:
        print(f"  postgres  psql '{addresses.database}'   (data in {chosen.data_path})")  # noqa: T201
    print(flush=True)  # noqa: T201
