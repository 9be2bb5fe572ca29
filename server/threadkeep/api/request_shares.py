"""Request shares: how many expensive requests are answered at once in this process, fairly over principals.

The cost of a search or of a large read follows from what the caller asks for. So these requests get a part of the
connections, and of the memory for answers, and no more: other requests stay quick, whoever searches.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from threadkeep.base.fair_limiter import FairLimiter, Place, quarter
from threadkeep.settings import Settings

log = logging.getLogger(__name__)

HeavyLoad: TypeAlias = Literal["search", "state"]
"""`search`: it looks through many rows, on a connection of the API. `state`: it may read and answer megabytes."""
Load: TypeAlias = Literal["light"] | HeavyLoad
MAX_WAITING: Final = 1000
"""Requests of one load that wait for a place. One more is answered 503."""


class RequestShares:
    """The places of one process for the requests of each load."""

    def __init__(self, settings: Settings, is_alone: Callable[[str], bool]) -> None:
        """`is_alone`: whether a principal has the server to itself."""
        self._settings = settings
        totals = {"search": settings.api_connections // 2, "state": settings.run_connections // 2}
        self._limiters = {
            load: FairLimiter(max(1, total), reserve=quarter(max(1, total)), max_waiting=MAX_WAITING, is_alone=is_alone)
            for load, total in totals.items()
        }

    async def answered(self, load: HeavyLoad, holder: str, answer: Callable[[], Awaitable[Response]]) -> Response:
        """The response of a request, which has its place until it is sent. Overloaded after a long wait for the place."""
        place = await self._limiters[load].acquire_within(holder, self._settings.queue_timeout_s)
        try:
            response = await answer()
        except BaseException:
            place.release()
            raise
        return HeldResponse(response, place, self._settings.write_timeout_s)


class HeldResponse(Response):
    """A response that holds its place until it has been sent, or until its client reads nothing for `write_s` seconds."""

    def __init__(self, response: Response, place: Place, write_s: float) -> None:
        self._response = response
        self._place = place
        self._write_s = write_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(self._write_s):
                await send(message)

        try:
            await self._response(scope, receive, send_in_time)
        except TimeoutError:  # the connection is closed, because the response has no end
            log.warning("a client did not read its answer and was cut")
        finally:
            self._place.release()
