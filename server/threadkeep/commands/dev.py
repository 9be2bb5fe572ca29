"""Development: serves a project, and again whenever one of its files changes.

A parent process has imported the libraries, holds the listening socket and the embedded Postgres, has migrated the
database, and never imports the project. Each change forks a new server, which imports the project in a fresh process. When
it is ready, the old one is told to stop, and closes its idle connections at once. Its runs end there, or return to the
queue and go on from their last checkpoint in the new one. If the new server cannot start, its error is shown in full, and
the old one goes on.
"""

import contextlib
import os
import signal
import socket
import time
import webbrowser
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from threadkeep import project, serving
from threadkeep.base.problems import StartupError
from threadkeep.child_process import Child, ParentLink, fork
from threadkeep.preparing import Prepared, prepare

LOOK_S: Final = 0.1
"""Seconds between two looks at the files."""
DEBUGGER_LEAVES_S: Final = 30.0
"""Seconds that a debugger may take to leave a server that has ended."""
NOT_WATCHED: Final = frozenset({"__pycache__", "node_modules", "venv", "site-packages", "build", "dist"})
"""Folders without files of the project. Hidden folders are not watched either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    """The options of `threadkeep dev`."""

    config: Path | None
    overrides: Mapping[str, Any]
    """Settings from the command line."""
    debug_port: int | None = None
    wait_for_client: bool = False
    """Start only after a debugger is connected."""
    open_page: bool = False
    """Open the console in a browser after the first start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The socket and the migrated database that all servers use."""

    listener: socket.socket
    uri: str
    prepared: Prepared
    """The project and the settings for which the database was opened."""

    def fits(self, prepared: Prepared) -> bool:
        """Whether a changed project or file of variables still uses this database."""
        return _database_of(prepared) == _database_of(self.prepared)


def _database_of(prepared: Prepared) -> tuple[object, ...]:
    chosen = prepared.settings
    index = prepared.project.store.index if prepared.project.store else None
    return chosen.database_uri, chosen.database_direct_uri, chosen.data_path, prepared.foreign, index


@dataclass(slots=True)
class _Reloader:
    """The parent process."""

    options: DevOptions
    place: _Place
    current: Child | None = None
    stopping: list[Child] = field(default_factory=list[Child])
    is_first: bool = True

    def replace_server(self) -> None:
        """Start a server, and stop the one before it when the new one is ready. Debuggers need their port, so it stops first."""
        if self.options.debug_port is not None and self.current is not None:
            self.current.stop()
            self.current.has_ended(wait=True)
            self.current = None
            _tell("reloading: disconnect the debugger, and connect it again", fg="green")
        child, is_ready = self._fork()
        if not is_ready:
            child.has_ended(wait=True)
            _tell("not started" if self.current is None else "the server before this change goes on", fg="yellow")
            return
        if self.current is not None:
            self.current.stop()
            # It is not waited for, because its runs may go on for the grace period.
            self.stopping.append(self.current)
            _tell("reloaded", fg="green")
        self.current, self.is_first = child, False

    def reap(self) -> None:
        """Note which servers have ended."""
        self.stopping = [child for child in self.stopping if not child.has_ended()]
        if self.current is not None and self.current.has_ended():
            _tell("the server has ended; it starts again after a change", fg="red")
            self.current = None

    def stop_all(self) -> None:
        """Stop all servers and wait for them. A second Ctrl-C ends them at once, and a third one kills them."""
        children = [*self.stopping, *([self.current] if self.current else [])]
        for child in children:
            child.stop()
        try:
            self._wait(children)
        except KeyboardInterrupt:
            for child in children:
                child.link.send(do="hurry")
            self._wait(children)
        finally:
            for child in children:
                child.kill()

    def _wait(self, children: list[Child]) -> None:
        for child in children:
            while (messages := child.link.receive()) is not None:
                for message in messages:
                    if "runs" in message:
                        serving.tell_of_stop(message["runs"], self.place.prepared.settings.drain_s, signal.SIGINT)
            child.has_ended(wait=True)

    def _fork(self) -> tuple[Child, bool]:
        """Start a server. Returns it, and whether it became ready."""
        others = [*self.stopping, *([self.current] if self.current else [])]
        child = fork(partial(_serve, self.options, self.place, greets=self.is_first), others)
        while (messages := child.link.receive()) is not None:
            for message in messages:
                match message:
                    case {"ready": True}:
                        return child, True
                    case {"refused": reason, "cause": cause}:
                        click.echo(cause, err=True, nl=False)
                        _tell(reason, fg="red")
                    case _:
                        pass
        return child, False


def develop(options: DevOptions) -> None:
    """Serve a project until a signal, and restart it after each change. Raise StartupError if it can't start."""
    if not hasattr(os, "fork"):
        raise StartupError("threadkeep dev needs fork, which this system does not have: use threadkeep serve")
    prepared = _prepared(options)
    stamps = _stamps(prepared)
    # The socket first, so that a port in use is refused before the database is started.
    with serving.listening_socket(prepared.settings) as listener, serving.open_database(prepared) as uri:
        serving.migrate_at(prepared, uri)
        serving.warm_up(prepared)
        # Port 0 would name another port in each server. No load balancer has to notice a stop, so nothing is delayed.
        overrides = {**options.overrides, "port": listener.getsockname()[1], "shutdown_delay_s": 0}
        place = _Place(listener=listener, uri=uri, prepared=prepared)
        reloader = _Reloader(replace(options, overrides=overrides), place)
        with _signals_as_exceptions(), contextlib.suppress(KeyboardInterrupt):
            try:
                reloader.replace_server()
                while True:
                    time.sleep(LOOK_S)  # noqa: TID251 - there is no event loop in this process
                    reloader.reap()
                    if (latest := _stamps(prepared)) != stamps:
                        stamps = latest
                        reloader.replace_server()
            finally:
                reloader.stop_all()


