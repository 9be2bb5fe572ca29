"""Connections: uvicorn's HTTP and WebSocket protocols, with limits for requests.

uvicorn limits neither the head of a request nor the rest of a body that no endpoint reads. Both arrive before the caller
is authenticated, so the limits apply to every caller, and also to WebSocket handshakes.

- A head has a maximum size, number of lines and time. Beyond them the response is 431 or 408, and the connection is
  closed.
- The head of a response is sent together with the first part of its body. uvicorn makes a system call for each, and those
  calls are the most expensive part of a small response.
- A response such as 401 or 413 may be sent before the body has arrived. The rest of the body is then read and dropped,
  up to a size and a time. If the connection were closed at once, the client would see a reset instead of the response.
"""

import asyncio
import enum
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11

from threadkeep.api.body import HAS_BODY_ARRIVED
from threadkeep.base import json
from threadkeep.settings import Settings

log: Final = logging.getLogger("uvicorn.sockets")

DROPPED_BODY_BYTES: Final = 512 * 1024 * 1024
"""Bytes of a body that are read after the response. Then the connection is closed. The time is limited as well."""
DROPPED_HEAD_BYTES: Final = 64 * 1024
DROPPED_HEAD_S: Final = 1.0
"""The same limits after the refusal of a head, which is smaller."""
MAX_JOINED_BYTES: Final = 64 * 1024
"""A larger part of a body is written by itself, because joining copies it."""
PROBLEMS: Final = {400: "bad-request", 408: "head-timeout", 431: "head-too-large"}
"""Status -> `code` of the refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a request."""

    head_bytes: int
    head_lines: int
    head_timeout_s: float
    body_timeout_s: float


class Reading(enum.Enum):
    """The state of the parser."""

    BETWEEN = "between two requests"
    HEAD = "in a head"
    BODY = "in a body"
    REFUSED = "nowhere: nothing more is parsed"
    UPGRADED = "elsewhere: the connection is a WebSocket"


class HeadTooLarge(Exception):
    """Raised in a callback of the parser to stop it."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, bounded by `limits`."""

    limits: ClassVar[Limits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading = Reading.BETWEEN
        self._pending = 0
        """Bytes received since the last callback of the parser, or since the head began."""
        self._dropped = 0
        """Bytes received after the response to their request."""
        self._closes_after_body = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Close a connection that never sends anything like an idle one. uvicorn would keep it open."""
        self._answers = AnswerTransport(transport, self)
        super().connection_made(cast("asyncio.Transport", self._answers.joined))
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers. uvicorn keeps the keep-alive timer if the connection ended with an error."""
        self._cancel_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data. Refuse or drop it if it is above the limits."""
        if self._reading is Reading.REFUSED:
            self._drop(len(data), DROPPED_HEAD_BYTES)
            return
        self._pending += len(data)
        super().data_received(data)
        if self._is_over() or self.transport.is_closing():
            return
        if self._pending > self.limits.head_bytes:  # bytes of a head, a trailer or the extensions of a chunk
            self._refuse(431)
        elif self._reading is Reading.HEAD:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self.limits.head_timeout_s, self._refuse, 408)
        elif not self._is_answering():
            self._received_unasked(len(data))

    def _received_unasked(self, count: int) -> None:
        """Read the rest of a body whose response was sent, or empty lines before a head."""
        if self._reading is Reading.BODY:
            self._drop(count, DROPPED_BODY_BYTES)
        elif self.timeout_keep_alive_task is None:
            self._wait_for_request()

    def handle_websocket_upgrade(self) -> None:
        self._reading = Reading.UPGRADED
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        self._reading = Reading.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > self.limits.head_lines or (
            self._pending > self.limits.head_bytes and self._head_bytes() > self.limits.head_bytes
        ):
            raise HeadTooLarge
        self._reading = Reading.BODY
        self._pending = 0
        self._cancel_deadline()
        super().on_headers_complete()
        # After a response with `connection: close`, uvicorn closes the transport of the cycle at once.
        if (cycle := self._cycle) is not None:  # None: a WebSocket's handshake
            cycle.transport = cast("asyncio.Transport", self._answers)
            self._answers.joined.hold_next()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        cast("dict[str, Any]", self.scope)[HAS_BODY_ARRIVED] = True
        self._reading = Reading.BETWEEN
        self._pending = 0
        self._cancel_deadline()
        super().on_message_complete()
        if self._closes_after_body:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Limit the size and time of the rest of the request after its response was sent."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._reading is Reading.REFUSED:
            if is_last:
                self.transport.close()
        # The endpoint has answered without reading the body. The rest of it is read and dropped.
        elif self._reading is Reading.BODY and not self._is_answering():
            self._dropped = 0
            self._cancel_deadline()
            self._deadline = self.loop.call_later(self.limits.body_timeout_s, self.transport.close)

    def close_after_body(self) -> None:
        """Close the connection after the body has arrived. Otherwise the client would lose the response to a reset."""
        if self._reading is Reading.BODY:
            self._closes_after_body = True
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that the parser cannot read. uvicorn would write even into the response to an earlier request."""
        del msg
        too_large = self._reading is Reading.HEAD and (
            len(self.headers) > self.limits.head_lines or self._head_bytes() > self.limits.head_bytes
        )
        self._refuse(431 if too_large else 400)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, status: int) -> None:
        """Stop parsing, send a refusal, and close the connection.

        Responses to earlier requests are completed. In that case their end closes the connection without a refusal.
        """
        if self.transport.is_closing():
            return
        in_body, self._reading = self._reading is Reading.BODY, Reading.REFUSED
        self._dropped = 0
        self._cancel_deadline()
        if in_body and self.cycle.response_complete:
            self.transport.close()
        elif in_body and self.pipeline:
            self.pipeline.popleft()  # the refused request, which waits after the earlier ones
        elif in_body and not self.cycle.response_started:
            self.cycle.disconnected = True  # the endpoint waits for the rest of the body
            self.cycle.message_event.set()
            self._answer(status)
        elif not self._is_answering():
            self._answer(status)

    def _answer(self, status: int) -> None:
        detail = {
            400: "the request is malformed",
            408: f"the head of the request did not come within {self.limits.head_timeout_s:g} s",
            431: f"the head of the request has more than {self.limits.head_bytes} bytes or {self.limits.head_lines} lines",
        }[status]
        body = json.dumps({"detail": detail, "code": PROBLEMS[status]})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # The client can still read the response, and a close with unread bytes would send a reset.
        self.transport.write_eof()
        self._deadline = self.loop.call_later(DROPPED_HEAD_S, self.transport.close)
        self._drop(self._pending - self.limits.head_bytes, DROPPED_HEAD_BYTES)

    def _drop(self, count: int, limit: int) -> None:
        self._dropped += count
        if self._dropped > limit:
            self.transport.close()

    def _is_over(self) -> bool:
        return self._reading is Reading.REFUSED or self._reading is Reading.UPGRADED

    def _is_answering(self) -> bool:
        return self._cycle is not None and not self._cycle.response_complete

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The last request whose head was read, and its response."""
        return cast("RequestResponseCycle | None", self.cycle)

    def _wait_for_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class JoiningTransport:
    """A transport that joins the next write with the one after it, if that comes in the same round of the event loop."""

    __slots__ = ("_held", "_loop", "_next_is_held", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._next_is_held = False
        self._held = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)

    def hold_next(self) -> None:
        """Hold the next write back."""
        self._next_is_held = True

    def write(self, data: bytes) -> None:
        """Write `data` after everything that was held back."""
        if self._next_is_held:
            self._next_is_held = False
            self._held += data
            # The first part of a stream may come much later than its head, for which the client waits.
            self._loop.call_soon(self.flush)
            return
        if self._held and len(data) <= MAX_JOINED_BYTES:
            data, self._held = self._held + data, b""
        self.flush()
        self._transport.write(data)

    def flush(self) -> None:
        """Write everything that was held back."""
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close the connection after all writes."""
        self.flush()
        self._transport.close()


