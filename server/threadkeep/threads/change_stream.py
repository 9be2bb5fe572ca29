"""Change stream: the changes of a caller's threads and runs, in any process of the project.

While a process has a stream, it announces that to all processes twice a minute. Their connections then note the rows that
they change. A process sends its notes by NOTIFY a few times a second, in a separate transaction, so that a run executes no
further statement. Each process keeps the newest changes of all processes in one log. A stream is a position in this log,
and reads the caller's rows among the changed rows. If changes were lost, the stream has a `gap`, and the client reads its
lists again.
"""

import itertools
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias
from uuid import UUID

import anyio

from threadkeep.base import json
from threadkeep.postgres.connection import Change
from threadkeep.postgres.listen import NotificationHub
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.postgres.tenancy import Filters
from threadkeep.tables import changes
from threadkeep.tables.changes import ChangedRun, ChangedThread

log = logging.getLogger(__name__)

NOTED: Final = "changes-noted"
"""Topic: this process has notes to send. It is published only inside the process."""
CHANGES: Final = "changes"
"""Topic with content: the notes of a process."""
WANTED: Final = "changes-wanted"
"""Topic with content: a process of this project has a stream."""
ASKED: Final = "changes-asked"
"""Topic with content: a process of this project has begun to listen, and the processes with a stream must announce it."""

WANTED_EVERY_S: Final = 30.0
"""Seconds between two announcements of a process that has a stream."""
WANTED_S: Final = 75.0
"""Seconds for which changes are noted after a process has said that it has a stream."""
LINGER_S: Final = 60.0
"""Seconds for which changes are noted after a process's last stream has ended, so that a client may reconnect."""
ECHO_S: Final = 2.0
"""Most seconds that a stream waits for its process to hear its own announcement."""
SEND_S: Final = 0.2
"""Seconds for which notes are collected before they are sent."""
MAX_NOTES: Final = 1_000
"""Notes that a process sends at once. If there are more, all streams get a gap."""
PAYLOAD_BYTES: Final = 7_500
"""Postgres allows 8,000 bytes in a notification."""
METADATA_BYTES: Final = 2_000
"""The most bytes of a deleted thread's metadata. Above them, all streams get a gap."""
LOG_CHANGES: Final = 5_000
"""Changes that a process keeps for slow and resumed streams."""
MAX_BATCH: Final = 200
"""Changes that a stream reads at once. If there are more, it gets a gap."""
PAUSE_S: Final = 0.25
"""Least seconds between two reads of one stream."""
LONG_PAUSE_S: Final = 1.5
"""Most seconds between two reads of a stream because of its own changes. A busy server has many, and lists need not show each."""
ROWS_PER_S: Final = 40
"""Changes that a stream reads in a second, as far as `LONG_PAUSE_S` allows."""
READS_PER_S: Final = 100
"""Reads of all streams of a process in a second. With more streams, each reads less often."""
SILENCE_S: Final = 60.0
"""Seconds after which a stream without a notification reads the log."""
POLLED_GAP_S: Final = 5.0
"""Seconds between two gaps, if a pooler does not forward NOTIFY, so that nothing is known of other processes."""

