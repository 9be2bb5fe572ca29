"""Waiting: an answer that takes as long as a run does.

One that comes soon is a plain response with its length and its right status. After some seconds the head goes out and
a newline every few seconds, which JSON allows before a value, so that no proxy hangs up; an error is then told as
`__error__` in a 200, as the clients expect.
"""

import logging
from collections.abc import Awaitable, Callable

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.disconnect import until_gone
from threadkeep.api.responses import raw_json
from threadkeep.base import json
from threadkeep.base.problems import Problem, Unavailable
from threadkeep.postgres.retry import AWAY
from threadkeep.runs.engine import Engine
from threadkeep.runs.event_log import LiveRun
from threadkeep.runs.failures import describe

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
SOON_S = 0.25
LEAVE_S = 0.5
"""What has an answer when the process leaves still gives it."""


class WaitingAnswer(Response):
    """Sends what `answer` returns, JSON, when it returns."""

    def __init__(
        self,
        answer: Callable[[], Awaitable[bytes]],
        *,
        headers: dict[str, str],
        live: LiveRun | None = None,
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._answer = answer
        self._headers = headers
        self._live = live
        """The run, where it goes on here: most end soon, before a lost client need be looked for."""
        self._on_disconnect = on_disconnect
        self._confirm = confirm
        """Raises where what the head is about to acknowledge is not there."""
        self._body: bytes | Problem = b""
        self._begun = False
        """The head is out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._live is not None and (outcome := await self._live.wait(SOON_S)) is not None:
            await raw_json(outcome.answer, headers=self._headers)(scope, receive, send)
            return
        self._ready = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, self._on_disconnect)
            tasks.start_soon(self._settle_with, self._find)
            tasks.start_soon(self._give_up, scope["state"]["engine"])
            with anyio.move_on_after(HEARTBEAT_S):
                await self._ready.wait()
            if not self._ready.is_set() and self._confirm is not None:
                await self._settle_with(self._confirm)
            if not self._ready.is_set():
                await self._beat(send)
            elif isinstance(self._body, bytes):
                await raw_json(self._body, headers=self._headers)(scope, receive, send)
            tasks.cancel_scope.cancel()
        if isinstance(self._body, Problem) and not self._begun:
            raise self._body

    async def _find(self) -> None:
        self._settle(await self._answer())

    async def _settle_with(self, work: Callable[[], Awaitable[None]]) -> None:
        """What `work` raises is the answer."""
        try:
            await work()
        except Problem as problem:
            self._settle(problem)
        except AWAY:
            log.warning("the database went away from an answer that waits", exc_info=True)
            self._settle(Unavailable())

    async def _give_up(self, engine: Engine) -> None:
        """A process that leaves waits for no run of another one."""
        await engine.leaving.wait()
        await anyio.sleep(LEAVE_S)
        self._settle(Unavailable("the server is stopping"))

    def _settle(self, body: bytes | Problem) -> None:
        if not self._ready.is_set():
            self._body = body
            self._ready.set()

    async def _beat(self, send: Send) -> None:
        self._begun = True
        head = raw_json(b"", headers=self._headers)
        del head.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": head.raw_headers})
        while not self._ready.is_set():
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            with anyio.move_on_after(HEARTBEAT_S):
                await self._ready.wait()
        body = self._body
        told = body if isinstance(body, bytes) else json.dumps({"__error__": describe(body)})
        await send({"type": "http.response.body", "body": told, "more_body": False})
