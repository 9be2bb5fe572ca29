"""`threadkeep bench`: measures, prints the table and writes the files. The exit code says whether all promises held."""

import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import anyio
import click
import httpx

from threadkeep_bench.measure import measure_at, measure_own
from threadkeep_bench.page import page
from threadkeep_bench.plan import Measured, Plan
from threadkeep_bench.render import NOT_SIMULATED, as_json, table
from threadkeep_bench.serve import COMMAND, NotStarted
from threadkeep_bench.verdicts import Verdict, judge

JSON_NAME = "workflow_concurrency_test_results.json"
HTML_NAME = "workflow_concurrency_test_report.html"
HELD, BROKEN, NOT_MEASURED = 0, 1, 2
"""Exit codes."""


class Progress:
    """Writes the present step to `stream`. On a terminal it overwrites one line, elsewhere each step has a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()

    def say(self, text: str) -> None:
        """Show the next step."""
        self._stream.write(f"\r\x1b[K{text} …" if self._terminal else f"{text}\n")
        self._stream.flush()

    def done(self) -> None:
        """Clear the terminal's line."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def run(
    *, url: str | None, out: Path, latency_s: float = 1.5, rounds: int = 3, command: Sequence[str] = COMMAND
) -> int:
    """Measure the server at `url`, or if it is None, one started by `command`. Write two files into `out`.

    Return the exit code: 0 if every tested promise held, 1 if one broke, 2 if nothing could be measured. `latency_s` is
    the simulated latency of the seven equal answers, and those of the others are in proportion. Below about 1 the
    server's own milliseconds weigh more than the promises allow.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(latency_s=latency_s, rounds=rounds)
    progress = Progress(sys.stderr)
    outcome = anyio.run(_outcome, url, plan, progress, command)
    progress.done()
    if isinstance(outcome, str):
        click.echo(f"nothing was measured: {outcome}", err=True)
        return NOT_MEASURED
    verdicts = judge(outcome)
    _write(outcome, verdicts, out)
    # `is False`, because None means that a promise could not be tested.
    return BROKEN if any(verdict.held is False for verdict in verdicts) else HELD


async def _outcome(url: str | None, plan: Plan, progress: Progress, command: Sequence[str]) -> Measured | str:
    """Return the measurement, or the reason why it failed."""
    # This value stays if the scope is cancelled before the measurement has ended.
    outcome: Measured | str = "stopped by a signal"
    async with anyio.create_task_group() as tasks:
        # Python's own handler would end the process at once, and the server of the report would stay.
        tasks.start_soon(_cancel_on_a_signal, tasks.cancel_scope)
        try:
            outcome = await _measure(url, plan, progress, command)
        except (NotStarted, httpx.HTTPError, TimeoutError, ValueError) as error:
            outcome = f"{type(error).__name__}: {error}"
        tasks.cancel_scope.cancel()
    return outcome


async def _cancel_on_a_signal(scope: anyio.CancelScope) -> None:
    """End the report in order on SIGTERM and Ctrl-C, so that a server that it started is stopped too."""
    if sys.platform == "win32":
        return  # its event loop has no signal handlers, and Ctrl-C is a KeyboardInterrupt there
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _measure(url: str | None, plan: Plan, progress: Progress, command: Sequence[str]) -> Measured:
    if url is None:
        return await measure_own(plan, progress.say, command=command)
    return await measure_at(url, plan, progress.say)


def _write(measured: Measured, verdicts: list[Verdict], out: Path) -> None:
    at = datetime.now(UTC)
    (out / JSON_NAME).write_bytes(as_json(measured, verdicts, at))
    (out / HTML_NAME).write_text(page(measured, verdicts, at), encoding="utf-8")
    click.echo(table(verdicts))
    if not measured.simulates:
        click.echo(NOT_SIMULATED)
    click.echo(f"\n{out / JSON_NAME}\n{out / HTML_NAME}")