class AnswerTransport:
    """The transport of a response. Its `close` waits for the body of the request."""

    __slots__ = ("_protocol", "is_closing", "joined", "write")

    def __init__(self, transport: asyncio.Transport, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.joined = JoiningTransport(transport, protocol.loop)
        self.write = self.joined.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        """Close the connection after the whole request has arrived."""
        self._protocol.close_after_body()


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets. At shutdown, an open socket is closed by its endpoint, after the runs' grace period."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Turn off logs with secrets: uvicorn logs the query of each socket, and `websockets` all frames at `debug`."""
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = log
        self.conn.debug = False

    def data_received(self, data: bytes) -> None:
        """Answer a malformed handshake. uvicorn would leave the client waiting."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Complete a handshake that gets an HTTP response. uvicorn would log it as an error of the application."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Refuse sockets that are not open yet, because the listeners are closed."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()


def uvicorn_config(app: ASGIApp, settings: Settings, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration, with the connection limits of `settings`."""
    # uvicorn creates the protocol objects itself, so the limits are attributes of a class.
    limits = Limits(
        head_bytes=settings.head_bytes,
        head_lines=settings.head_lines,
        head_timeout_s=settings.head_timeout_s,
        body_timeout_s=settings.body_timeout_s,
    )
    bounded = type("BoundedHttpProtocol", (HttpProtocol,), {"limits": limits})
    _widen_handshakes(limits)
    return uvicorn.Config(
        app,
        http=bounded,
        ws=SocketProtocol,
        # A command on a socket has the limit of a body.
        ws_max_size=settings.max_body_bytes,
        # uvicorn would configure logging anew, and log each request a second time.
        log_config=None,
        access_log=False,
        server_header=False,
        **options,
    )


def _widen_handshakes(limits: Limits) -> None:
    """Allow WebSocket handshakes as large as any other head, because the limits of `websockets` are lower.

    They are constants of its module, which are normally set by environment variables.
    """
    http11.MAX_LINE_LENGTH = max(http11.MAX_LINE_LENGTH, limits.head_bytes)
    http11.MAX_NUM_HEADERS = max(http11.MAX_NUM_HEADERS, limits.head_lines)
