"""Run answer: follows a run and returns its answer, or the error with which it failed."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from threadkeep.api.agents.run_end import RunEnd
from threadkeep.api.openai.answer import AnswerReader, Piece
from threadkeep.api.openai.errors import OpenAIProblem, ResourceNotFound, RunFailed, RunTimedOut
from threadkeep.runs.event_log import Gap, LogItem


def failure_of(end: RunEnd) -> OpenAIProblem:
    """Return the failure of a run as a problem."""
    return RunTimedOut(end.message) if end.status == "timeout" else RunFailed(end.message)


async def answer_pieces(
    events: AsyncGenerator[LogItem], reader: AnswerReader
) -> AsyncGenerator[tuple[int, Sequence[Piece]]]:
    """Yield the position of each event of a run, and the pieces that it adds to the answer.

    Raise ResourceNotFound if events are missing, so that an incomplete answer never looks complete.
    """
    async with aclosing(events) as items:
        async for item in items:
            if isinstance(item, Gap):
                raise ResourceNotFound("The events of this response are no longer stored: read it without a stream.")
            # Many events add nothing to an answer.
            if pieces := reader.read(item.name, item.data):
                yield item.position, pieces