UNKNOWN: Final = Change()
"""Unknown rows have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Changes before this one are missing. The client must read its lists again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedThread:
    """A thread that was deleted with its runs."""

    thread_id: UUID


StreamItem: TypeAlias = ChangedThread | ChangedRun | DeletedThread | Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeBatch:
    """Events for a client, and the id after which a later stream resumes."""

    items: Sequence[StreamItem]
    event_id: str


@dataclass(slots=True)
class ChangeLog:
    """The newest changes of all processes, numbered from 1 in the order in which this process heard of them."""

    epoch: str = field(default_factory=partial(secrets.token_hex, 4))
    """Distinguishes the numbers of this process from those of others."""
    last: int = 0
    _changes: deque[Change] = field(default_factory=partial(deque[Change], maxlen=LOG_CHANGES))

    def add(self, new: Iterable[Change]) -> None:
        for change in new:
            self._changes.append(change)
            self.last += 1

    def after(self, position: int) -> list[Change]:
        """Return the changes after a position. `UNKNOWN` is among them if some are lost, or if there are too many."""
        missed = self.last - position
        if missed > min(len(self._changes), MAX_BATCH):
            return [UNKNOWN]
        return list(itertools.islice(self._changes, len(self._changes) - missed, None))

    def position_of(self, event_id: str) -> int | None:
        """The position with this event id, or None if the log of this process has none."""
        epoch, _, number = event_id.partition("-")
        # The id may be of another process, of an earlier start, or invented by a client.
        if epoch != self.epoch or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        return int(number) if int(number) <= self.last else None

    @property
    def event_id(self) -> str:
        """The id of the newest position."""
        return f"{self.epoch}-{self.last}"


class ChangeFeed:
    """Duty, and the streams of this process: sends the notes of its connections, and reads those of all processes."""

    topic: ClassVar[str | None] = NOTED
    interval_s: float = WANTED_EVERY_S / 2

    def __init__(self, pool: Pool, runs_pool: Pool, wakeups: NotificationHub) -> None:
        self._pool = pool
        self._pools = (pool, runs_pool)
        self._wakeups = wakeups
        self._log = ChangeLog()
        self._notes: list[Change] = []
        self._streams = 0
        self._used_until = float("-inf")
        """Monotonic time until which this process wants changes, though it has no stream."""
        self._wanted_until = float("-inf")
        """Monotonic time until which the connections of this process note changes."""
        self._announced_at = float("-inf")
        self._must_announce = False
        """Another process has begun to listen, and does not know whether a process has a stream."""
        self._must_ask = not wakeups.polls
        """This process has begun to listen, and does not know it either."""
        wakeups.readers |= {CHANGES: self._hear, WANTED: self._hear_wanted, ASKED: self._hear_asked}

    async def run_once(self) -> float | None:
        """Announce this process's streams if it is time. Send the noted changes."""
        now = time.monotonic()
        if self._must_ask:
            await self._notify([f"{ASKED} {self._pool.project_id}"])
            # Only after the message was sent, so that a round that failed asks again.
            self._must_ask = False
        if self._streams or now < self._used_until:
            await self._announce(is_required=self._must_announce)
            self._must_announce = False
        if now > self._wanted_until:
            self._stop_noting()
        if self._notes:
            # Changes gather, so that a busy process sends a few notifications a second and not one for each run.
            await anyio.sleep(SEND_S)
            await self._send_notes()
        # Without LISTEN the notes of other processes do not arrive. The clients then read their lists again at
        # intervals.
        if self._wakeups.polls and self._streams:
            self._lose()
            return POLLED_GAP_S
        return None

    async def follow(self, filters: Filters, last_event_id: str | None) -> AsyncGenerator[ChangeBatch]:
        """Yield the caller's changes after an event, or from now on. Begins with a gap unless it resumes after that event."""
        with self._wakeups.subscribe(CHANGES) as signal, self._stream():
            await self._announce()
            position = None if last_event_id is None else self._log.position_of(last_event_id)
            if position is None:
                position = self._log.last
                yield ChangeBatch(items=[Gap()], event_id=self._log.event_id)
            while True:
                # All three at once, because the log grows while the rows are read.
                changed, position, event_id = self._log.after(position), self._log.last, self._log.event_id
                if items := await retry_conflicts(partial(self._read, filters, changed)):
                    yield ChangeBatch(items=items, event_id=event_id)
                if changed:
                    await anyio.sleep(self._pause_s(MAX_BATCH if UNKNOWN in changed else len(changed)))
                # No notification is lost here: one that came during the read has already set the signal.
                await signal.wait(SILENCE_S)

    def _pause_s(self, rows: int) -> float:
        """Seconds until the next read of a stream that has read so many changes."""
        return max(PAUSE_S, min(rows / ROWS_PER_S, LONG_PAUSE_S), self._streams / READS_PER_S)

    @contextmanager
    def _stream(self) -> Generator[None]:
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
            self._used_until = time.monotonic() + LINGER_S

    async def _read(self, filters: Filters, changed: Sequence[Change]) -> list[StreamItem]:
        """The caller's rows among the changed ones, or a gap."""
        if not changed:
            return []
        if UNKNOWN in changed:
            return [Gap()]
        # Shielded, because clients often disconnect, and a cancelled statement costs its connection.
        async with self._pool.shielded(filters) as conn:
            return await _rows(conn, filters, changed)

    async def _announce(self, *, is_required: bool = False) -> None:
        """Have all processes note their changes from now on, if some may not do so, or may stop soon."""
        now = time.monotonic()
        if now - self._announced_at < WANTED_EVERY_S and not is_required:
            return
        # Until now the connections may have noted nothing, so the streams have missed changes.
        if now - self._announced_at > WANTED_S:
            self._lose()
        self._note_for(WANTED_S)
        if not self._wakeups.polls:
            # Subscribed first, because the echo may come before `_notify` returns.
            with self._wakeups.subscribe(WANTED) as wanted:
                await self._notify([f"{WANTED} {self._pool.project_id}"])
                await wanted.wait(ECHO_S)  # when this process hears it, it is on its way to all
        self._announced_at = now

    def _hear_wanted(self, project_id: str | None) -> None:
        if project_id == self._pool.project_id:
            self._note_for(WANTED_S)

    def _hear_asked(self, project_id: str | None) -> None:
        """Announce again if a process asks. None: this process has reconnected and must ask."""
        if project_id is None:
            self._must_ask = not self._wakeups.polls
        elif project_id == self._pool.project_id:
            self._must_announce = True
        self._wakeups.publish(NOTED)

    def _note_for(self, seconds: float) -> None:
        self._wanted_until = time.monotonic() + seconds
        for pool in self._pools:
            pool.tell_changes = self._note

    def _stop_noting(self) -> None:
        for pool in self._pools:
            pool.tell_changes = None

    def _note(self, changed: Sequence[Change]) -> None:
        """Keep the changes of a connection until they are sent."""
        # One more than `MAX_NOTES` already shows that there are too many, so the list grows no further.
        if len(self._notes) <= MAX_NOTES:
            self._notes += [_short(change) for change in changed]
        self._wakeups.publish(NOTED)

    async def _send_notes(self) -> None:
        """Send the noted changes. If that fails, the next round sends a gap instead of them."""
        notes, self._notes = self._notes, []
        try:
            await self._send([UNKNOWN] if len(notes) > MAX_NOTES else list(dict.fromkeys(notes)))
        except BaseException:
            # Not the notes again, because a note that Postgres refuses would fail each later round.
            self._notes.insert(0, UNKNOWN)
            raise

    async def _send(self, notes: Sequence[Change]) -> None:
        """Send the notes to all processes, this one included."""
        if self._wakeups.polls:
            self._log.add(notes)
            self._wakeups.publish(CHANGES)
        else:
            await self._notify(payloads(self._pool.project_id, notes))

    async def _notify(self, messages: Sequence[str]) -> None:
        """Send notifications in one transaction, which is not flushed to disk."""
        async with self._pool.connection() as conn:
            await conn.execute(
                """
                SELECT set_config('synchronous_commit', 'off', true), pg_notify('threadkeep', message)
                  FROM unnest(%(messages)s::text[]) AS message
                """,
                {"messages": list(messages)},
            )

    def _hear(self, content: str | None) -> None:
        """Add the notes of a process to the log. None: some may have been missed."""
        if content is None:
            if not self._wakeups.polls:
                self._lose()
            return
        project_id, notes = json.loads(content.encode())
        if project_id == self._pool.project_id:
            self._log.add(_change(note) for note in notes)

    def _lose(self) -> None:
        self._log.add([UNKNOWN])
        self._wakeups.publish(CHANGES)


