"""Process signals: the events of a graceful shutdown, for which all parts of a process wait, and signals outside of it."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, Never

import anyio


@dataclass(frozen=True, slots=True)
class ProcessSignals:
    """Events of a shutdown. Each is set once, in this order."""

    stopping: anyio.Event = field(default_factory=anyio.Event)
    """The process received a signal to stop."""
    hurried: anyio.Event = field(default_factory=anyio.Event)
    """The process received a second signal."""
    leaving: anyio.Event = field(default_factory=anyio.Event)
    """The grace period of the runs is over. Everything that is still open ends now, unfinished."""


HANGUP: Final = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
ENDING: Final = (signal.SIGINT, signal.SIGTERM, HANGUP)
"""Signals that end a process. A closed terminal sends SIGHUP."""


@contextmanager
def as_exits() -> Generator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit in the block, so that its resources are closed.

    A signal that is ignored or handled already stays so. While another handler of SIGTERM is set, SIGHUP calls it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {HANGUP: _hang_up, signal.SIGTERM: _exit}
    before = {number: signal.getsignal(number) for number in handlers}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _exit(number: int, _: FrameType | None) -> Never:
    raise SystemExit(128 + number)  # as shells count it


def _hang_up(_: int, __: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def deferred() -> Generator[None]:
    """Hold back the signals that end a process until the end of the block. The block must end in bounded time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler not in {None, signal.SIG_IGN}:
            signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler not in {None, signal.SIG_IGN}:
                signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)
