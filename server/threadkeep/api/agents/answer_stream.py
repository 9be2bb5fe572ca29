"""Answer stream: SSE frames whose head waits for the first one, so that a request that fails at once has its status."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, cast

import anyio
from starlette.types import Receive, Scope, Send

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import until_gone
from threadkeep.api.streaming import EventStream, StreamReader
from threadkeep.base.problems import Problem, ServiceUnavailable
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.runs.service import RunHandle

HEAD_S: Final = 5.0
"""The longest that the head of a stream waits for the first frame."""
END: Final = b""
"""Marks the end of the frames."""

ErrorFrame = Callable[[Problem], bytes]


class AnswerStream(EventStream):
    """Sends the frames of an answer. A problem before the first frame is the answer to the request.

    The lines end in LF alone, because clients split a stream at an empty line of that kind.
    """

    heartbeat = b": heartbeat\n\n"
    heartbeat_s = 15.0
    shutdown_retry = b": the server is stopping\n\n"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        call: AuthorizedRequest[Any, Any],
        render_frame: ErrorFrame,
        *,
        headers: Mapping[str, str],
        cancels: RunHandle | None = None,
        reading: StreamReader | None = None,
    ) -> None:
        """`cancels`: the run that is cancelled if the client goes away. `render_frame`: a problem as the last frame."""
        super().__init__(frames, call, headers=dict(headers), cancels=cancels, reading=reading)
        self._all_frames = frames
        self._refused: asyncio.Future[Problem] | None = None
        """Done when the caller's access is revoked."""
        self._render_frame = render_frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A task of its own: the wait for the first frame may end by a timeout, which must not cancel the generator.
        task = asyncio.ensure_future(anext(self._all_frames, END))
        refused = self._refused = asyncio.ensure_future(self._call.caller.until_refused())
        try:
            if not await self._is_gone(receive, task):
                if refused.done():
                    await self._cancel()
                    # No byte was sent, so the refusal can have its own status.
                    raise refused.result()
                if task.done() and (failure := task.exception()) is not None:
                    raise failure
                # The base class sends these. They begin with the frame that is already being awaited.
                self._frames = self._frames_or_problem(task)
                await super().__call__(scope, receive, send)
        finally:
            task.cancel()
            refused.cancel()
            # Both have to stop before `aclose`, which raises if the generator is still running.
            await asyncio.gather(task, refused, return_exceptions=True)
            await self._all_frames.aclose()

    async def _is_gone(self, receive: Receive, first: "asyncio.Future[bytes]") -> bool:
        """Wait for the first frame, at most some seconds. A refused caller or a disconnected client ends the wait.

        Then its run is cancelled.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, self._cancel if self._cancels else None)
            # `asyncio.wait` and not a task group: the losing task goes on in the stream.
            ends = {first, cast("asyncio.Future[Any]", self._refused)}
            await asyncio.wait(ends, timeout=HEAD_S, return_when=asyncio.FIRST_COMPLETED)
            # Reached only if the client is still connected. Otherwise `until_gone` has cancelled the scope before the
            # `return`.
            tasks.cancel_scope.cancel()
            return False
        return True

    async def _frames_or_problem(self, first: "asyncio.Future[bytes]") -> AsyncGenerator[bytes]:
        """The frames, and a problem in the middle of them as the last frame."""
        try:
            frame = await first
            while frame:
                yield frame
                frame = await anext(self._all_frames, END)
        # The head has status 200 by now, so the problem can only be a frame.
        except Problem as problem:
            yield self._render_frame(problem)
        except TRANSIENT_ERRORS:
            yield self._render_frame(ServiceUnavailable())

    async def _until_refused(self) -> Problem:
        """The check that began before the head continues, so that the wait for the head delays no refusal."""
        return await asyncio.shield(cast("asyncio.Future[Problem]", self._refused))

    def _refusal(self, problem: Problem) -> bytes:
        return self._render_frame(problem)
