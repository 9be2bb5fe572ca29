"""SSE: a run's events as `text/event-stream`, by the rules that both official SDKs parse by.

A comment every few seconds of silence keeps proxies from hanging up. The response notices at once that the client
has gone; what then happens to the run is the caller's choice. No `end` event: docs/decisions/0008-end-of-stream.md
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.disconnect import until_gone
from threadkeep.engine.live import Followed, Gap
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


def encode(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event on the wire. Its data is one line of JSON, so that nothing in it can end the frame."""
    end = f"\r\nid: {event_id}\r\n\r\n" if event_id else "\r\n\r\n"
    return b"event: " + name.encode() + b"\r\ndata: " + data + end.encode()


async def run_frames(
    followed: AsyncGenerator[Followed], *, with_ids: bool, modes: Collection[str] | None = None
) -> AsyncGenerator[bytes]:
    """A run's events as they are sent, those of `modes` alone; a gap is a comment."""
    async with aclosing(followed) as items:
        async for item in items:
            if isinstance(item, Gap):
                yield b": gap until %d\r\n\r\n" % item.position
            elif modes is None or item.name in ALWAYS or mode_of(item.name) in modes:
                yield encode(item.name, item.data, str(item.position) if with_ids else "")


class EventStream(Response):
    """Sends frames as they come, until there are no more or the client has gone."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        headers: dict[str, str],
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(headers=HEADERS | headers)
        del self.headers["content-length"]
        self._frames = frames
        self._on_disconnect = on_disconnect
        self._sending = anyio.Lock()
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, self._on_disconnect)
            tasks.start_soon(self._beat, send)
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    await self._write(send, frame)
            async with self._sending:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()

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
