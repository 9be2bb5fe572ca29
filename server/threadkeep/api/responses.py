"""Answers: responses, with the headers that the clients read."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from uuid import UUID

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from threadkeep.base import json

PART_BYTES: Final = 256 * 1024
"""What is handed to the connection at once."""


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return raw_json(json.dumps(value), status, headers)


def raw_json(encoded: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that is there already."""
    return Response(encoded, status, headers, media_type="application/json")


class PiecesResponse(Response):
    """JSON in pieces, sent as the client reads them: the connection's buffer never holds it all."""

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
        """The pieces in parts of about `PART_BYTES`. What was sent is let go of."""
        part = bytearray()
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
    """A list of items that are JSON already."""
    return json_pieces(joined(items), headers)


def joined(items: Iterable[bytes]) -> list[bytes]:
    """The pieces of a JSON list of `items`."""
    pieces = [b"["]
    for item in items:
        pieces += [item, b","]
    pieces[-1:] = [b"]"] if len(pieces) > 1 else [b"[", b"]"]
    return pieces


def json_pieces(pieces: Sequence[bytes], headers: dict[str, str] | None = None) -> Response:
    """JSON that is there already, in pieces."""
    if sum(len(piece) for piece in pieces) <= PART_BYTES:
        return raw_json(b"".join(pieces), headers=headers)
    return PiecesResponse(pieces, headers or {})


def no_content() -> Response:
    """Done, and nothing to say: 204, for the JS SDK reads a body on every other status."""
    return Response(status_code=204)


def run_headers(thread_id: UUID, run_id: UUID, follow: str | None = None) -> dict[str, str]:
    """Where the run is, and, with `follow` (`stream`, `join`), where a client that lost it finds it again.

    Paths, for the Python SDK refuses another origin and the JS SDK appends them to its own.
    """
    location = f"/threads/{thread_id}/runs/{run_id}"
    headers = {"content-location": location}
    if follow:
        headers["location"] = f"{location}/{follow}"
    return headers
