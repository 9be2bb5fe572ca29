"""Shares: what a request takes of its principal's quotas, from its first line to the end of its answer."""

from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Held(Response):
    """An answer that counts until it has been sent."""

    def __init__(self, answer: Response, held: ExitStack) -> None:
        self._answer = answer
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await self._answer(scope, receive, send)
