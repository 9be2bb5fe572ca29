"""Streaming of a run's events as server-sent events (SSE), in the format that both official SDKs parse.

A comment after every few silent seconds keeps proxies from closing the connection. If the client disconnects, the
response notices at once. The caller decides whether that cancels the run. There is no `end` event
(docs/decisions/0008-end-of-stream.md).
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from typing import Any, ClassVar, Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.api.responses import until_gone
from threadkeep.base import json
from threadkeep.base.problems import Problem
from threadkeep.base.signals import ProcessSignals
from threadkeep.runs.event_log import Gap, LogItem
from threadkeep.runs.execution import Execution
from threadkeep.runs.failures import error_report
from threadkeep.runs.service import RunHandle
from threadkeep.runs.stream_events import is_public, mode_of
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
"""Seconds between heartbeats. The JS SDK treats three missing heartbeats as a lost connection."""
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
SHUTDOWN_RETRY: Final = b": the server is stopping\r\nretry: 1000\r\n"
"""It does not end with a blank line, because the SDKs would read that as an event without a name."""
SHUTDOWN_WRITE_S = 0.5
"""Seconds after the process stops in which a stream may still end by itself."""
SLOW_CHECK_S = 1.0
"""Seconds between two checks whether the client reads."""
UNFILTERED_EVENTS = frozenset({"metadata", "error"})
"""Events that are sent with every filter."""

HEADERS = {
    "cache-control": "no-store",
    # nginx would collect events before it sends them.
    "x-accel-buffering": "no",
    "content-type": "text/event-stream; charset=utf-8",
}


def encode_event(name: str, data: bytes, event_id: str = "") -> bytes:
    """Encode one event. `data` must be one line of JSON, because a line break would end the frame."""
    end = f"\r\nid: {event_id}\r\n\r\n" if event_id else "\r\n\r\n"
    return b"event: " + _line(name).encode() + b"\r\ndata: " + data + end.encode()


def _line(name: str) -> str:
    """Replace characters that could end a line. A name contains names of nodes, which the graph's author chooses."""
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


class StreamReader:
    """The position up to which a run's events have been sent to the client."""

    def __init__(self, execution: Execution | None, settings: Settings) -> None:
        self._execution = execution
        """None if another process executes the run, or if it has ended."""
        self._settings = settings
        self.position = 0

    @property
    def is_too_slow(self) -> bool:
        """Whether the run has more events after the client's position than it may leave unread."""
        events, size = self._settings.max_unsent_events, self._settings.max_unsent_bytes
        return self._execution is not None and self._execution.log.is_lagging(self.position, events=events, size=size)

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, as far as this process knows."""
        return self._execution is not None and self._execution.outcome is not None


async def run_frames(
    followed: AsyncGenerator[LogItem],
    *,
    with_ids: bool,
    modes: Collection[str] | None = None,
    reading: StreamReader | None = None,
) -> AsyncGenerator[bytes]:
    """Yield a run's events of `modes` as SSE frames. A gap is a comment. The position is recorded in `reading`."""
    async with aclosing(followed) as items:
        async for item in items:
            if reading is not None:
                reading.position = item.position
            if isinstance(item, Gap):
                yield b": gap until %d\r\n\r\n" % item.position
            elif not is_public(item.name):
                continue
            elif modes is None or item.name in UNFILTERED_EVENTS or mode_of(item.name) in modes:
                yield encode_event(item.name, item.data, str(item.position) if with_ids else "")


