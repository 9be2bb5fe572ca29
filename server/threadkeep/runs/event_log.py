"""Live: the stream of a run in the process that executes it.

A ring of the latest events, each already JSON, however many read it. Readers keep a position of their own and never
slow the run down: one that falls behind the ring is told of the gap.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import anyio

from threadkeep.base.flag import Flag
from threadkeep.tables.runs import CancelAction, FinalStatus

RING_EVENTS = 4096
RING_BYTES = 4 * 1024 * 1024
"""What a run's ring holds at most; the older go first."""
PRESS_EVENTS = 256
"""After so many events who writes them down is not to wait any longer."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run's stream. `position` counts from 1; `data` is one line of JSON."""

    position: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Events up to `position` are no longer there: the reader fell behind."""

    position: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, for those who wait for its answer."""

    status: FinalStatus
    answer: bytes
    """JSON: the final values, with `__interrupt__` or `__error__` where there is one."""


Followed: TypeAlias = Event | Gap


class LiveRun:
    """A run that this process executes, or is about to."""

    def __init__(
        self, run_id: UUID, thread_id: UUID, *, watched: bool, durable: bool = True, events_before: int = 0
    ) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self.durable = durable
        """It has a row, by which other processes know of it."""
        self.watched = watched
        """Somebody reads its events, or they are kept; before that none are made."""
        self.over = Flag()
        """The graph has ended, or is to end now."""
        self.cancelled: tuple[CancelAction, str] | None = None
        """What a cancel asked for, and its reason."""
        self.identity: str | None = None
        """Of the principal who asked for it."""
        self.first_at: float | None = None
        """Monotonic: when the graph first said something."""
        self.outcome: Outcome | None = None
        self.keeper: anyio.Event | None = None
        """There where its events are written to Postgres; set when all of them are."""
        self.pressed: anyio.Event | None = None
        """There while that one waits for more events; set when it is not to."""
        self.gone = Flag()
        """The process has nothing more to do for it."""
        self.sealed = False
        self.abandoned = False
        self._ring: deque[Event] = deque()
        self._bytes = 0
        self.events_before = events_before
        """The position behind which its events begin; those before it are an earlier attempt's."""
        self._last = events_before
        self._closed = Flag()
        self._changed: anyio.Event | None = None
        """There while somebody waits for the next event."""

    @property
    def last(self) -> int:
        """The position of the newest event; 0 before the first."""
        return self._last

    @property
    def crowded(self) -> bool:
        """The ring holds so much that who writes it down should not wait."""
        return self._bytes > RING_BYTES // 2

    def append(self, name: str, data: bytes) -> Event:
        """Add an event and wake the readers."""
        self._last += 1
        event = Event(self._last, name, data)
        self._ring.append(event)
        self._bytes += len(data)
        while len(self._ring) > RING_EVENTS or (self._bytes > RING_BYTES and len(self._ring) > 1):
            self._bytes -= len(self._ring.popleft().data)
        if self._last % PRESS_EVENTS == 0 or self.crowded:
            self._press()
        self._wake()
        return event

    def seal(self) -> None:
        """No more events will come; the outcome is still to be written."""
        self.sealed = True
        self._press()
        self._wake()

    def end(self, outcome: Outcome) -> None:
        """Close the stream: readers get what is left, and stop."""
        self.outcome = outcome
        self._closed.set()
        self._wake()

    def abandon(self) -> None:
        """Close the stream without an outcome: another process executes the run, or will."""
        self.abandoned = True
        self._closed.set()
        self._wake()

    def lose(self) -> None:
        """Another process executes the run already: stop the graph, and write nothing of it."""
        self.abandon()
        self.over.set()

    def cancel(self, action: CancelAction, reason: str) -> None:
        """Stop the graph; the first call's action and reason stand."""
        if self.cancelled is None and self.outcome is None:
            self.cancelled = (action, reason)
            self.over.set()

    async def follow(self, after: int) -> AsyncGenerator[Followed, None]:
        """Events behind position `after`, in order, until the run ends. A gap is told, never passed over."""
        position = after
        while True:
            fresh = self.behind(position)
            for item in fresh:
                position = item.position
                yield item
            if not fresh:
                if self.outcome is not None or self.abandoned:
                    return
                await self.changed()

    def is_beyond(self, position: int, *, events: int, size: int) -> bool:
        """Whether more than `events` events or `size` bytes have come behind `position`."""
        count = self._last - position
        return count > events or sum(len(item.data) for item in list(self._ring)[-count:] if count) > size

    async def wait(self, within_s: float | None = None) -> Outcome | None:
        """The outcome, when there is one; None where the process stops before, or there is none `within_s`."""
        await self._closed.wait(within_s)
        return self.outcome

    async def changed(self) -> None:
        """Wait until there is an event more, or the stream is closed."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def behind(self, position: int) -> list[Followed]:
        """What the ring holds behind `position`, a gap first where older events are gone."""
        if not self._ring or self._last <= position:
            return []
        oldest = self._ring[0].position
        found: list[Followed] = []
        if oldest > position + 1:
            found.append(Gap(oldest - 1))
        fresh = min(len(self._ring), self._last - position)
        found.extend(self._ring[index] for index in range(len(self._ring) - fresh, len(self._ring)))
        return found

    def _press(self) -> None:
        if self.pressed is not None:
            self.pressed.set()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class LiveRuns:
    """The runs that this process executes, by id, and the tasks that work for them.

    No task group owns these (docs/decisions/0019-tasks-of-runs.md): whoever stops a run sets its `over`.
    """

    def __init__(self) -> None:
        self._runs: dict[UUID, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, live: LiveRun) -> None:
        self._runs[live.run_id] = live

    def work(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do `work` for a run in a task of its own: a request that goes away does not take it along."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Let go of all whose graph still runs, without a word in Postgres."""
        for live in self._runs.values():
            if not live.over.is_set():
                live.lose()

    async def ended(self) -> None:
        """Wait until no task works for a run any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def remove(self, live: LiveRun) -> None:
        if self._runs.get(live.run_id) is live:  # not another attempt of the same run
            del self._runs[live.run_id]
        live.gone.set()

    def get(self, run_id: UUID) -> LiveRun | None:
        """None also where this process has let go of it."""
        live = self._runs.get(run_id)
        return None if live is None or live.abandoned else live

    def all(self) -> Mapping[UUID, LiveRun]:
        return self._runs
