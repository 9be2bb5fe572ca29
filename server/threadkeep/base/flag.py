"""One-shot event: an event that is set once and never cleared.

It is like `asyncio.Event`, but costs almost nothing if no task waits for it, as with most runs.
"""

import asyncio


class OneShotEvent:
    """An event that stays set."""

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake all waiting tasks. A second call does nothing."""
        self._is_set = True
        # The list does not change during the loop, because a woken task runs only later.
        for waiting in self._waiting:
            _wake(waiting)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set and return True. Return False if that takes more than `timeout_s` seconds."""
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
        # A timeout sets the same future, so only the flag tells whether the event was set.
        return self._is_set


def _wake(waiting: asyncio.Future[None]) -> None:
    # A cancelled future stays in the list until its task runs again, and setting its result would raise.
    if not waiting.done():
        waiting.set_result(None)
