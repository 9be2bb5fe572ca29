"""Progress of slow commands (issue: commands show progress if they take longer than two seconds)."""

import io
import re
import threading

import pytest

from threadkeep.progress import progress


class Stream(io.StringIO):
    """A stream that tells when something was written."""

    def __init__(self, *, is_terminal: bool, awaited: str = "") -> None:
        super().__init__()
        self.is_terminal = is_terminal
        self.awaited = awaited
        self.was_written = threading.Event()

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.awaited in text:
            self.was_written.set()
        return count

    @property
    def text(self) -> str:
        return re.sub(r"[\d.]+ s\b", "N s", self.getvalue())


def test_a_fast_command_prints_nothing() -> None:
    """Issue 20."""
    stream = Stream(is_terminal=True)
    with progress("Copy threads", total=2, stream=stream) as step:
        step(2)

    assert stream.getvalue() == ""


def test_a_log_gets_lines_while_the_command_blocks() -> None:
    """The work does not call the step meanwhile, as a long statement does not."""
    stream = Stream(is_terminal=False, awaited="t-7")
    with progress("Copy threads", total=1_200, unit="threads", stream=stream, silent_s=0.05) as step:
        step(0, "t-7")
        assert stream.was_written.wait(20)
        step(1_200, "")

    assert "Copy threads: 0 of 1,200 threads, t-7, N s\n" in stream.text
    assert stream.text.splitlines()[-1] == "Copy threads: 1,200 of 1,200 threads, done in N s"


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    """Each text clears the line, and only the result ends it."""
    stream = Stream(is_terminal=True)
    with progress("Migrate", stream=stream, silent_s=0) as step:
        assert stream.was_written.wait(20)
        step(3)

    assert stream.text.startswith("\r\x1b[KMigrate: N s\r")
    assert stream.text.endswith("\r\x1b[KMigrate: 3, done in N s\n")
    assert stream.text.count("\n") == 1


def test_a_failure_tells_how_far_it_came() -> None:
    """Ctrl-C and errors end the line too."""
    stream = Stream(is_terminal=False)

    def prune() -> None:
        with progress("Prune", total=10, unit="runs", stream=stream, silent_s=0) as step:
            assert stream.was_written.wait(20)
            step(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune()
    assert stream.text.splitlines()[-1] == "Prune: 4 of 10 runs, stopped after N s"


def test_parts_are_counted_and_timed() -> None:
    """Issue 20: each migration with its name and its time."""
    stream = Stream(is_terminal=False, awaited="0002")
    with progress("Migrate", total=2, unit="files", stream=stream, silent_s=0.05) as step:
        with step.part("0001_first"):
            pass
        with step.part("0002_second"):
            assert stream.was_written.wait(20)

    assert "Migrate: 1 of 2 files, 0002_second, N s" in stream.text
    assert list(step.seconds) == ["0001_first", "0002_second"]
    assert step.seconds["0002_second"] > step.seconds["0001_first"]