class EventStream(Response):
    """Sends frames until there are no more or the client disconnects.

    If the client does not read, the stream is closed after a timeout, or once too many events are unread. The run goes
    on.
    """

    heartbeat: ClassVar[bytes] = HEARTBEAT
    heartbeat_s: ClassVar[float] = HEARTBEAT_S
    shutdown_retry: ClassVar[bytes] = SHUTDOWN_RETRY

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        call: AuthorizedRequest[Any, Any],
        *,
        headers: dict[str, str],
        cancels: RunHandle | None = None,
        reading: StreamReader | None = None,
        render_error: Callable[[Problem], object] = error_report,
    ) -> None:
        super().__init__(headers=HEADERS | headers)
        # `Response` sets it for its empty body.
        del self.headers["content-length"]
        self._frames = frames
        self._call = call
        self._cancels = cancels
        """The run that is cancelled if the client disconnects."""
        self._reading = reading
        self._render_error = render_error
        """Converts a problem to the data of an `error` event."""
        self._sending = anyio.Lock()
        self._silent = True
        self._blocked_since: float | None = None
        """Monotonic time since which the current frame waits for the client to read, or None."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        signals, timeout_s = self._call.state.signals, self._call.state.settings.write_timeout_s
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as tasks:
            on_disconnect = self._cancel if self._cancels else None
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, on_disconnect)
            tasks.start_soon(self._beat, send)
            tasks.start_soon(self._cut_if_slow, timeout_s, tasks.cancel_scope)
            tasks.start_soon(self._leave, signals, send, tasks.cancel_scope)
            if self._call.caller.authenticator is not None:
                tasks.start_soon(self._refuse, send, tasks.cancel_scope)
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    await self._write(send, frame)
            if signals.leaving.is_set() and not (self._reading and self._reading.has_ended):
                # Without an end of the body, the client sees a lost connection and resumes at another process.
                await self._write(send, self.shutdown_retry)
            else:
                async with self._sending:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()

    async def _cancel(self) -> None:
        if self._cancels is not None:
            await self._cancels.cancel("the client disconnected")

    async def _write(self, send: Send, data: bytes) -> None:
        self._silent = False
        async with self._sending:
            self._blocked_since = time.monotonic()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._blocked_since = None

    async def _beat(self, send: Send) -> None:
        while True:
            await anyio.sleep(self.heartbeat_s)
            # A client that does not read would get the heartbeat only after the frame that it blocks.
            if self._silent and self._blocked_since is None:
                await self._write(send, self.heartbeat)
            self._silent = True

    async def _cut_if_slow(self, timeout_s: float, answering: anyio.CancelScope) -> None:
        """Close the stream of a slow client. It must be behind in two checks in a row, so that a burst does not count."""
        behind = 0
        while True:
            await anyio.sleep(SLOW_CHECK_S)
            since = self._blocked_since
            is_behind = since is not None and self._reading is not None and self._reading.is_too_slow
            behind = behind + 1 if is_behind else 0
            if behind >= 2 or (since is not None and time.monotonic() - since > timeout_s):
                log.warning("stream closed: its client did not read it")
                answering.cancel()

    async def _refuse(self, send: Send, answering: anyio.CancelScope) -> None:
        """End the stream with an `error` event once the caller's access is revoked."""
        problem = await self._until_refused()
        log.info("stream closed: its caller no longer has access")
        with anyio.move_on_after(SHUTDOWN_WRITE_S):
            await self._write(send, self._refusal(problem))
            async with self._sending:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        answering.cancel()
        # `answering.cancel()` has cancelled this task too.
        with anyio.CancelScope(shield=True):
            await self._cancel()

    async def _until_refused(self) -> Problem:
        """Wait until the caller's access is revoked, and return the problem."""
        return await self._call.caller.until_refused()

    def _refusal(self, problem: Problem) -> bytes:
        """Return the last event for a caller whose access is revoked."""
        return encode_event("error", json.dumps(self._render_error(problem)))

    async def _leave(self, signals: ProcessSignals, send: Send, answering: anyio.CancelScope) -> None:
        """End the stream when the process stops. Tell the client to reconnect, and leave the body without an end."""
        await signals.leaving.wait()
        await anyio.sleep(SHUTDOWN_WRITE_S)
        with anyio.move_on_after(SHUTDOWN_WRITE_S):
            await self._write(send, self.shutdown_retry)
        answering.cancel()
