"""Serving: starts a prepared project as a listening server, with graphs, database and uvicorn.

Graphs are imported before the event loop runs, because imports may block.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import anyio
import click
import uvicorn
from langgraph.store.postgres.base import PostgresIndexConfig
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from threadkeep import agent, app, graphs
from threadkeep.api import loopback, mount
from threadkeep.api.connections import uvicorn_config
from threadkeep.api.console_files import is_served
from threadkeep.auth import loading
from threadkeep.base import libpq
from threadkeep.base.problems import StartupError
from threadkeep.child_process import ParentLink
from threadkeep.duties.store_items import store_index_config
from threadkeep.graphs import LoadedGraph
from threadkeep.postgres import embedded, start_errors
from threadkeep.postgres import migrate as migrations
from threadkeep.preparing import Prepared, patient
from threadkeep.progress import Step, progress
from threadkeep.project import Project
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Seconds for idle connections. It is longer than in the pools of clients, so that the server never closes one in use."""
GC_THRESHOLD = 20_000
"""Number of new objects after which Python looks for cycles. Its default is 700."""
LOCAL_SEGMENT_BYTES = 32_000
"""The largest TCP segment. Networks have smaller ones, but the loopback default is 64 kB. With it, Linux buffers 4 MB of
a request before the server reads it, instead of 1.6 MB."""
STREAMS_END_S = 5
"""Seconds that connections may take to end after the runs were drained."""
FORCE_STOP_S = 3.0
"""Seconds after a second signal until the process is ended by force."""


class Server(uvicorn.Server):
    """uvicorn with a drain of the runs at the first signal.

    uvicorn alone would first wait for the connections, which wait for their runs. A requested stop has exit code 0.
    """

    shutdown_delay_s: float = 0
    """Seconds for which the listeners stay open after the first signal."""
    greet: Callable[[], None] = staticmethod(lambda: None)
    """Called after the start."""
    tell_runs: Callable[[int, int], None] | None = None
    """Called after the first signal, with the number of runs in progress and the signal."""
    is_hurried: Callable[[], bool] | None = None
    """Whether a further signal ends the process at once. None: the second one does."""
    end_by_force: Callable[[], None] = staticmethod(partial(os._exit, 1))
    """Ends the process although its event loop is blocked."""
    _signal: int = 0
    _signalled_at: float | None = None
    _has_told_runs: bool = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start like uvicorn, but do not end the process on a failure. The caller reports it and closes all resources."""
        try:
            await super().startup(sockets)
        # uvicorn exits here. But the embedded Postgres has to be stopped, and the reason has to be shown.
        except SystemExit:
            self.should_exit = True
        if self.started:
            self.greet()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at the first signal. End the process at once at the second one."""
        del frame
        # Only flags and events are set: a signal handler may interrupt any line of the loop.
        is_second, self._signalled_at = self._signalled_at is not None, self._signalled_at or time.monotonic()
        self._signal = self._signal or sig
        if self.is_hurried is not None:
            is_second = is_second and self.is_hurried()
        app: Any = self.config.app
        if event := getattr(app.state, "hurried" if is_second else "stopping", None):
            event.set()
        else:
            self.should_exit = True  # it has not started
        if is_second:
            self.force_exit = self.should_exit = True
            # A node that blocks the event loop would hold the process forever.
            last = threading.Timer(FORCE_STOP_S, self.end_by_force)
            last.daemon = True
            last.start()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run like uvicorn, but do not wait for remaining tasks. A graph that ignores its cancellation stays in its loop."""
        loop = (self.config.get_loop_factory() or asyncio.new_event_loop)()
        asyncio.set_event_loop(loop)
        with _known_to_sniffio():
            # Not `asyncio.run`, which waits for every task that is left.
            loop.run_until_complete(self.serve(sockets=sockets))

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop listening. It is delayed after the signal, so that load balancers notice the stop first."""
        if self._signalled_at is not None and not self._has_told_runs and self.tell_runs is not None:
            # In a tick and not in the signal handler, because it writes to the log.
            self._has_told_runs = True
            app: Any = self.config.app
            self.tell_runs(len(getattr(app.state, "executions", ())), self._signal)
        if self._signalled_at is not None and time.monotonic() - self._signalled_at >= self.shutdown_delay_s:
            self.should_exit = True
        return await super().on_tick(counter)


@contextmanager
def _known_to_sniffio() -> Generator[None]:
    """Name the library of this thread while the block runs.

    anyio asks sniffio for it in each new scope and event. Otherwise sniffio would look for a task of asyncio each time.
    """
    # anyio has imported it if it is installed, and works without it.
    sniffio = sys.modules.get("sniffio")
    if sniffio is None:
        yield
        return
    sniffio.thread_local.name = "asyncio"
    try:
        yield
    finally:
        sniffio.thread_local.name = None


