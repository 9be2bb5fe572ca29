"""Responses: JSON with the headers that clients read, and the response that waits for a run."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.auth.caller import Caller
from threadkeep.base import json
from threadkeep.base.problems import Problem, ServiceUnavailable, TransactionConflict
from threadkeep.postgres.retry import CONFLICTS, TRANSIENT_ERRORS
from threadkeep.runs.failures import error_report
from threadkeep.runs.quotas import Counted
from threadkeep.runs.service import RunHandle

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
SOON_S = 0.25
"""Seconds within which most runs end. The response checks for a disconnected client only after it."""
LEAVE_S = 0.5
"""Seconds after the process stops in which a result that is ready is still sent."""

PART_BYTES: Final = 256 * 1024
"""Largest number of bytes that are passed to the connection at once."""


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with `value` as JSON."""
    return encoded_json_response(json.dumps(value), status, headers)


def encoded_json_response(encoded: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with JSON that is already encoded."""
    return Response(encoded, status, headers, media_type="application/json")


class PiecesResponse(Response):
    """JSON in pieces, sent as fast as the client reads them, so that the connection never buffers it all."""

    def __init__(self, pieces: Iterable[bytes], headers: dict[str, str]) -> None:
        self._pieces = list(pieces)
        length = sum(len(piece) for piece in self._pieces)
        super().__init__(None, 200, {**headers, "content-length": str(length)}, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for part in self._parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _parts(self) -> Iterator[bytes]:
        """Yield the pieces in parts of about `PART_BYTES`, and free them as they are sent."""
        part = bytearray()
        # Each piece is popped from the end, which frees it at once.
        self._pieces.reverse()
        while self._pieces:
            piece = self._pieces.pop()
            for start in range(0, len(piece), PART_BYTES):
                part += piece[start : start + PART_BYTES]
                if len(part) >= PART_BYTES:
                    yield bytes(part)
                    part.clear()
        if part:
            yield bytes(part)


def json_list(items: Iterable[bytes], headers: dict[str, str] | None = None) -> Response:
    """Return a response with a list of items that are already JSON."""
    return json_pieces(joined(items), headers)


def joined(items: Iterable[bytes]) -> list[bytes]:
    """Return the pieces of a JSON list of `items`."""
    pieces = [b"["]
    for item in items:
        pieces += [item, b","]
    pieces[-1:] = [b"]"] if len(pieces) > 1 else [b"[", b"]"]
    return pieces


def json_pieces(pieces: Sequence[bytes], headers: dict[str, str] | None = None) -> Response:
    """Return a response with JSON that is already encoded, in pieces."""
    if sum(len(piece) for piece in pieces) <= PART_BYTES:
        return encoded_json_response(b"".join(pieces), headers=headers)
    return PiecesResponse(pieces, headers or {})


def no_content_response() -> Response:
    """Return 204. With any other status the JS SDK would read a body."""
    return Response(status_code=204)


def run_headers(thread_id: UUID, run_id: UUID, follow: str | None = None) -> dict[str, str]:
    """Return the headers with the run's path, and with the path to rejoin it if `follow` is `stream` or `join`.

    They are paths, because the Python SDK refuses another origin and the JS SDK appends them to its base URL.
    """
    location = f"/threads/{thread_id}/runs/{run_id}"
    headers = {"content-location": location}
    if follow:
        headers["location"] = f"{location}/{follow}"
    return headers


class CountedResponse(Response):
    """A response that counts against its principal's quota until it has been sent."""

    def __init__(self, response: Response, counted: Counted) -> None:
        self._response = response
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await self._response(scope, receive, send)


class RunResult(Response):
    """Waits for a run's result and sends it.

    A result within HEARTBEAT_S seconds is a plain response with its length and status. After that the head is sent with
    status 200, and then a newline every few seconds, so that proxies do not close the connection. JSON allows newlines
    before a value. A later error is sent as `__error__`, as the clients expect.
    """

    def __init__(self, handle: RunHandle, caller: Caller, *, headers: dict[str, str], cancels: bool = False) -> None:
        self._handle = handle
        self._caller = caller
        self._headers = headers
        self._cancels = cancels
        """Whether the run is cancelled if the client disconnects."""
        self._body: bytes | Problem = b""
        self._has_begun = False
        """Whether the head has been sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Most runs end soon. They are answered without the cost of a task group.
        if (answer := await self._early_answer()) is not None:
            await encoded_json_response(answer, headers=self._headers)(scope, receive, send)
            return
        self._ready = anyio.Event()
        on_disconnect = self._cancel if self._cancels else None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_gone, receive, tasks.cancel_scope, on_disconnect)
            tasks.start_soon(self._settle_with, self._find)
            # The result, the end of the process and a revoked access may coincide. The first one is the answer.
            tasks.start_soon(self._give_up)
            tasks.start_soon(self._refuse)
            with anyio.move_on_after(HEARTBEAT_S):
                await self._ready.wait()
            if not self._ready.is_set():
                await self._settle_with(self._handle.confirm)  # a client that gets the head may rely on the run
            if not self._ready.is_set():
                await self._beat(send)
            elif isinstance(self._body, bytes):
                await encoded_json_response(self._body, headers=self._headers)(scope, receive, send)
            tasks.cancel_scope.cancel()
        # Nothing was sent, so the surface renders the problem with its own status.
        if isinstance(self._body, Problem) and not self._has_begun:
            raise self._body

    async def _early_answer(self) -> bytes | None:
        """Return the answer of a run that ends soon. None: it takes longer."""
        execution = self._handle.execution
        outcome = None if execution is None else await execution.wait_result(SOON_S)
        return None if outcome is None else outcome.answer

    async def _answer(self) -> bytes:
        """Wait for the answer."""
        return await self._handle.result()

    def _late_problem(self, problem: Problem) -> bytes:
        """Return a problem as the body, after the head has been sent."""
        return json.dumps({"__error__": error_report(problem)})

    async def _cancel(self) -> None:
        await self._handle.cancel("the client disconnected")

    async def _find(self) -> None:
        self._settle(await self._answer())

    async def _settle_with(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`. If it raises an expected exception, answer with its problem."""
        try:
            await work()
        except Problem as problem:
            self._settle(problem)
        except CONFLICTS:
            self._settle(TransactionConflict())
        except TRANSIENT_ERRORS:
            log.warning("response ended: the database connection was lost", exc_info=True)
            self._settle(ServiceUnavailable())

    async def _give_up(self) -> None:
        """Answer 503 when the process stops, even if another process still executes the run."""
        await self._handle.follower.signals.leaving.wait()
        await anyio.sleep(LEAVE_S)
        self._settle(ServiceUnavailable("the server is stopping"))

    async def _refuse(self) -> None:
        """Answer with a problem once the caller's access is revoked."""
        problem = await self._caller.until_refused()
        log.info("response withheld: its caller no longer has access")
        self._settle(problem)
        if self._cancels:
            await self._cancel()

    def _settle(self, body: bytes | Problem) -> None:
        if not self._ready.is_set():
            self._body = body
            self._ready.set()

    async def _beat(self, send: Send) -> None:
        self._has_begun = True
        head = encoded_json_response(b"", headers=self._headers)
        # The length is not known yet.
        del head.headers["content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": head.raw_headers})
        while not self._ready.is_set():
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            with anyio.move_on_after(HEARTBEAT_S):
                await self._ready.wait()
        body = self._body
        encoded = body if isinstance(body, bytes) else self._late_problem(body)
        await send({"type": "http.response.body", "body": encoded, "more_body": False})


async def until_gone(
    receive: Receive, answering: anyio.CancelScope, on_disconnect: Callable[[], Awaitable[None]] | None
) -> None:
    """Wait until the client disconnects. Then cancel `answering` and call `on_disconnect`, shielded from cancellation."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()
    if on_disconnect is not None:
        with anyio.CancelScope(shield=True):
            await on_disconnect()
