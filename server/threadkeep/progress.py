"""Progress: tells on standard error how far a command is, if it takes longer than two seconds.

On a terminal, one line is rewritten. Elsewhere, for example in a log, a line is added every few seconds. Fast commands print
nothing. A thread prints, so a statement that takes minutes or a busy event loop does not stop the line:

    with progress("Copy threads", total=len(threads), unit="threads") as step:
        for thread in threads:
            step(0, thread.name)  # tells what is done now
            copy(thread)
            step()  # one more is done
"""

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TextIO

SILENT_S: Final = 2.0
"""Seconds before the first line. A command that ends earlier prints nothing."""
TERMINAL_EVERY_S: Final = 0.2
"""Seconds between two changes of the line on a terminal."""
LOG_EVERY_S: Final = 5.0
"""Seconds between two lines elsewhere."""
ESTIMATE_AFTER_S: Final = 5.0
"""Seconds after which the remaining time is estimated."""
CLEAR_LINE: Final = "\r\x1b[K"


@dataclass(slots=True, kw_only=True)
class Step:
    """The progress of one command. Call it to tell what was done. It may be called in any thread."""

    title: str
    """The work as an imperative, for example `Copy threads`."""
    total: int | None
    """The number of units to do. None: it is not known. It may be set later."""
    unit: str
    """The unit in the plural, for example `threads`. Empty: only numbers."""
    started_at: float = field(default_factory=time.monotonic)
    done: int = 0
    """The number of units that are done."""
    current: str = ""
    """What is done now, for example the name of a file."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """How long each `part` took."""

    def __call__(self, count: int = 1, current: str | None = None) -> None:
        """Add `count` units, and show `current` as what is done now. An empty text shows nothing more."""
        self.done += count
        if current is not None:
            self.current = current

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Show `name` as what is done in the block, and count it as one unit. Its time is kept in `seconds`."""
        began = time.monotonic()
        self(0, name)
        yield
        self.seconds[name] = time.monotonic() - began
        self(1, "")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

    def line(self) -> str:
        """The progress in one line."""
        parts = [self._count(), self.current, f"{self.elapsed_s:.0f} s", self._remaining()]
        return f"{self.title}: {', '.join(part for part in parts if part)}"

    def last_line(self, *, finished: bool) -> str:
        """The result in one line."""
        parts = [self._count(), f"{'done in' if finished else 'stopped after'} {self.elapsed_s:.1f} s"]
        return f"{self.title}: {', '.join(part for part in parts if part)}"

    def _count(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.total is not None:
            return f"{self.done:,} of {self.total:,}{unit}"
        return f"{self.done:,}{unit}" if self.done else ""

    def _remaining(self) -> str:
        if not self.total or not 0 < self.done < self.total or self.elapsed_s < ESTIMATE_AFTER_S:
            return ""
        return f"about {self.elapsed_s * (self.total - self.done) / self.done:.0f} s left"


@contextmanager
def progress(
    title: str, *, total: int | None = None, unit: str = "", stream: TextIO | None = None, silent_s: float = SILENT_S
) -> Generator[Step]:
    """Show the progress of the block, which tells it by calling the `Step`.

    If the block takes less than `silent_s` seconds, nothing is printed. An exception is told as `stopped after`.
    """
    step = Step(title=title, total=total, unit=unit)
    printer = _Printer(step, sys.stderr if stream is None else stream, silent_s)
    finished = False
    printer.thread.start()
    try:
        yield step
        finished = True
    finally:
        printer.close(finished=finished)


class _Printer:
    """Prints the lines of a step from a thread of its own."""

    def __init__(self, step: Step, stream: TextIO, silent_s: float) -> None:
        self._step = step
        self._stream = stream
        self._silent_s = silent_s
        self._rewrites = stream.isatty()
        self._ended = threading.Event()
        self._has_printed = False
        self.thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def close(self, *, finished: bool) -> None:
        """Print the result, unless nothing was printed before."""
        self._ended.set()
        self.thread.join()
        if self._has_printed:
            last = self._step.last_line(finished=finished)
            self._write(f"{CLEAR_LINE}{last}\n" if self._rewrites else f"{last}\n")

    def _run(self) -> None:
        pause_s = self._silent_s
        while not self._ended.wait(pause_s):
            self._has_printed = True
            line = self._step.line()
            # The cursor stays at the beginning, so that a line of the log goes over this one and not behind it.
            self._write(f"{CLEAR_LINE}{line}\r" if self._rewrites else f"{line}\n")
            pause_s = TERMINAL_EVERY_S if self._rewrites else LOG_EVERY_S

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal has gone, which is no reason to stop the work
            self._ended.set()