class Started:
    """The application for uvicorn. It keeps the exception of a failed start, which is shown in one line."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self.state = app.state
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application. If its start fails, keep the exception and tell uvicorn that the start failed."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            # Starlette sends the traceback with a failure, and uvicorn would log it. It is dropped here.
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


Greeting = Callable[[], None]
OnReady = Callable[[Greeting, str], None]
"""Called when a server is ready, with its greeting and its URL."""


def serve(prepared: Prepared) -> None:
    """Serve until a signal. Raise StartupError if something cannot be loaded."""
    loaded = load(prepared)
    with listening_socket(prepared.settings) as bound, open_database(prepared) as uri:
        # After the port is bound: a second server on the same port must not migrate.
        migrate_at(prepared, uri)
        serve_at(prepared, loaded, bound, uri)
    _leave()


def load(prepared: Prepared) -> Mapping[str, LoadedGraph]:
    """Load the project's graphs. Raise StartupError if one cannot be loaded, or if nobody would be asked who they are."""
    loopback.install()  # before the graphs' modules create clients
    loading.check_start(prepared.settings, prepared.project)
    loaded = load_graphs(prepared.project, prepared.settings)
    check_targets(prepared)
    return loaded


def check_targets(prepared: Prepared) -> None:
    """Check what langgraph.json names besides graphs. Raise StartupError before a database is started for nothing."""
    http = prepared.project.http
    mount.mount_prefix(http)
    mount.cors_policy(http, prepared.settings.host)
    loading.load_auth(prepared.settings, prepared.project)
    mount.load_custom_app(prepared.project)
    store_index_config(prepared.project)


def migrate_at(prepared: Prepared, uri: str) -> list[str]:
    """Bring the tables of the database at `uri` up to date, and return the names of the applied files."""
    index = store_index_config(prepared.project)
    return anyio.run(_migrate, prepared.settings.database_direct_uri or uri, index)


def serve_at(
    prepared: Prepared,
    loaded: Mapping[str, LoadedGraph],
    bound: socket.socket,
    uri: str,
    on_ready: OnReady | None = None,
    parent: ParentLink | None = None,
) -> None:
    """Serve the graphs on a bound socket and a migrated database until a signal. Raise StartupError as `serve` does.

    `parent` is set in a process that has a supervisor.
    """
    project, chosen = prepared.project, prepared.settings
    siblings = parent if parent is not None and parent.has_siblings else None
    started = Started(app.create_app(chosen, uri, loaded, project, siblings=siblings))
    server = _server(started, prepared, parent)
    port, prefix = bound.getsockname()[1], project.http.mount_prefix or ""
    addresses = Addresses(database=uri, port=port, prefix=prefix.rstrip("/"), has_console=is_served(project.http))
    greet = partial(print_startup_message, chosen, sorted(loaded), addresses)
    server.greet = greet if on_ready is None else partial(on_ready, greet, addresses.url(chosen))
    logging.getLogger("uvicorn.error").addFilter(_is_not_start_failure)
    tune_garbage_collector()
    server.run(sockets=[bound])
    if started.failure is not None:
        raise started.failure
    if not server.started:
        raise StartupError("the server could not start: read the log for the reason")


def _server(started: "Started", prepared: Prepared, parent: ParentLink | None) -> Server:
    chosen = prepared.settings
    server = Server(
        uvicorn_config(
            started,
            chosen,
            forwarded_allow_ips=prepared.trusted_proxies,
            timeout_keep_alive=KEEP_ALIVE_S,
            # Longer than the drain, because a stream ends after its run.
            timeout_graceful_shutdown=int(chosen.drain_s) + STREAMS_END_S,
            lifespan="on",
        )
    )
    server.shutdown_delay_s = chosen.shutdown_delay_s
    if parent is None:
        if chosen.database_uri is None:
            server.end_by_force = partial(embedded.exec_stop, chosen.data_path, prepared.foreign)
        server.tell_runs = lambda runs, received: tell_of_stop(runs, chosen.drain_s, received)
        return server
    # A service manager may send its signal to all processes, beside what the supervisor passes on.
    server.is_hurried = lambda: parent.is_hurried
    # The supervisor sums the runs of all processes, and prints one line.
    server.tell_runs = lambda runs, _: parent.tell_runs(runs)
    return server


def tell_of_stop(runs: int, drain_s: float, received: int) -> None:
    """Tell how many runs are in progress, and how long the server waits for them."""
    if not runs:
        return
    if not sys.stderr.isatty():
        log.info("waiting for runs", extra={"runs": runs, "at_most_s": drain_s})
        return
    again = "Press Ctrl-C again" if received == signal.SIGINT else "Send the signal again"
    which = "1 run. {} to stop now: it continues from its last checkpoint."
    if runs > 1:
        which = f"{runs} runs. {{}} to stop now: they continue from their last checkpoint."
    click.echo(f"Waiting up to {drain_s:g} s for {which.format(again)}", err=True)


def warm_up(prepared: Prepared) -> None:
    """Prepare this process for forks of servers: they start faster, and share more memory."""
    app.warm_up(prepared.settings, prepared.project)
    gc.collect()
    gc.freeze()  # so that the collector of a child touches, and copies, none of this memory


