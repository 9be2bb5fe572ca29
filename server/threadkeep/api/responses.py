"""Answers: responses, with the headers that the clients read."""

from typing import Any
from uuid import UUID

from starlette.responses import Response

from threadkeep.base import json


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return raw_json(json.dumps(value), status, headers)


def raw_json(encoded: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that is there already."""
    return Response(encoded, status, headers, media_type="application/json")


def no_content() -> Response:
    """Done, and nothing to say: 204, for the JS SDK reads a body on every other status."""
    return Response(status_code=204)


def page(items: list[Any], total: int, offset: int) -> Response:
    """A listing, with `x-pagination-total` (of all that match) and, where there is more, `x-pagination-next`."""
    headers = {"x-pagination-total": str(total)}
    if offset + len(items) < total and items:
        headers["x-pagination-next"] = str(offset + len(items))
    return json_answer(items, headers=headers)


def run_headers(thread_id: UUID, run_id: UUID, follow: str | None = None) -> dict[str, str]:
    """Where the run is, and, with `follow` (`stream`, `join`), where a client that lost it finds it again.

    Paths, for the Python SDK refuses another origin and the JS SDK appends them to its own.
    """
    location = f"/threads/{thread_id}/runs/{run_id}"
    headers = {"content-location": location}
    if follow:
        headers["location"] = f"{location}/{follow}"
    return headers
