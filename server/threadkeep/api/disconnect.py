"""Disconnect: what becomes of an answer, and of its run, when the client goes away before it is whole."""

from collections.abc import Awaitable, Callable

import anyio
from starlette.types import Receive


async def until_gone(
    receive: Receive, answering: anyio.CancelScope, on_disconnect: Callable[[], Awaitable[None]] | None
) -> None:
    """Wait until the client has gone; then stop `answering`, and do what is to be done of it, undisturbed."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()
    if on_disconnect is not None:
        with anyio.CancelScope(shield=True):
            await on_disconnect()
