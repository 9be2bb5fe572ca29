"""Loopback: in a graph, `langgraph_sdk.get_client()` without a URL reaches this server without a network socket.

A request passes through the whole application, like one from outside. It has the caller and the slot of the run whose
graph sends it (`runs/calling_run.py`), even if its headers say otherwise.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import anyio
import httpx
import langgraph_sdk._async.client as sdk
from anyio.abc import TaskGroup
from starlette.types import ASGIApp, Message, Scope

from threadkeep.runs import calling_run
from threadkeep.runs.calling_run import CALLING_RUN, CallingRun

CHUNKS: Final = 16
"""Largest number of parts of a response that wait to be read."""

_servers: list["LoopbackServer"] = []
"""The servers of this process, in the order of their start. In production there is one."""


def install() -> None:
    """Make clients without a URL use this transport, whether they are created before or after the server."""
    loose: Any = sdk
    # The SDK calls this function for each client, so a client of the module level gets the transport too.
    loose.get_asgi_transport = lambda: LoopbackTransport


class LoopbackTransport(httpx.ASGITransport):
    """Like httpx's transport, but it looks up the application at each request and streams the response."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the server's response. Raise ConnectError if no server runs in this process."""
        if not _servers:
            raise httpx.ConnectError("get_client() without a URL works inside a running server only", request=request)
        return await _servers[-1].answer(request, calling_run.current())


@dataclass(slots=True, kw_only=True, eq=False)
class LoopbackServer:
    """An application, with the event loop and task group in which its requests are executed."""

    app: ASGIApp
    prefix: str
    tasks: TaskGroup
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """A context without variables of a request or a graph."""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def answer(self, request: httpx.Request, run: CallingRun | None) -> httpx.Response:
        """Return the application's response. It may be called in any event loop, because a sync node may run its own."""
        # Before the change of loops, because a streamed body belongs to the loop of the graph.
        body = await request.aread()
        if asyncio.get_running_loop() is self.loop:
            return await self._answer(request, body, run)
        # A stream cannot cross loops, so the response is read to its end first.
        buffered = asyncio.run_coroutine_threadsafe(self._buffered(request, body, run), self.loop)
        return await asyncio.wrap_future(buffered)

    async def _buffered(self, request: httpx.Request, body: bytes, run: CallingRun | None) -> httpx.Response:
        response = await self._answer(request, body, run)
        content = b"".join([part async for part in cast("httpx.AsyncByteStream", response.stream)])
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-length"]
        return httpx.Response(response.status_code, headers=headers, stream=httpx.ByteStream(content))

    async def _answer(self, request: httpx.Request, body: bytes, run: CallingRun | None) -> httpx.Response:
        exchange = _Exchange(body)
        scope = self._scope(request, run)
        # A new task inherits the current context. That of the graph has the variables of its run.
        self.context.copy().run(self.tasks.start_soon, exchange.run, self.app(scope, exchange.receive, exchange.send))
        try:
            await exchange.began.wait()
        except BaseException:
            # The graph was cancelled. The application sees a client that has disconnected.
            exchange.left.set()
            raise
        if exchange.status is None:
            raise httpx.ReadError("the server gave no answer", request=request)
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange)

    def _scope(self, request: httpx.Request, run: CallingRun | None) -> Scope:
        headers = [(name.lower(), value) for name, value in request.headers.raw if name.lower() != b"host"]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": self.prefix + request.url.path,
            "raw_path": self.prefix.encode() + request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            # The guard against DNS rebinding accepts this name in every configuration.
            "headers": [(b"host", b"localhost"), *headers],
            "server": ("localhost", None),
            "client": ("loopback", 0),
            "state": dict(self.state),
            CALLING_RUN: run,
        }


class _Exchange(httpx.AsyncByteStream):
    """One request and its response, exchanged between the client's task and the application's task."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._put, self._parts = anyio.create_memory_object_stream[bytes](CHUNKS)
        self._over = anyio.Event()
        self.began = anyio.Event()
        self.left = anyio.Event()
        """Set when the client stops reading."""
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def run(self, answering: Awaitable[None]) -> None:
        """Run the application. `RequestMiddleware` has already logged an exception and answered 500."""
        try:
            # Its end is the end of the body for the reader.
            with self._put:
                await answering
        except Exception:  # noqa: BLE001, S110 - see above
            pass
        finally:
            self._over.set()
            self.began.set()

    async def receive(self) -> Message:
        """Return the body once, and then wait until the client stops reading."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass a part of the response to the client."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            self.began.set()
        elif message["type"] == "http.response.body" and message.get("body") and not self.left.is_set():
            try:
                await self._put.send(message["body"])
            except anyio.BrokenResourceError:
                self.left.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body. It ends after the application has finished the request."""
        with self._parts:
            async for part in self._parts:
                yield part
            await self._over.wait()

    async def aclose(self) -> None:
        self.left.set()
        self._parts.close()


@asynccontextmanager
async def opened(app: ASGIApp, prefix: str) -> AsyncGenerator[LoopbackServer]:
    """Answer requests from graphs while the block runs. The caller sets `state` after the start."""
    install()
    async with anyio.create_task_group() as tasks:
        server = LoopbackServer(app=app, prefix=prefix, tasks=tasks)
        _servers.append(server)
        try:
            yield server
        finally:
            _servers.remove(server)
            tasks.cancel_scope.cancel()