def _short(change: Change) -> Change:
    """Return the change in the form in which it is sent: unknown if it would be too long."""
    if change.deleted_metadata is not None and len(change.deleted_metadata.encode()) > METADATA_BYTES:
        return UNKNOWN
    return change


def payloads(project_id: str, notes: Sequence[Change]) -> list[str]:
    """The notifications for these notes, each within the size that Postgres allows."""
    messages: list[str] = []
    encoded = [json.dumps([note.thread_id, note.run_id, note.deleted_metadata]).decode() for note in notes]
    head = json.dumps(project_id).decode()
    start, size = 0, 0
    for end, note in enumerate(encoded):
        if size + len(note.encode()) > PAYLOAD_BYTES - len(head.encode()):
            messages.append(f"{CHANGES} [{head},[{','.join(encoded[start:end])}]]")
            start, size = end, 0
        size += len(note.encode()) + 1
    return [*messages, f"{CHANGES} [{head},[{','.join(encoded[start:])}]]"]


def _change(note: Sequence[Any]) -> Change:
    thread_id, run_id, metadata = note
    return Change(thread_id and UUID(thread_id), run_id and UUID(run_id), metadata)


async def _rows(conn: Conn, filters: Filters, changed: Sequence[Change]) -> list[StreamItem]:
    """The caller's rows among the changed ones: deleted threads first, then threads, then runs."""
    metadata = {
        change.thread_id: change.deleted_metadata
        for change in changed
        if change.thread_id is not None and change.deleted_metadata is not None
    }
    run_ids = list({change.run_id for change in changed if change.run_id is not None})
    thread_ids = list({change.thread_id for change in changed if change.thread_id is not None})
    deleted = [thread_id for thread_id, stored in metadata.items() if filters.include(json.loads(stored))]
    threads = await changes.threads_of(conn, filters, thread_ids, run_ids)
    runs = await changes.runs_of(conn, filters, run_ids) if run_ids else []
    existing = {thread.thread_id for thread in threads}
    # A client may have created the thread again, with the same id.
    gone = [DeletedThread(thread_id=thread_id) for thread_id in deleted if thread_id not in existing]
    return [*gone, *threads, *runs]
