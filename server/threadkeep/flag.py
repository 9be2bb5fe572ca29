"""Flag: something that comes to be true once, and that some may wait for.

As `anyio.Event`, but it costs next to nothing where nobody waits, as with most runs: an event of anyio's first finds out
which event loop it is for.
"""

import anyio


class Flag:
    """False until it is set, for good."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake all who wait; a second call does nothing."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return when it is set."""
        if not self._is_set:
            self._event = self._event or anyio.Event()
            await self._event.wait()
