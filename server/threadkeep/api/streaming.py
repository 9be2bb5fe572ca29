"""SSE: a run's events as `text/event-stream`, by the rules that both official SDKs parse by.

A comment every few seconds of silence keeps proxies from hanging up. The response notices at once that the client
has gone; what then happens to the run is the caller's choice. No `end` event: docs/decisions/0008-end-of-stream.md
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
from threadkeep.runs.stream_events import mode_of
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
"""Between heartbeats: the JS SDK takes three of these as a lost connection."""
HEARTBEAT: Final = b": heartbeat\r\n\r\n"
SHUTDOWN_RETRY: Final = b": the server is stopping\r\nretry: 1000\r\n"
"""No blank line ends it: the SDKs would take that for an event without a name."""
SHUTDOWN_WRITE_S = 0.5
"""What is about to end when the process leaves still ends by itself."""
SLOW_CHECK_S = 1.0
"""Between two looks at whether the client reads."""
UNFILTERED_EVENTS = frozenset({"metadata", "error"})
"""Events that no filter holds back."""

HEADERS = {
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "content-type": "text/event-stream; charset=utf-8",
}


def encode_event(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event on the wire. Its data is one line of JSON, so that nothing in it can end the frame."""
    end = f"\r\nid: {event_id}\r\n\r\n" if event_id else "\r\n\r\n"
    return b"event: " + _line(name).encode() + b"\r\ndata: " + data + end.encode()


def _line(name: str) -> str:
    """A name that ends no line: it holds names of nodes, which are the graph author's."""
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)


class StreamReader:
    """How far the client of a run's stream has come."""

    def __init__(self, execution: Execution | None, settings: Settings) -> None:
        self._execution = execution
        """None: the run is executed in another process, or has ended."""
        self._settings = settings
        self.position = 0

    @property
    def is_too_slow(self) -> bool:
        """Whether the run has gone on for more than the client may leave unread."""
        events, size = self._settings.max_unsent_events, self._settings.max_unsent_bytes
        return self._execution is not None and self._execution.log.is_lagging(self.position, events=events, size=size)

    @property
    def has_ended(self) -> bool:
        """Whether the run is known to have ended."""
        return self._execution is not None and self._execution.outcome is not None


async def run_frames(
    followed: AsyncGenerator[LogItem],
    *,
    with_ids: bool,
    modes: Collection[str] | None = None,
    reading: StreamReader | None = None,
) -> AsyncGenerator[bytes]:
    """A run's events as they are sent, those of `modes` alone; a gap is a comment. `reading` is told how far it is."""
    async with aclosing(followed) as items:
        async for item in items:
            if reading is not None:
                reading.position = item.position
            if isinstance(item, Gap):
                yield b": gap until %d\r\n\r\n" % item.position
            elif modes is None or item.name in UNFILTERED_EVENTS or mode_of(item.name) in modes:
                yield encode_event(item.name, item.data, str(item.position) if with_ids else "")


class EventStream(Response):
    """Sends frames as they come, until there are no more or the client has gone.

    A client that does not read is cut: after a time, or as soon as its run has gone on for too much. Its run goes on.
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
        del self.headers["content-length"]
        self._frames = frames
        self._call = call
        self._cancels = cancels
        """The run that is cancelled if the client goes away."""
        self._reading = reading
        self._render_error = render_error
        """A problem as the data of an `error` event."""
        self._sending = anyio.Lock()
        self._silent = True
        self._blocked_since: float | None = None
        """Monotonic: since when the frame that is being sent waits for the client to read."""

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
            if self._silent and self._blocked_since is None:
                await self._write(send, self.heartbeat)
            self._silent = True

    async def _cut_if_slow(self, timeout_s: float, answering: anyio.CancelScope) -> None:
        """Twice in a row, so that a burst that is on its way to a quick client is none."""
        behind = 0
        while True:
            await anyio.sleep(SLOW_CHECK_S)
            since = self._blocked_since
            is_behind = since is not None and self._reading is not None and self._reading.is_too_slow
            behind = behind + 1 if is_behind else 0
            if behind >= 2 or (since is not None and time.monotonic() - since > timeout_s):
                log.warning("a client did not read its stream and was cut")
                answering.cancel()

    async def _refuse(self, send: Send, answering: anyio.CancelScope) -> None:
        """End the stream of a caller who is no longer let in, with an `error` event if the client reads it."""
        problem = await self._until_refused()
        log.info("a stream was closed: its caller is no longer let in")
        with anyio.move_on_after(SHUTDOWN_WRITE_S):
            await self._write(send, self._refusal(problem))
            async with self._sending:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        answering.cancel()
        with anyio.CancelScope(shield=True):
            await self._cancel()

    async def _until_refused(self) -> Problem:
        """Wait until the caller would no longer be let in, and return why."""
        return await self._call.caller.until_refused()

    def _refusal(self, problem: Problem) -> bytes:
        """The last event for a caller who is no longer let in."""
        return encode_event("error", json.dumps(self._render_error(problem)))

    async def _leave(self, signals: ProcessSignals, send: Send, answering: anyio.CancelScope) -> None:
        """The process stops: say when to come again, and end without an end, so that the client does not take it for one."""
        await signals.leaving.wait()
        await anyio.sleep(SHUTDOWN_WRITE_S)
        with anyio.move_on_after(SHUTDOWN_WRITE_S):
            await self._write(send, self.shutdown_retry)
        answering.cancel()
