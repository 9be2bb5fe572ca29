"""Event log: the events of one run in the process that executes it.

A ring of the latest events, each already JSON, however many readers it has. A reader keeps a position of its own and
never slows the run down: one that falls behind the ring is told of the gap. The recorder is one of the readers
(`runs/event_recorder.py`). Readers in other processes read what it has written (`runs/follow.py`).
"""

from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import anyio

RING_EVENTS = 4096
RING_BYTES = 4 * 1024 * 1024
"""A run's ring holds no more than this. The oldest events go first."""
HURRY_EVENTS = 256
"""After so many events the recorder is not to wait for more."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of a run's stream. `position` counts from 1. `data` is one line of JSON."""

    position: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Events up to `position` are no longer there: the reader fell behind."""

    position: int


LogItem: TypeAlias = LogEvent | Gap


class Recording:
    """The events of a run are being written to Postgres."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        """All of them are written, or can't be."""
        self.hurry: anyio.Event | None = None
        """Set while the recorder waits for more events. Setting it ends the wait."""


class EventLog:
    """The events of one run. It is open, then sealed (no event comes any more), then closed (its readers may go)."""

    def __init__(self, *, is_wanted: bool, starts_after: int = 0) -> None:
        self.is_wanted = is_wanted
        """Somebody reads the events, or they are recorded. Until then none are made."""
        self.starts_after = starts_after
        """The position behind which its events begin. Those before are an earlier attempt's."""
        self.last_position = starts_after
        """The position of the newest event."""
        self.recording: Recording | None = None
        self.state: Literal["open", "sealed", "closed"] = "open"
        self._ring: deque[LogEvent] = deque()
        self._bytes = 0
        self._changed: anyio.Event | None = None
        """Set while a reader waits for the next event."""

    @property
    def is_crowded(self) -> bool:
        """The ring holds so much that the recorder should not wait."""
        return self._bytes > RING_BYTES // 2

    def append(self, name: str, data: bytes) -> LogEvent:
        """Add an event and wake the readers."""
        self.last_position += 1
        event = LogEvent(self.last_position, name, data)
        self._ring.append(event)
        self._bytes += len(data)
        while len(self._ring) > RING_EVENTS or (self._bytes > RING_BYTES and len(self._ring) > 1):
            self._bytes -= len(self._ring.popleft().data)
        if self.last_position % HURRY_EVENTS == 0 or self.is_crowded:
            self._hurry_recording()
        self._wake_readers()
        return event

    def seal(self) -> None:
        """No event comes any more. The recorder writes the rest."""
        self.state = "sealed"
        self._hurry_recording()
        self._wake_readers()

    def close(self) -> None:
        """Readers get what is left, and stop."""
        self.state = "closed"
        self._wake_readers()

    async def follow(self, after: int) -> AsyncGenerator[LogItem, None]:
        """Events behind position `after`, in order, until the log is closed. A gap is told, never passed over."""
        position = after
        while True:
            items = self.events_after(position)
            for item in items:
                position = item.position
                yield item
            if not items:
                if self.state == "closed":
                    return
                await self.wait_change()

    def events_after(self, position: int) -> list[LogItem]:
        """What the ring holds behind `position`, with a gap first if older events are gone."""
        if not self._ring or self.last_position <= position:
            return []
        oldest = self._ring[0].position
        items: list[LogItem] = []
        if oldest > position + 1:
            items.append(Gap(oldest - 1))
        fresh = min(len(self._ring), self.last_position - position)
        items.extend(self._ring[index] for index in range(len(self._ring) - fresh, len(self._ring)))
        return items

    def is_lagging(self, position: int, *, events: int, size: int) -> bool:
        """Whether more than `events` events or `size` bytes have come behind `position`."""
        count = self.last_position - position
        return count > events or sum(len(event.data) for event in list(self._ring)[-count:] if count) > size

    async def wait_change(self) -> None:
        """Wait until there is one more event, or the log is sealed or closed."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _hurry_recording(self) -> None:
        if self.recording is not None and self.recording.hurry is not None:
            self.recording.hurry.set()

    def _wake_readers(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
