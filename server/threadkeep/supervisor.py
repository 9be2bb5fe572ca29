"""Supervisor: several server processes on one port, started by `threadkeep serve --workers N`.

The supervisor opens the port and the embedded Postgres, migrates once, and serves nothing itself. It restarts a process
that dies, sums the metrics, and passes a stop on. All processes accept from one listening socket. So a process whose event
loop is blocked accepts nothing, and a process that dies leaves no connection unanswered that it had not accepted yet. With
`SO_REUSEPORT` each process has a queue of its own, in which connections would wait for a blocked process.
"""

import contextlib
import itertools
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Final, cast

from threadkeep import serving
from threadkeep.api.ops.metrics import metrics_socket
from threadkeep.base import logs
from threadkeep.base.metric_sums import Key, Values, as_json, counted_for_ever, from_json, sum_of
from threadkeep.base.problems import StartupError
from threadkeep.child_process import Child, Message, ParentLink, fork
from threadkeep.preparing import Prepared

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
"""Seconds between two checks whether a process has ended."""
STEADY_S: Final = 10.0
"""Seconds after which a process counts as started well. If it dies then, it is restarted at once."""
MAX_PAUSE_S: Final = 30.0
"""The longest pause before a process is restarted that dies again and again."""
VALUES_S: Final = 1.0
"""Seconds that processes may take to tell their metrics. After that the last known ones count."""
KILL_S: Final = serving.FORCE_STOP_S + 2
"""Seconds after a second signal until a process is killed that can't even end by force."""


@dataclass(slots=True, eq=False)
class _Worker:
    """One of the N processes, over its restarts."""

    number: int
    """From 1 on. It stands in the log lines of the process."""
    child: Child | None = None
    started_at: float = 0
    failures: int = 0
    """How often it has died in a row soon after its start."""
    start_at: float = 0
    """Monotonic time of the next start."""
    values: Values = field(default_factory=dict[Key, float])
    """The last known metrics."""
    runs: int | None = None
    """The number of runs in progress when it was told to stop."""


@dataclass(slots=True)
class _Request:
    """A request of a process for the metrics of the others."""

    asker: _Worker
    key: int
    """The process's own number of its request."""
    waits_for: set[int]
    """The processes that have not answered yet, by number."""
    deadline: float