def _is_not_start_failure(record: logging.LogRecord) -> bool:
    """Drop uvicorn's line about a failed start, because the reason is shown separately."""
    return not record.getMessage().startswith("Application startup failed")


def tune_garbage_collector() -> None:
    """Make the garbage collector run less often, and ignore all imported objects, which stay.

    Each run makes thousands of objects and few cycles. With Python's default thresholds it takes 5 to 8 % longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


def _leave() -> None:
    """End the process if a node still runs in a thread, for which Python would wait. All resources are closed already."""
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(0)


def pending(prepared: Prepared) -> list[str]:
    """Return the names of the pending migrations."""
    with open_database(prepared) as uri:
        return anyio.run(_pending, prepared.settings.database_direct_uri or uri, store_index_config(prepared.project))


def migrate(prepared: Prepared) -> dict[str, float]:
    """Apply the pending migrations. Return the seconds that each took, by name."""
    index = store_index_config(prepared.project)
    with open_database(prepared) as uri, progress("Migrate", unit="files") as step:
        names = anyio.run(_migrate, prepared.settings.database_direct_uri or uri, index, step)
    return {name: step.seconds.get(name, 0.0) for name in names}


async def _migrate(uri: str, index: PostgresIndexConfig | None, step: Step | None = None) -> list[str]:
    return await migrations.migrate(patient(uri), index=index, step=step)


async def _pending(uri: str, index: PostgresIndexConfig | None) -> list[str]:
    return await migrations.pending(patient(uri), index=index)


def load_graphs(project: Project, chosen: Settings) -> Mapping[str, LoadedGraph]:
    """Load the project's graphs, or the built-in agent."""
    if not project.builtin:
        return graphs.load_graphs(project)
    built = agent.build(chosen.model, chosen.model_base_url, pause_s=chosen.offline_pause_s)
    description = "The built-in agent: a calculator, a clock, a memory, and a human to ask"
    return {"agent": graphs.as_loaded_graph("agent", built, where="the built-in agent", description=description)}


@contextmanager
def open_database(prepared: Prepared) -> Generator[str]:
    """Yield the URI of the operator's Postgres, or of the embedded one, which runs until the block ends.

    Raise StartupError with a text of one line if it does not work. It may take at most `CONNECT_S` seconds to answer.
    """
    chosen = prepared.settings
    if chosen.database_uri is not None:
        with start_errors.in_a_line(chosen.database_direct_uri or chosen.database_uri):
            yield chosen.database_uri
        return
    with embedded.embedded_postgres(chosen.data_path, foreign=prepared.foreign) as uri, start_errors.in_a_line(uri):
        yield libpq.pinned(uri, prepared.foreign)


@contextmanager
def listening_socket(chosen: Settings) -> Generator[socket.socket]:
    """Yield the bound socket. It is bound before slow steps. Raise StartupError if the port is taken."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Otherwise a restart fails while old connections are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it: one whose client reads nothing is closed
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(chosen.write_timeout_s * 1000))
        if hasattr(socket, "TCP_MAXSEG"):  # connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, LOCAL_SEGMENT_BYTES)
        try:
            listener.bind((chosen.host, chosen.port))
        except OSError as error:
            reason = error.strerror or "the address can't be bound"
            address = f"{chosen.host}:{chosen.port}: {reason}"
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                raise StartupError(f"{address}: choose another port with --port") from None
            raise StartupError(f"{address}: choose an address of this machine with --host") from None
        yield listener


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The addresses of a started server."""

    database: str
    port: int
    prefix: str
    has_console: bool

    def url(self, chosen: Settings) -> str:
        """The server's URL, without a slash at its end."""
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        return f"http://{host}:{self.port}{self.prefix}"


def print_startup_message(chosen: Settings, names: list[str], addresses: Addresses) -> None:
    """Print how to call the server."""
    url = addresses.url(chosen)
    if chosen.role == "worker":
        print(f"\nThreadkeep runs {', '.join(names)}, and its health is on {url}/readyz\n", flush=True)  # noqa: T201
        return
    example = """-H 'content-type: application/json' -d '{"query": "My name is Ada."}'"""
    processes = f" with {chosen.workers} processes" if chosen.workers > 1 else ""
    print(f"\nThreadkeep serves {', '.join(names)} on {url}{processes}\n", flush=True)  # noqa: T201 - at the terminal
    if chosen.role == "api":
        print("  role      api: processes of the role worker or all run the graphs")  # noqa: T201
    if addresses.has_console:
        print(f"  console   {url}/console")  # noqa: T201
    print(f"  ask       curl -s {url}/query {example}")  # noqa: T201
    print(f'  python    langgraph_sdk.get_client(url="{url}")')  # noqa: T201
    if chosen.database_uri is None:
        print(f"  postgres  psql '{addresses.database}'   (data in {chosen.data_path})")  # noqa: T201
    print(flush=True)  # noqa: T201
