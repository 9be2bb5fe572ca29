"""Run answer: follows a run, and tells what it says and how it ended."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from threadkeep.api.openai.answer import AnswerReader, Piece
from threadkeep.api.openai.errors import OpenAIProblem, ResourceNotFound, RunFailed, RunTimedOut
from threadkeep.base import json
from threadkeep.base.problems import ServiceUnavailable
from threadkeep.runs.event_log import Gap, LogItem
from threadkeep.runs.service import RunHandle
from threadkeep.tables import runs
from threadkeep.tables.runs import FINAL, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    status: RunStatus
    error: dict[str, Any] | None = None
    """`error` and `message`, as the LangGraph API tells them."""

    @property
    def is_success(self) -> bool:
        """It came to its end, or stopped to ask."""
        return self.status == "success"

    @property
    def message(self) -> str:
        """Why it failed."""
        if self.error is None:
            return "the run was cancelled" if self.status == "interrupted" else "the run failed"
        return f"{self.error.get('error', 'Error')}: {self.error.get('message', '')}"

    @property
    def problem(self) -> OpenAIProblem:
        """The failure as an error of a request."""
        return RunTimedOut(self.message) if self.status == "timeout" else RunFailed(self.message)


async def answer_pieces(
    events: AsyncGenerator[LogItem], reader: AnswerReader
) -> AsyncGenerator[tuple[int, Sequence[Piece]]]:
    """The position of each event of a run, and the pieces that it adds to the answer.

    ResourceNotFound if events are missing, so that an answer with a hole is never taken for a whole one.
    """
    async with aclosing(events) as items:
        async for item in items:
            if isinstance(item, Gap):
                raise ResourceNotFound("Events of this response are no longer kept: read it without a stream.")
            if pieces := reader.read(item.name, item.data):
                yield item.position, pieces


async def run_end(handle: RunHandle) -> RunEnd:
    """How a run ended whose events have been read to the end. ServiceUnavailable if this process stops before."""
    outcome = handle.execution and handle.execution.outcome
    if outcome is not None:
        failed = outcome.status in {"error", "timeout"}
        return RunEnd(status=outcome.status, error=json.loads(outcome.answer).get("__error__") if failed else None)
    if handle.run is not None:
        async with handle.follower.pool.connection(handle.filters) as conn:
            stored = await runs.get_result(conn, handle.filters, handle.thread_id, handle.run_id)
        if stored is not None and stored.status in FINAL:
            return RunEnd(status=stored.status, error=stored.error.load() if stored.error else None)
    raise ServiceUnavailable("the server is stopping")