@dataclass(slots=True)
class _MetricSums:
    """Sums the metrics of the processes for the one that is scraped."""

    workers: list[_Worker]
    requests: dict[int, _Request] = field(default_factory=dict[int, _Request])
    ended: Values = field(default_factory=dict[Key, float])
    """The counters of processes that have ended."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def ask(self, asker: _Worker, key: int) -> None:
        """Ask the other processes for their metrics. `answer` answers the request when they have come."""
        number = next(self._numbers)
        others = [worker for worker in self.workers if worker is not asker and worker.child is not None]
        asked = {other.number for other in others if other.child and other.child.link.send(do="values", of=number)}
        self.requests[number] = _Request(asker, key, asked, time.monotonic() + VALUES_S)

    def answer(self) -> None:
        """Answer the requests for which all metrics have come, or whose time is over."""
        for number, request in list(self.requests.items()):
            if request.waits_for and time.monotonic() < request.deadline:
                continue
            del self.requests[number]
            others = [worker.values for worker in self.workers if worker is not request.asker]
            if request.asker.child is not None:
                request.asker.child.link.send(sums=request.key, values=as_json(sum_of([self.ended, *others])))

    def has_answered(self, worker: _Worker, number: int) -> None:
        """Note that a process has told its metrics for the request `number`."""
        if request := self.requests.get(number):
            request.waits_for.discard(worker.number)

    def has_ended(self, worker: _Worker) -> None:
        """Keep the counters of a process that has ended."""
        # Counters must not fall when a process ends, because Prometheus takes a fall for a reset.
        self.ended, worker.values = sum_of([self.ended, counted_for_ever(worker.values)]), {}
        for request in self.requests.values():
            request.waits_for.discard(worker.number)


@dataclass(slots=True)
class _Supervisor:
    prepared: Prepared
    listener: socket.socket
    metrics_listener: socket.socket | None
    uri: str
    workers: list[_Worker]
    sums: _MetricSums
    wakes: socket.socket
    """It is readable after a signal."""
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    signals: list[int] = field(default_factory=list[int])
    """The signals that were received. The second one ends the processes at once."""
    passed_on: int = 0
    """The number of signals that the processes know of."""
    hurried_at: float = 0
    has_started: bool = False
    """The first process was ready once. Until then a failure of it ends everything."""
    has_told_runs: bool = False
    exit_code: int = 0

    def run(self) -> None:
        """Supervise until a signal. Raise StartupError if the first process can't start."""
        self.selector.register(self.wakes, selectors.EVENT_READ)
        # One alone: if the project can't be loaded, the command ends with one error and not with N.
        self._start(self.workers[0])
        while not self.signals or any(worker.child for worker in self.workers):
            for key, _ in self.selector.select(LOOK_S):
                self._read(key)
            if len(self.signals) > self.passed_on:
                self._pass_on_stop()
            self._reap()
            self.sums.answer()
            self._start_due()

    def kill_all(self) -> None:
        """End the processes that still run, after a failure of the supervisor."""
        for worker in self.workers:
            if worker.child is not None:
                worker.child.kill()

    def _start(self, worker: _Worker) -> None:
        running = [each.child for each in self.workers if each.child is not None]
        serve = partial(_serve, self, worker.number, greets=not self.has_started)
        worker.child, worker.started_at = fork(serve, running), time.monotonic()
        self.selector.register(worker.child.link.socket, selectors.EVENT_READ, worker)

    def _start_due(self) -> None:
        if not self.has_started or self.signals:
            return
        for worker in self.workers:
            if worker.child is None and worker.start_at <= time.monotonic():
                self._start(worker)

    def _read(self, key: selectors.SelectorKey) -> None:
        if key.data is None:
            self.wakes.recv(4096)
            return
        worker = cast("_Worker", key.data)
        if worker.child is None:
            return
        messages = worker.child.link.receive()
        if messages is None:  # it has ended, or is about to
            self.selector.unregister(key.fileobj)
            return
        for message in messages:
            self._follow(worker, message)

    def _follow(self, worker: _Worker, message: Message) -> None:
        if "values" in message:
            # Kept for scrapes in which this process does not answer in time.
            worker.values = from_json(message["values"])
        match message:
            case {"ready": pid}:
                self.has_started = True
                log.info("process started", extra={"worker": worker.number, "pid": pid})
            case {"refused": reason, "cause": cause}:
                if not self.has_started:
                    raise StartupError(reason)
                log.error("process can't start", extra={"worker": worker.number, "reason": reason, "cause": cause})
            case {"sums": key}:
                self.sums.ask(worker, key)
            case {"of": number}:
                self.sums.has_answered(worker, number)
            case {"runs": runs}:
                worker.runs = runs
                self._tell_runs()
            case _:
                pass

    def _pass_on_stop(self) -> None:
        """Pass a signal on. The second one ends the processes at once."""
        self.passed_on = len(self.signals)
        self.listener.close()  # each process has its own copy, and closes it when it accepts nothing more
        is_hurried = self.passed_on > 1
        if is_hurried and not self.hurried_at:
            self.hurried_at = time.monotonic()
        for worker in self.workers:
            if worker.child is not None:
                worker.child.link.send(do="hurry" if is_hurried else "stop")

    def _tell_runs(self) -> None:
        """Tell how many runs are in progress, when all processes have told it."""
        counts = [worker.runs for worker in self.workers if worker.child is not None]
        if self.signals and None not in counts and not self.has_told_runs:
            self.has_told_runs = True
            chosen = self.prepared.settings
            serving.tell_of_stop(sum(count or 0 for count in counts), chosen.drain_s, self.signals[0])

    def _reap(self) -> None:
        """Note which processes have ended, and when they are started again."""
        for worker in self.workers:
            child = worker.child
            if child is None:
                continue
            if self.hurried_at and time.monotonic() - self.hurried_at > KILL_S:
                child.kill()
            if child.has_ended():
                self._drop(worker, child)

    def _drop(self, worker: _Worker, child: Child) -> None:
        for message in child.link.receive() or ():  # its last words
            self._follow(worker, message)
        with contextlib.suppress(KeyError):
            self.selector.unregister(child.link.socket)
        child.link.socket.close()
        worker.child, worker.runs = None, None
        self.sums.has_ended(worker)
        if self.signals:
            self._tell_runs()
            if child.exit_code not in {0, -signal.SIGTERM}:  # SIGTERM ends one that was still starting
                self.exit_code = 1
            return
        if not self.has_started:
            raise StartupError(f"the first process ended with {_ending(child.exit_code)} before it was ready")
        self._plan_restart(worker, child)

    def _plan_restart(self, worker: _Worker, child: Child) -> None:
        has_lasted = time.monotonic() - worker.started_at >= STEADY_S or child.exit_code == 0
        worker.failures = 0 if has_lasted else worker.failures + 1
        # 0.5 s, then twice as long each time. Without a pause a broken process would use a whole core.
        pause_s = min(MAX_PAUSE_S, 2.0 ** (worker.failures - 2)) if worker.failures else 0.0
        worker.start_at = time.monotonic() + pause_s
        fields = {"worker": worker.number, "pid": child.pid, "ended_with": _ending(child.exit_code), "pause_s": pause_s}
        log.log(logging.INFO if child.exit_code == 0 else logging.ERROR, "process ended: restarting it", extra=fields)


