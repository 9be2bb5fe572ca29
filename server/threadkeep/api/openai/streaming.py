"""Streaming: answers that take as long as a run does, as SSE and as one JSON object.

SSE of the OpenAI API has lines that end in LF alone, because clients split a stream at an empty line of that kind. The
head waits for the first frame, so that a run that fails at once has the status of its failure.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.openai.errors import error_body
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import SOON_S, encoded_json_response, until_gone
from threadkeep.api.streaming import EventStream, StreamReader
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.runs.service import RunHandle

HEAD_S: Final = 5.0
"""The longest that the head of a stream waits for the first frame."""
END: Final = b""
"""Stands for the end of the frames."""

ErrorFrame = Callable[[Problem], bytes]


def error_frame(problem: Problem) -> bytes:
    """A failure in the middle of a stream of a chat completion. The stream ends without `[DONE]`."""
    return b"data: %b\n\n" % json.dumps(error_body(problem))


class AnswerStream(EventStream):
    """Sends the frames of an answer. A problem before the first frame is the answer to the request."""

    heartbeat = b": heartbeat\n\n"
    heartbeat_s = 15.0
    shutdown_retry = b": the server is stopping\n\n"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        call: AuthorizedRequest[Any, Any],
        *,
        headers: Mapping[str, str],
        cancels: RunHandle | None = None,
        reading: StreamReader | None = None,
        render_frame: ErrorFrame = error_frame,
    ) -> None:
        """`cancels`: the run that is cancelled if the client goes away."""
        super().__init__(frames, call, headers=dict(headers), cancels=cancels, reading=reading)
        self._all_frames = frames
        self._refused: asyncio.Future[Problem] | None = None
        """Done as soon as the caller would no longer be let in."""
        self._render_frame = render_frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(anext(self._all_frames, END))
        refused = self._refused = asyncio.ensure_future(self._call.caller.until_refused())
        try:
            if not await self._is_gone(receive, task):
                if refused.done():
                    await self._cancel()
                    raise refused.result()
                if task.done() and (failure := task.exception()) is not None:
                    raise failure
                self._frames = self._told(task)
                await super().__call__(scope, receive, send)
        finally:
            task.cancel()
            refused.cancel()
            await asyncio.gather(task, refused, return_exceptions=True)
            await self._all_frames.aclose()

    async def _is_gone(self, receive: Receive, first: "asyncio.Future[bytes]") -> bool:
        """Wait for the first frame, for some seconds, until the caller is refused, or until the client has gone.

        Then its run is cancelled.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, self._cancel if self._cancels else None)
            ends = {first, cast("asyncio.Future[Any]", self._refused)}
            await asyncio.wait(ends, timeout=HEAD_S, return_when=asyncio.FIRST_COMPLETED)
            tasks.cancel_scope.cancel()
            return False
        return True

    async def _told(self, first: "asyncio.Future[bytes]") -> AsyncGenerator[bytes]:
        """The frames, and a problem in the middle of them as the last frame."""
        try:
            frame = await first
            while frame:
                yield frame
                frame = await anext(self._all_frames, END)
        except Problem as problem:
            yield self._render_frame(problem)
        except TRANSIENT_ERRORS:
            yield self._render_frame(ServiceUnavailable())

    async def _until_refused(self) -> Problem:
        """The same question goes on, so that the head's wait delays no refusal."""
        return await asyncio.shield(cast("asyncio.Future[Problem]", self._refused))

    def _refusal(self, problem: Problem) -> bytes:
        return self._render_frame(problem)


class AnswerResult(Response):
    """Sends one JSON object when the run has ended. The run is cancelled if the client goes away before."""

    def __init__(
        self,
        work: Callable[[], Awaitable[bytes]],
        call: AuthorizedRequest[Any, Any],
        handle: RunHandle,
        headers: Mapping[str, str],
    ) -> None:
        """`work` waits for the run and makes the object."""
        self._work = work
        self._call = call
        self._handle = handle
        self._headers = dict(headers)
        self._problem: Problem | None = None
        self._encoded: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._work())
        try:
            await asyncio.wait({work}, timeout=SOON_S)  # most runs end within this time, and nothing else is watched
            encoded = work.result() if work.done() else await self._watched(work, receive)
        finally:
            work.cancel()
        if encoded is not None:
            await encoded_json_response(encoded, headers=self._headers)(scope, receive, send)

    async def _watched(self, work: "asyncio.Future[bytes]", receive: Receive) -> bytes | None:
        """The object, when it is made. None if the client has gone before.

        Problem if the work fails, the caller is no longer let in, or this process leaves.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, self._cancel)
            tasks.start_soon(self._give_up, tasks.cancel_scope)
            try:
                self._encoded = await self._call.caller.guard(lambda: asyncio.shield(work))
            except Problem as problem:
                self._problem = problem
            except TRANSIENT_ERRORS:
                self._problem = ServiceUnavailable()
            tasks.cancel_scope.cancel()
        if self._problem is not None:
            if not work.done():
                await self._cancel()
            raise self._problem
        return self._encoded

    async def _give_up(self, work: anyio.CancelScope) -> None:
        await self._call.state.signals.leaving.wait()
        await anyio.sleep(SOON_S)
        self._problem = ServiceUnavailable("the server is stopping")
        work.cancel()

    async def _cancel(self) -> None:
        await self._handle.cancel("the client disconnected")
