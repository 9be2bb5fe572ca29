"""SSE: a run's events as `text/event-stream`, by the rules that both official SDKs parse by.

A comment every few seconds of silence keeps proxies from hanging up. The response notices at once that the client
has gone; what then happens to the run is the caller's choice. No `end` event: docs/decisions/0007-end-of-stream.md
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.engine.live import Event, Followed, Gap
from threadkeep.engine.parts import mode_of

HEARTBEAT_S = 5.0
"""Between heartbeats: the JS SDK takes three of these as a lost connection."""
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
ALWAYS = frozenset({"metadata", "error"})
"""Events that no filter holds back."""

HEADERS = {
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "content-type": "text/event-stream; charset=utf-8",
}


def frame(event: Event, *, with_id: bool) -> bytes:
    """One event on the wire. Its data is one line of JSON, so that nothing in it can end the frame."""
    head = b"event: " + event.name.encode() + b"\r\ndata: " + event.data
    return head + (b"\r\nid: %d\r\n\r\n" % event.position if with_id else b"\r\n\r\n")


class EventStream(Response):
    """Sends a run's events as they come, until the run has ended or the client has gone."""

    def __init__(
        self,
        followed: AsyncGenerator[Followed, None],
        *,
        headers: dict[str, str],
        with_ids: bool,
        modes: Collection[str] | None = None,
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(headers=HEADERS | headers)
        del self.headers["content-length"]
        self._followed = followed
        self._with_ids = with_ids
        self._modes = modes
        self._on_disconnect = on_disconnect
        self._sending = anyio.Lock()
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_gone, receive, tasks.cancel_scope)
            tasks.start_soon(self._beat, send)
            await self._send_events(send)
            tasks.cancel_scope.cancel()

    async def _send_events(self, send: Send) -> None:
        async with aclosing(self._followed) as followed:
            async for item in followed:
                if isinstance(item, Gap):
                    await self._write(send, b": gap until %d\r\n\r\n" % item.position)
                elif self._wants(item):
                    await self._write(send, frame(item, with_id=self._with_ids))
        async with self._sending:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _wants(self, event: Event) -> bool:
        return self._modes is None or event.name in ALWAYS or mode_of(event.name) in self._modes

    async def _write(self, send: Send, data: bytes) -> None:
        self._silent = False
        async with self._sending:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _beat(self, send: Send) -> None:
        while True:
            await anyio.sleep(HEARTBEAT_S)
            if self._silent:
                await self._write(send, HEARTBEAT)
            self._silent = True

    async def _until_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()
        if self._on_disconnect is not None:
            with anyio.CancelScope(shield=True):
                await self._on_disconnect()
