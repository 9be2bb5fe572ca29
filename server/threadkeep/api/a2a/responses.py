"""Responses: a task that takes as long as its run, and the stream of a task."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from threadkeep.api.a2a.errors import A2AError, error_of_problem
from threadkeep.api.a2a.rpc import RpcId, add_rpc_error, encode_error, encode_result, frame
from threadkeep.api.a2a.tasks import Fields
from threadkeep.api.agents.answer_stream import AnswerStream
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import RunResult
from threadkeep.api.streaming import StreamReader
from threadkeep.base.problems import Problem
from threadkeep.runs.service import RunHandle


class TaskResult(RunResult):
    """Waits until a task has ended or asks, and sends it. If the client disconnects, the task continues."""

    def __init__(
        self, call: AuthorizedRequest[Any, Any], rpc_id: RpcId, handle: RunHandle, work: Callable[[], Awaitable[Fields]]
    ) -> None:
        """`work` waits for the task, and returns the result of the method."""
        super().__init__(handle, call.caller, headers={})
        self._rpc_id = rpc_id
        self._work = work

    # A run's early result is the graph's output. A task is more, and must be read from its rows.
    async def _early_answer(self) -> bytes | None:
        return None

    async def _answer(self) -> bytes:
        try:
            return await encode_result(self._rpc_id, await self._work())
        except A2AError as error:
            return encode_error(self._rpc_id, error)
        except Problem as problem:
            add_rpc_error(problem, self._rpc_id)
            raise

    def _late_problem(self, problem: Problem) -> bytes:
        # The head was sent with status 200, so the problem can only be in the body.
        return encode_error(self._rpc_id, error_of_problem(problem))


def task_stream(
    call: AuthorizedRequest[Any, Any],
    rpc_id: RpcId,
    events: AsyncGenerator[Fields],
    started: RunHandle | None,
) -> AnswerStream:
    """The stream of a task. If the client disconnects, the task continues. `started` is the run that the request has started."""

    def render(problem: Problem) -> bytes:
        return frame(encode_error(rpc_id, error_of_problem(problem)))

    # Without an execution only the write timeout closes the stream of a slow client.
    reading = StreamReader(started.execution, call.state.settings) if started is not None else None
    return AnswerStream(_frames(rpc_id, events), call, render, headers={}, reading=reading)


async def _frames(rpc_id: RpcId, events: AsyncGenerator[Fields]) -> AsyncGenerator[bytes]:
    """The frames of a task's events, and of an error in the middle of them."""
    async with aclosing(events) as source:
        try:
            async for event in source:
                yield frame(await encode_result(rpc_id, event))
        except A2AError as error:
            yield frame(encode_error(rpc_id, error))
