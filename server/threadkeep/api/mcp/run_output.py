"""Run output: the output of one run, from any process, even after later runs on its thread."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from threadkeep.api.agents.questions import Question, questions_of
from threadkeep.api.agents.run_end import RunEnd, run_end
from threadkeep.base import json
from threadkeep.graphs import Tenant
from threadkeep.runs.event_log import Gap, LogEvent
from threadkeep.runs.execution import Outcome
from threadkeep.runs.graph_runner import INTERRUPT
from threadkeep.runs.service import RunHandle
from threadkeep.tables import runs, thread_checkpoints, thread_runs, threads
from threadkeep.threads import history
from threadkeep.threads.history import CheckpointRef, ThreadParts

VALUES: Final = "values"
EMPTY: Final = b"{}"
OnEvent = Callable[[LogEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutput:
    """The end of a run."""

    end: RunEnd
    values: Any = None
    """The output of the graph so far."""
    questions: list[Question] = field(default_factory=list[Question])
    """The questions that the graph waits for."""

    @property
    def is_success(self) -> bool:
        """The run succeeded, or it stopped at an interrupt."""
        return self.end.is_success


async def read_output(handle: RunHandle, parts: ThreadParts, on_event: OnEvent | None = None) -> RunOutput:
    """Wait for the end of a run. ServiceUnavailable if this process stops first.

    A run of this process has its outcome in memory. Otherwise, or if the events have a reader, the run's event log is read.
    """
    execution = handle.execution
    # The cheap way: no event is decoded.
    if execution is not None and on_event is None and (outcome := await execution.wait_result()) is not None:
        return await _of_outcome(outcome)
    reader = _ValuesReader()
    async with aclosing(handle.events()) as items:
        async for item in items:
            if isinstance(item, Gap):
                reader.is_broken = True
                continue
            await reader.read(item)
            if on_event is not None:
                await on_event(item)
    # The outcome has the whole state. The last `values` event of a stream may be older.
    if execution is not None and execution.outcome is not None:
        return await _of_outcome(execution.outcome)
    end = await run_end(handle)
    if end.is_success and reader.is_broken:
        return await _of_checkpoint(handle, parts, end)
    return RunOutput(end=end, values=await reader.values(), questions=reader.questions)


async def _of_outcome(outcome: Outcome) -> RunOutput:
    answer: Any = await json.loads_apart(outcome.answer)
    if outcome.status in {"error", "timeout"}:
        return RunOutput(end=RunEnd(status=outcome.status, error=answer.get("__error__")))
    values, questions = _split(answer)
    return RunOutput(end=RunEnd(status=outcome.status), values=values, questions=questions)


def _split(values: Any) -> tuple[Any, list[Question]]:
    """The values without the interrupts, and these as questions."""
    if not isinstance(values, dict) or INTERRUPT not in values:
        return cast("Any", values), []
    state = cast("dict[str, Any]", values)
    return {name: each for name, each in state.items() if name != INTERRUPT}, questions_of(state[INTERRUPT])


class _ValuesReader:
    """Keeps the last values of a run and its interrupts. Each interrupt has its own event."""

    def __init__(self) -> None:
        self.is_broken = True
        """Events are missing. The last values are not known."""
        self._last: bytes | None = None
        self._questions: dict[str, Question] = {}

    async def read(self, event: LogEvent) -> None:
        if event.name == "metadata" and orjson.loads(event.data).get("attempt", 1) > 1:
            self._last, self._questions = None, {}
        if event.name != VALUES:
            return
        self.is_broken = False
        self._last = event.data
        # Parsing each state would be slow. A state that only mentions the word is parsed in vain.
        if INTERRUPT.encode() in event.data:
            for question in _split(await json.loads_apart(event.data))[1]:
                self._questions[question.interrupt_id] = question

    async def values(self) -> Any:
        return None if self._last is None else _split(await json.loads_apart(self._last))[0]

    @property
    def questions(self) -> list[Question]:
        return list(self._questions.values())


async def _of_checkpoint(handle: RunHandle, parts: ThreadParts, end: RunEnd) -> RunOutput:
    """Return the state at the last checkpoint of a run without stored events."""
    filters, thread_id = handle.filters, handle.thread_id
    async with handle.follower.pool.connection(filters) as conn:
        thread = await threads.get_without_values(conn, filters, thread_id)
        newest = await thread_runs.newest_run(conn, filters, thread_id)
        # The thread's row has the values of its newest run, so no checkpoint has to be read.
        if newest is not None and newest.run_id == handle.run_id:
            stored = await runs.get_result(conn, filters, thread_id, handle.run_id)
            values = await json.loads_apart(stored.values.raw) if stored is not None and stored.values else None
            return RunOutput(end=end, values=values, questions=questions_of(stored.interrupts.load() if stored else {}))
        mark = {"run_id": str(handle.run_id)}
        checkpoint_id = await thread_checkpoints.newest_with(conn, filters, thread_id, mark)
    if thread is None or checkpoint_id is None:
        return RunOutput(end=end)
    at = CheckpointRef(checkpoint_id=checkpoint_id)
    read = await history.get_state(parts, Tenant(filters=filters), thread, at)
    state = cast("Mapping[str, Any]", await json.loads_apart(await json.dumps_apart(read.state, size=read.bytes)))
    return RunOutput(end=end, values=state["values"], questions=questions_of(state["interrupts"]))
