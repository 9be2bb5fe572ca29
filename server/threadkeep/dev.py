"""Development: serves a project, and again whenever one of its files changes.

A parent process has imported the libraries, holds the listening socket, and never imports the project. Each change forks a
new server, which imports the project in a fresh process. When it is ready, the old server gets a signal to stop. Its
runs end there, or return to the queue and continue from their last checkpoint in the new server. If the new server cannot start,
its error is shown in full, and the old server continues.
"""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
import webbrowser
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click

from threadkeep import project, serving
from threadkeep.base.problems import StartupError
from threadkeep.preparing import Prepared, prepare

LOOK_S: Final = 0.2
"""Seconds between two looks at the files."""
NOT_WATCHED: Final = frozenset({"__pycache__", "node_modules", "venv", "site-packages", "build", "dist"})
"""Folders without files of the project. Hidden folders are not watched either."""
READY: Final = b"+"


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


@dataclass(slots=True)
class _Child:
    """A server in a forked process."""

    pid: int
    status: int | None = None
    """Its exit status from `os.waitpid`. None: it runs."""

    def has_ended(self, *, wait: bool = False) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def stop(self) -> None:
        """Send SIGTERM (graceful shutdown). Its streams end, and its runs get time to end."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGTERM)


@dataclass(slots=True)
class _Reloader:
    """The parent process."""

    options: DevOptions
    listener: socket.socket
    current: _Child | None = None
    stopping: list[_Child] = field(default_factory=list[_Child])
    is_first: bool = True

    def replace_server(self) -> None:
        """Start a server, and stop the one before it when the new one is ready. Debuggers need their port, so it stops first."""
        if self.options.debug_port is not None and self.current is not None:
            self.current.stop()
            self.current.has_ended(wait=True)
        child, is_ready = self._fork()
        if not is_ready:
            child.has_ended(wait=True)
            _tell("not started" if self.current is None else "the server before this change goes on", fg="yellow")
            return
        if self.current is not None:
            self.current.stop()
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
        """Stop all servers and wait for them."""
        children = [*self.stopping, *([self.current] if self.current else [])]
        for child in children:
            child.stop()
        for child in children:
            child.has_ended(wait=True)

    def _fork(self) -> tuple[_Child, bool]:
        """Start a server. Returns it, and whether it became ready."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _serve_and_exit(self.options, self.listener, writing, greets=self.is_first)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            return _Child(pid), pipe.read(1) == READY  # the pipe is closed if the child ends


def develop(options: DevOptions) -> None:
    """Serve a project until a signal, and restart it after each change. Raise StartupError if it can't start."""
    if not hasattr(os, "fork"):
        raise StartupError("threadkeep dev needs fork, which this system does not have: use threadkeep serve")
    prepared = _prepared(options)
    stamps = _stamps(prepared)
    with serving.listening_socket(prepared.settings) as listener:
        overrides = {**options.overrides, "port": listener.getsockname()[1]}
        reloader = _Reloader(replace(options, overrides=overrides), listener)
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


def _serve_and_exit(options: DevOptions, listener: socket.socket, pipe: int, *, greets: bool) -> None:
    """Serve in a forked process, and end the process."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _listen_for_debugger(options)
        serving.serve(prepare(options.config, options.overrides), listener, _on_ready(options, pipe, greets=greets))
        code = 0
    except StartupError as refused:
        if refused.__cause__ is not None:
            traceback.print_exception(refused.__cause__)
        _tell(str(refused), fg="red")
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _on_ready(options: DevOptions, pipe: int, *, greets: bool) -> Callable[[Callable[[], None], str], None]:
    """Called when the server is ready, with its greeting and its URL."""

    def ready(greet: Callable[[], None], url: str) -> None:
        os.write(pipe, READY)
        os.close(pipe)
        if greets:
            greet()
            if options.open_page:
                webbrowser.open(f"{url}/console")

    return ready


def _listen_for_debugger(options: DevOptions) -> None:
    if options.debug_port is None:
        return
    try:
        import debugpy  # noqa: PLC0415  # pyright: ignore[reportMissingImports] - an extra
    except ImportError:
        raise StartupError("--debug-port needs debugpy: pip install 'threadkeep[debug]'") from None
    module: Any = debugpy
    module.listen(("127.0.0.1", options.debug_port))
    if options.wait_for_client:
        _tell(f"waiting for a debugger on port {options.debug_port}", fg="yellow")
        module.wait_for_client()


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
