"""Loopback: `langgraph_sdk.get_client()` without a URL, in a graph, reaches this server without a socket.

The request goes through the whole application, as one from outside does. It has the caller and the slot of the run whose
graph makes it (`runs/calling_run.py`), whatever headers the client sends.
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
"""Parts of an answer that may wait to be read."""

_servers: list["LoopbackServer"] = []
"""Those of this process, in the order in which they started. In production there is one."""


def install() -> None:
    """Make clients without a URL use this transport, in whatever order they and the server are made."""
    loose: Any = sdk
    loose.get_asgi_transport = lambda: LoopbackTransport


class LoopbackTransport(httpx.ASGITransport):
    """As httpx's, but the application is found at each request, and its answer is read while it is made."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer. ConnectError outside of a server."""
        if not _servers:
            raise httpx.ConnectError("get_client() without a URL works inside a running server only", request=request)
        return await _servers[-1].answer(request, calling_run.current())


@dataclass(slots=True, kw_only=True, eq=False)
class LoopbackServer:
    """An application, and where its requests are executed."""

    app: ASGIApp
    prefix: str
    tasks: TaskGroup
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Of no request and no graph."""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])

    async def answer(self, request: httpx.Request, run: CallingRun | None) -> httpx.Response:
        """The application's answer, from whatever event loop: a node that is a plain function may have one of its own."""
        body = await request.aread()
        if asyncio.get_running_loop() is self.loop:
            return await self._answer(request, body, run)
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
        self.context.copy().run(self.tasks.start_soon, exchange.run, self.app(scope, exchange.receive, exchange.send))
        try:
            await exchange.began.wait()
        except BaseException:
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
            "headers": [(b"host", b"localhost"), *headers],
            "server": ("localhost", None),
            "client": ("loopback", 0),
            "state": dict(self.state),
            CALLING_RUN: run,
        }


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer, between the task of the client and that of the application."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._put, self._parts = anyio.create_memory_object_stream[bytes](CHUNKS)
        self._over = anyio.Event()
        self.began = anyio.Event()
        self.left = anyio.Event()
        """The client reads no further."""
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def run(self, answering: Awaitable[None]) -> None:
        """Let the application answer. What it raises has been answered with a 500, and logged."""
        try:
            with self._put:
                await answering
        except Exception:  # noqa: BLE001, S110 - see above
            pass
        finally:
            self._over.set()
            self.began.set()

    async def receive(self) -> Message:
        """The body at once, and then nothing until the client leaves."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Hand a part of the answer to the client."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            self.began.set()
        elif message["type"] == "http.response.body" and message.get("body") and not self.left.is_set():
            try:
                await self._put.send(message["body"])
            except anyio.BrokenResourceError:
                self.left.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body. It ends when the application has done all that belongs to the request."""
        with self._parts:
            async for part in self._parts:
                yield part
            await self._over.wait()

    async def aclose(self) -> None:
        self.left.set()
        self._parts.close()


@asynccontextmanager
async def opened(app: ASGIApp, prefix: str) -> AsyncGenerator[LoopbackServer]:
    """Answer requests from within while the block runs. The caller sets `state` when it is open."""
    install()
    async with anyio.create_task_group() as tasks:
        server = LoopbackServer(app=app, prefix=prefix, tasks=tasks)
        _servers.append(server)
        try:
            yield server
        finally:
            _servers.remove(server)
            tasks.cancel_scope.cancel()
