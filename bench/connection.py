"""One keep-alive HTTP connection without an HTTP library. On two cores a slow client would be measured instead of the server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

HEAD_END = b"\r\n\r\n"
CHUNKS_END = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Sends a request, and gives its whole answer, or the answer's bytes as they come."""

    def __init__(self, key: str | None = None) -> None:
        self._key = f"x-api-key: {key}\r\n" if key else ""
        self._received = bytearray()
        self._woken = asyncio.Event()
        self._closed = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._woken.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._closed = True
        self._woken.set()

    async def post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer with its chunk headers. Raise RuntimeError if the status is not 200."""
        self._send(path, body)
        head = await self._head()
        # None: the answer comes in chunks, and ends with one of length 0.
        length = next((int(line[15:]) for line in head if line.startswith("content-length:")), None)
        while not self._complete(length):
            await self._more()
        # The chunk headers stay in it. The callers only look for a text.
        content, self._received = bytes(self._received), bytearray()
        if " 200 " not in head[0]:
            raise RuntimeError(f"{path}: {head[0]}: {content[:300]!r}")
        return content

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[bytes]:
        """Yield the pieces of the answer until its end. Raise RuntimeError if the status is not 200."""
        self._send(path, body)
        head = await self._head()
        if " 200 " not in head[0]:
            raise RuntimeError(f"{path}: {head[0]}")
        tail = b""
        while True:
            part, self._received = bytes(self._received), bytearray()
            if part:
                yield part
            # Kept over the pieces, because the end of the answer may arrive in two of them.
            tail = (tail + part)[-len(CHUNKS_END) :]
            if tail == CHUNKS_END:
                return
            if not self._received:
                await self._more()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, path: str, body: bytes) -> None:
        if self._transport is None:
            raise RuntimeError("not connected")
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{self._key}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)

    async def _head(self) -> list[str]:
        while (end := self._received.find(HEAD_END)) < 0:
            await self._more()
        # Lower case, because header names may have any.
        head = self._received[:end].decode().lower().split("\r\n")
        del self._received[: end + 4]
        return head

    def _complete(self, length: int | None) -> bool:
        return self._received.endswith(CHUNKS_END) if length is None else len(self._received) >= length

    async def _more(self) -> None:
        if self._closed:
            raise RuntimeError("the server hung up")
        # No data is lost between the two lines, because nothing else runs before the `await`.
        self._woken.clear()
        await self._woken.wait()


@asynccontextmanager
async def connected(port: int, key: str | None = None) -> AsyncGenerator[Connection]:
    """A connection to a server on loopback, whose requests show `key`."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(key), "127.0.0.1", port)
    try:
        yield connection
    finally:
        connection.close()


def dumped(value: object) -> bytes:
    """`value` as JSON."""
    return json.dumps(value).encode()