def _prepared(options: DevOptions) -> Prepared:
    """The project and the settings. The project's variables are not left in the environment, because they may change."""
    with project.environment_restored():
        return prepare(options.config, options.overrides)


def _serve(options: DevOptions, place: _Place, parent: ParentLink, *, greets: bool) -> None:
    """Serve in a forked process."""
    parent.has_siblings = False  # this parent does not sum metrics
    # Before the project is imported, so that breakpoints at its top are reached.
    _listen_for_debugger(options)
    prepared = prepare(options.config, options.overrides)

    def ready(greet: serving.Greeting, url: str) -> None:
        parent.link.send(ready=True)
        if greets:
            greet()
            if options.open_page:
                webbrowser.open(f"{url}/console")

    loaded = serving.load(prepared)
    if place.fits(prepared):
        serving.serve_at(prepared, loaded, place.listener, place.uri, ready, parent)
        return
    with serving.open_database(prepared) as uri:
        serving.migrate_at(prepared, uri)
        serving.serve_at(prepared, loaded, place.listener, uri, ready, parent)


def _listen_for_debugger(options: DevOptions) -> None:
    if options.debug_port is None:
        return
    try:
        import debugpy  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise StartupError("--debug-port needs debugpy: pip install 'threadkeep[debug]'") from None
    module: Any = debugpy
    _wait_for_port(options.debug_port)
    module.listen(("127.0.0.1", options.debug_port))
    if options.wait_for_client:
        _tell(f"waiting for a debugger on port {options.debug_port}", fg="yellow")
        module.wait_for_client()


def _wait_for_port(port: int) -> None:
    """Wait until the debugger has left the server before, because its adapter keeps the port as long as it is connected.

    Raise StartupError if the port stays in use.
    """
    deadline = time.monotonic() + DEBUGGER_LEAVES_S
    while True:
        with socket.socket() as probe:
            # Closed connections of the adapter keep the port in TIME_WAIT, which does not prevent a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StartupError(f"--debug-port {port}: {error.strerror}: choose another port") from None
            else:
                return
        time.sleep(LOOK_S)  # noqa: TID251 - there is no event loop yet


def _stamps(prepared: Prepared) -> dict[str, int]:
    """The time of the last change of each file that is watched."""
    stamps: dict[str, int] = {}
    for path in _watched(prepared):
        with contextlib.suppress(OSError):  # it was deleted meanwhile
            stamps[str(path)] = path.stat().st_mtime_ns
    return stamps


def _watched(prepared: Prepared) -> Iterator[Path]:
    """The Python files of the project, its langgraph.json and its file of variables."""
    root = prepared.project.root
    for folder, folders, files in os.walk(root):
        # In place: os.walk enters only the folders that are left in its own list.
        folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_WATCHED]
        for name in files:
            if name.endswith(".py") or name == "langgraph.json" or name.startswith(".env"):
                yield Path(folder, name)


@contextlib.contextmanager
def _signals_as_exceptions() -> Generator[None]:
    """Make SIGTERM end the block, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(text: str, *, fg: str) -> None:
    click.secho(f"threadkeep: {text}", fg=fg, err=True)
