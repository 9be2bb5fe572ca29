"""Flag: something that comes to be true once, and that some may wait for.

As `asyncio.Event`, but never cleared, and it costs next to nothing where nobody waits, as with most runs.
"""

import asyncio


class OneShotEvent:
    """False until it is set, for good."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake all who wait; a second call does nothing."""
        self._is_set = True
        for waiting in self._waiting:
            _wake(waiting)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Return when it is set, or False when it is not within `timeout_s`."""
        if self._is_set:
            return True
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        late = None if timeout_s is None else loop.call_later(timeout_s, _wake, waiting)
        self._waiting.append(waiting)
        try:
            await waiting
        finally:
            self._waiting.remove(waiting)
            if late is not None:
                late.cancel()
        return self._is_set


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
