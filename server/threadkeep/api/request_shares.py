"""Request shares: limit the expensive requests that this process answers at once, with a fair queue over principals
(backpressure).

The caller decides the cost of a search or of a large read. These requests therefore share a part of the connections and
of the memory for responses. Other requests stay fast, however many searches are running.
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
"""`search`: reads many rows on a connection of the API. `state`: may read and answer megabytes."""
Load: TypeAlias = Literal["light"] | HeavyLoad
MAX_WAITING: Final = 1000
"""Largest number of waiting requests of one load. Further requests get 503."""


class RequestShares:
    """The places of one process for requests of each load."""

    def __init__(self, settings: Settings, is_alone: Callable[[str], bool]) -> None:
        """`is_alone` tells whether a principal is the only one with requests."""
        self._settings = settings
        # The other half of the connections stays free for other requests.
        totals = {"search": settings.api_connections // 2, "state": settings.run_connections // 2}
        self._limiters = {
            load: FairLimiter(max(1, total), reserve=quarter(max(1, total)), max_waiting=MAX_WAITING, is_alone=is_alone)
            for load, total in totals.items()
        }

    async def answered(self, load: HeavyLoad, holder: str, answer: Callable[[], Awaitable[Response]]) -> Response:
        """Call `answer` with a place, which is held until the response is sent. Raise QueueFull if none is free in time."""
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
        except TimeoutError:  # the response is incomplete, so the server closes the connection
            log.warning("connection closed: the client did not read its response")
        finally:
            self._place.release()
