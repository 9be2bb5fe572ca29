"""Event log: the events of one run in the process that executes it, for live and resumable streams.

The log is a ring of the latest events, stored as JSON and shared by all readers. Each reader has its own position and
never slows the run down. A reader that falls behind the ring gets a gap. The recorder (`runs/event_recorder.py`) is one
of the readers. Readers in other processes read the events that it has written (`runs/follow.py`).
"""

from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import anyio

RING_EVENTS = 4096
RING_BYTES = 4 * 1024 * 1024
"""The most bytes in the ring of one run. The oldest events are dropped first."""
BATCH_EVENTS = 256
"""After this many events the recorder writes at once, and readers in batches read."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of a run's stream. `position` counts from 1. `data` is one line of JSON."""

    position: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Events up to `position` are no longer available, because the reader fell behind."""

    position: int


LogItem: TypeAlias = LogEvent | Gap


class Recording:
    """The events of a run are being written to Postgres."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        """Set when all events are written, or writing them has failed."""
        self.hurry: anyio.Event | None = None
        """Set while the recorder waits for more events. Setting it ends the wait."""


class EventLog:
    """The events of one run. It is open, then sealed (no event is added), then closed (the readers stop)."""

    def __init__(self, *, is_wanted: bool, starts_after: int = 0) -> None:
        self.is_wanted = is_wanted
        """The events have a reader or are recorded. If not, the run adds none."""
        self.starts_after = starts_after
        """The position before its first event. Events up to it belong to an earlier attempt."""
        self.last_position = starts_after
        """The position of the newest event."""
        self.recording: Recording | None = None
        self.state: Literal["open", "sealed", "closed"] = "open"
        self._ring: deque[LogEvent] = deque()
        self._bytes = 0
        self._changed: anyio.Event | None = None
        """Set while a reader waits for the next event."""
        self._batch_ready: anyio.Event | None = None
        """Set while a reader waits for a batch of events."""

    @property
    def is_crowded(self) -> bool:
        """The ring is so full that the recorder should not wait."""
        return self._bytes > RING_BYTES // 2

    def append(self, name: str, data: bytes) -> LogEvent:
        """Add an event and wake the readers."""
        self.last_position += 1
        event = LogEvent(self.last_position, name, data)
        self._ring.append(event)
        self._bytes += len(data)
        # The newest event stays even if it alone is above the limit. Otherwise no reader would ever get it.
        while len(self._ring) > RING_EVENTS or (self._bytes > RING_BYTES and len(self._ring) > 1):
            self._bytes -= len(self._ring.popleft().data)
        if self.last_position % BATCH_EVENTS == 0 or self.is_crowded:
            self._hurry_recording()
            self._wake_batch_readers()
        self._wake_readers()
        return event

    def seal(self) -> None:
        """Accept no more events. The recorder writes the rest."""
        self.state = "sealed"
        self._hurry_recording()
        self._wake_readers()

    def close(self) -> None:
        """Let the readers read the rest and stop."""
        self.state = "closed"
        self._wake_batch_readers()
        self._wake_readers()

    async def follow(self, start_position: int, *, in_batches: bool = False) -> AsyncGenerator[LogItem, None]:
        """Yield the events after `start_position` in order until the log is closed. Dropped events are reported as a gap.

        `in_batches`: wait for many events or for the end, because the reader needs no single event soon.
        """
        position = start_position
        wait = self._wait_batch if in_batches else self.wait_change
        while True:
            items = self.events_after(position)
            for item in items:
                position = item.position
                yield item
            if not items:
                if self.state == "closed":
                    return
                await wait()

    def events_after(self, position: int) -> list[LogItem]:
        """The events after `position` in the ring, with a gap first if older events were dropped."""
        if not self._ring or self.last_position <= position:
            return []
        oldest = self._ring[0].position
        items: list[LogItem] = []
        if oldest > position + 1:
            items.append(Gap(oldest - 1))
        fresh = min(len(self._ring), self.last_position - position)
        # Positions have no holes, so the number of new events gives their place from the end of the ring.
        items.extend(self._ring[index] for index in range(len(self._ring) - fresh, len(self._ring)))
        return items

    def is_lagging(self, position: int, *, events: int, size: int) -> bool:
        """Whether more than `events` events or `size` bytes were added after `position`."""
        count = self.last_position - position
        # `if count`, because a slice from -0 would be the whole ring.
        return count > events or sum(len(event.data) for event in list(self._ring)[-count:] if count) > size

    async def wait_change(self) -> None:
        """Wait until an event is added, or the log is sealed or closed."""
        # Created only for a reader that waits, because most events come while no reader waits.
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _wait_batch(self) -> None:
        """Wait until the log has a batch of events, or is closed."""
        if self._batch_ready is None:
            self._batch_ready = anyio.Event()
        await self._batch_ready.wait()

    def _hurry_recording(self) -> None:
        if self.recording is not None and self.recording.hurry is not None:
            self.recording.hurry.set()

    def _wake_batch_readers(self) -> None:
        if self._batch_ready is not None:
            self._batch_ready.set()
            self._batch_ready = None

    def _wake_readers(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
