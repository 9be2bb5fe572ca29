"""Child processes of a server: forks one, tells it to stop, and exchanges messages with it.

A child is forked from a parent that has imported the libraries but never the project. So it starts fast, shares memory with
its siblings, and imports the project itself. Both ends send JSON lines over a socket pair. A child that sees its end of
file stops, because its parent has died.

A child has a process group of its own, so that Ctrl-C reaches the parent only. Otherwise a child would get a second
signal from the parent, which ends it at once.
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from threadkeep.base.metric_sums import Values, as_json, from_json
from threadkeep.base.problems import ServiceUnavailable, StartupError

log = logging.getLogger(__name__)

SEND_S: Final = 1.0
"""Seconds that a message of the parent may take to be sent. A child that does not read must not hold up the others."""
SUMS_S: Final = 3.0
"""Seconds that the parent may take to sum the metrics of all children."""
READ_BYTES: Final = 1024 * 1024
Message: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Link:
    """One end of the connection between a parent and a child."""

    socket: socket.socket
    _unread: bytes = b""
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, **message: Any) -> bool:
        """Send a message. False if the other process has ended or does not read."""
        line = json.dumps(message).encode() + b"\n"
        # The event loop, a scrape and the reader thread send. Two messages must not mix within a line.
        with self._sending:
            try:
                self.socket.sendall(line)
            except OSError:
                return False
        return True

    def receive(self) -> Iterator[Message] | None:
        """Return the messages that have arrived. None if the other process has closed its end."""
        try:
            received = self.socket.recv(READ_BYTES)
        # Only the parent's end has a timeout, for `sendall`. Nothing to read within it is no failure.
        except TimeoutError:
            return iter(())
        except OSError:
            return None
        if not received:
            return None
        # A read ends anywhere. The last part is the beginning of a line, or empty.
        *lines, self._unread = (self._unread + received).split(b"\n")
        return map(json.loads, lines)


@dataclass(slots=True)
class Child:
    """A forked process, as its parent sees it."""

    pid: int
    link: Link
    status: int | None = None
    """The status of its end, as `os.waitpid` tells it. None: it runs."""

    def has_ended(self, *, wait: bool = False) -> bool:
        """Whether the process has ended. `wait`: wait for its end."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    @property
    def exit_code(self) -> int:
        """The exit code, or the negative number of the signal that ended the process."""
        return os.waitstatus_to_exitcode(self.status or 0)

    def stop(self) -> None:
        """Ask it to stop. Its streams are told, and its runs get time to end."""
        self.link.send(do="stop")

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)


def fork(serve: Callable[["ParentLink"], None], others: Iterable[Child]) -> Child:
    """Start a child that calls `serve` and ends. `others` are its siblings, whose sockets it must not keep open."""
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is buffered by now, or parent and child would both print it.
    pid = os.fork()
    if pid == 0:
        # A copy that stays open would hide the parent's death: the child would never read an end of file.
        ours.close()
        for sibling in others:
            sibling.link.socket.close()
        _serve_and_exit(serve, ParentLink(Link(theirs)))
    theirs.close()
    # After the fork: the child's end has no timeout, because its thread waits for messages forever.
    ours.settimeout(SEND_S)
    return Child(pid, Link(ours))


def _serve_and_exit(serve: Callable[["ParentLink"], None], parent: "ParentLink") -> None:
    """Serve in a forked process, and end the process."""
    code = 1
    try:
        # The parent's handlers and its wake-up socket were inherited. A signal here would wake the parent.
        signal.set_wakeup_fd(-1)
        for received in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(received, signal.SIG_DFL)
        os.setpgid(0, 0)
        parent.listen()
        serve(parent)
        code = 0
    except StartupError as refused:
        if not parent.link.send(refused=str(refused), cause=_traceback(refused.__cause__)):
            traceback.print_exc()
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        _end(code)


def _traceback(cause: BaseException | None) -> str:
    return "" if cause is None else "".join(traceback.format_exception(cause))


def _end(code: int) -> None:
    """End the process as Python does, but without a wait for threads of nodes that still run."""
    with contextlib.suppress(BaseException):
        # `sys.exit` would first join the threads of nodes, which may never end.
        atexit._run_exitfuncs()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it has no public name
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ParentLink:
    """The connection to the parent, as a child sees it. A thread reads it, so that a busy event loop does not delay it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.is_hurried = False
        """The parent has asked for the end at once."""
        self.has_siblings = True
        """Whether the parent sums the metrics of several children."""
        self.metrics_listener: socket.socket | None = None
        self._values: Callable[[], Values] = dict
        self._sums: dict[int, Future[Values]] = {}

    def listen(self) -> None:
        """Begin to read the messages of the parent."""
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def provide(self, values: Callable[[], Values]) -> None:
        """Answer requests for the metrics of this process by `values`, which is called in a thread."""
        self._values = values

    def others(self, own: Values) -> Values:
        """Return the sums of the metrics of the siblings. Raise ServiceUnavailable if the parent does not answer."""
        sums = Future[Values]()
        self._sums[id(sums)] = sums
        try:
            if self.link.send(sums=id(sums), values=as_json(own)):
                return sums.result(SUMS_S)
        except NotInTime:
            pass
        finally:
            del self._sums[id(sums)]
        raise ServiceUnavailable("the supervisor did not sum the metrics in time")

    def tell_runs(self, runs: int) -> None:
        """Tell the number of runs in progress at the beginning of a stop."""
        self.link.send(runs=runs)

    def tell_last_values(self) -> None:
        """Send the last metrics of this process, which count on after its end."""
        self.link.send(values=as_json(self._values()))

    def _read(self) -> None:
        while (messages := self.link.receive()) is not None:
            for message in messages:
                self._follow(message)
        os.kill(os.getpid(), signal.SIGTERM)  # the parent has died

    def _follow(self, message: Message) -> None:
        match message:
            case {"do": "stop" | "hurry" as wish}:
                self.is_hurried = wish == "hurry"
                os.kill(os.getpid(), signal.SIGTERM)  # a signal reaches the main thread even if a node blocks it
            case {"do": "values", "of": number}:
                self.link.send(values=as_json(self._values()), of=number)
            case {"sums": key, "values": values}:
                if (waiting := self._sums.get(key)) is not None:
                    waiting.set_result(from_json(values))
            case _:
                log.error("a message of the supervisor was not understood")
