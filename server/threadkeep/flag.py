"""Flag: something that comes to be true once, and that some may wait for.

As `asyncio.Event`, but never cleared, and it costs next to nothing where nobody waits, as with most runs.
"""

import asyncio


class Flag:
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
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self) -> None:
        """Return when it is set."""
        if self._is_set:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        finally:
            self._waiting.remove(waiting)