def supervise(prepared: Prepared) -> int:
    """Serve with several processes until a signal, and return the exit code. Raise StartupError if none can start."""
    chosen = prepared.settings
    if not hasattr(os, "fork"):
        raise StartupError("several workers need fork, which this system does not have: start several processes")
    if chosen.metrics_port is None or chosen.metrics == "off":
        opened = nullcontext()
    else:
        opened = metrics_socket(chosen.host, chosen.metrics_port)
    with (
        serving.listening_socket(chosen) as listener,
        opened as metrics_listener,
        serving.open_database(prepared) as uri,
        _signals() as (wakes, received),
    ):
        serving.migrate_at(prepared, uri)
        workers = [_Worker(number) for number in range(1, chosen.workers + 1)]
        # After the migration and right before the first fork, so that all of this memory is shared.
        serving.warm_up(prepared)
        supervisor = _Supervisor(
            prepared, listener, metrics_listener, uri, workers, _MetricSums(workers), wakes, signals=received
        )
        try:
            supervisor.run()
        finally:
            # An exception of the supervisor leaves nobody to restart or stop the processes.
            supervisor.kill_all()
    return supervisor.exit_code


@contextlib.contextmanager
def _signals() -> Generator[tuple[socket.socket, list[int]]]:
    """Yield a socket that is readable after a signal to stop, or after the end of a child, and the signals to stop."""
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    received = list[int]()

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _note_child)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    try:
        with wakes, woken:
            yield wakes, received
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def _note_child(number: int, frame: FrameType | None) -> None:
    """Do nothing: a signal wakes the loop only if it has a handler."""


def _serve(supervisor: _Supervisor, number: int, parent: ParentLink, *, greets: bool) -> None:
    """Serve in a child."""
    # The parent's socket was inherited. The child's signals are not for it.
    supervisor.wakes.close()
    parent.metrics_listener = supervisor.metrics_listener
    logs.bind(worker=str(number))
    prepared = supervisor.prepared

    def on_ready(greet: serving.Greeting, url: str) -> None:
        del url
        parent.link.send(ready=os.getpid())
        if greets:
            greet()

    serving.serve_at(prepared, serving.load(prepared), supervisor.listener, supervisor.uri, on_ready, parent)
    parent.tell_last_values()


def _ending(exit_code: int) -> str:
    """How a process ended, for the log."""
    return f"exit code {exit_code}" if exit_code >= 0 else signal.Signals(-exit_code).name
