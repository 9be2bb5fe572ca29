"""Streaming: responses of the OpenAI API that wait for a run, as SSE and as one JSON object."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.openai.errors import error_body
from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import SOON_S, encoded_json_response, until_gone
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable
from threadkeep.postgres.retry import TRANSIENT_ERRORS
from threadkeep.runs.service import RunHandle


def error_frame(problem: Problem) -> bytes:
    """Return the frame of a failure in the middle of a chat completion. The stream ends without `[DONE]`."""
    return b"data: %b\n\n" % json.dumps(error_body(problem))


class AnswerResult(Response):
    """Sends one JSON object after the end of the run. If the client disconnects before, the run is cancelled."""

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
        """Wait for the object and return it. None if the client has disconnected.

        Raise Problem if the work fails, the caller's access is revoked, or this process stops.
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
            # Raised after the task group, because it would wrap the problem in a group.
            raise self._problem
        return self._encoded

    async def _give_up(self, work: anyio.CancelScope) -> None:
        await self._call.state.signals.leaving.wait()
        # A result that comes now is still sent.
        await anyio.sleep(SOON_S)
        self._problem = ServiceUnavailable("the server is stopping")
        work.cancel()

    async def _cancel(self) -> None:
        await self._handle.cancel("the client disconnected")
