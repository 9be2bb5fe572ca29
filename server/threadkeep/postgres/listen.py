"""Notifications: wake tasks in this process after a commit in any process.

One connection listens, and a payload is a topic. A transaction pooler does not forward NOTIFY, so behind one all topics
are polled often. A NOTIFY may be lost, so it is only a hint. Each waiting task also polls slowly. Only a topic with a
reader has content, after a space: the change stream (`threads/change_stream.py`). It reports losses to its readers.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from uuid import UUID

import anyio
import psycopg
from psycopg import AsyncConnection, Notify

from threadkeep.postgres import session
from threadkeep.postgres.pool import Conn

log = logging.getLogger(__name__)

RUN_PENDING = "pending"
"""A run may be claimed."""
RUN_CANCELLED = "cancel"
"""A running run has a cancel request."""
RECORD = "watch"
"""A running run's events must be recorded, because it has a reader in another process."""

RECONNECT_S = 1.0
"""Pause before a lost listening connection is opened again."""
CONNECT_S = 30.0
POLLS_PER_S = 4
"""Polls of all topics in a second, without LISTEN."""


def run_topic(run_id: UUID) -> str:
    """The topic of a run: it has new events, or it has ended."""
    return f"run:{run_id}"


def thread_topic(thread_id: UUID) -> str:
    """The topic of a thread: it has a new run, or its state was changed."""
    return f"thread:{thread_id}"


async def notify(conn: Conn, topic: str) -> None:
    """Wake the tasks that wait for `topic` in all processes when this transaction commits."""
    await conn.execute("SELECT pg_notify('threadkeep', %(topic)s)", {"topic": topic})


class WakeEvent:
    """An event to wait for repeatedly. A wake-up between two waits is not lost."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up for at most `timeout_s` seconds. Returns whether one came, and resets the event."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        woken = self._event.is_set()
        # An anyio event can't be cleared. Nothing is awaited after the check, so no wake-up is lost between the two
        # lines.
        self._event = anyio.Event()
        return woken


class NotificationHub:
    """The tasks of this process that wait, by topic."""

    def __init__(self, *, polls: bool = False) -> None:
        self.polls = polls
        """There is no LISTEN, so all topics are polled often."""
        self._signals: dict[str, set[WakeEvent]] = defaultdict(set)
        self.readers: dict[str, Callable[[str | None], None]] = {}
        """By topic: is called with the content of each notification. None: some may have been missed."""

    @contextmanager
    def subscribe(self, topic: str) -> Generator[WakeEvent]:
        """Yield a signal that is set by each notification of `topic`, from any process."""
        signal = WakeEvent()
        self._signals[topic].add(signal)
        try:
            yield signal
        finally:
            self._signals[topic].discard(signal)
            if not self._signals[topic]:  # each run and thread has a topic of its own, so the mapping would grow
                del self._signals[topic]

    def topics(self) -> list[str]:
        """The topics that tasks of this process wait for."""
        return list(self._signals)

    def publish(self, topic: str) -> None:
        """Set the signals of `topic` in this process."""
        for signal in self._signals.get(topic, ()):
            signal.set()

    def publish_all(self) -> None:
        """Set every signal, because notifications may have been missed."""
        for read in self.readers.values():
            read(None)
        for topic in list(self._signals):
            self.publish(topic)

    def forward(self, payload: str) -> None:
        """Pass a notification on to the tasks of this process."""
        topic, _, content = payload.partition(" ")
        if read := self.readers.get(topic):
            read(content)
        self.publish(topic)


@asynccontextmanager
async def run_listener(uri: str) -> AsyncGenerator[NotificationHub]:
    """Forward notifications of all processes until the block ends. A lost connection is opened again."""
    wakeups = NotificationHub()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, uri, wakeups, name="listen")
        yield wakeups
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def polling() -> AsyncGenerator[NotificationHub]:
    """Set every signal `POLLS_PER_S` times a second, because a transaction pooler does not forward NOTIFY."""
    wakeups = NotificationHub(polls=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_poll, wakeups, name="poll")
        yield wakeups
        tasks.cancel_scope.cancel()


async def _poll(wakeups: NotificationHub) -> None:
    while True:
        await anyio.sleep(1 / POLLS_PER_S)
        wakeups.publish_all()


async def _listen(uri: str, wakeups: NotificationHub) -> None:
    while True:
        try:
            async with _connected(uri) as conn:
                await conn.execute("LISTEN threadkeep")
                # Notifications were lost while there was no connection, so every waiting task looks once.
                wakeups.publish_all()
                await _forward(conn.notifies(), wakeups)
        # TimeoutError: a host with many addresses may take longer than the whole limit, each within its own.
        except (psycopg.OperationalError, TimeoutError):
            log.warning("listening connection lost", exc_info=True)
        await anyio.sleep(RECONNECT_S)


@asynccontextmanager
async def _connected(uri: str) -> AsyncGenerator[AsyncConnection]:
    """Open a connection, shielded, because psycopg leaks it if its opening is cancelled. `conninfo` has a shorter limit."""
    with anyio.fail_after(CONNECT_S, shield=True):
        conn = await AsyncConnection.connect(session.conninfo(uri), autocommit=True)
        await conn.execute(session.SET_UP, session.PARAMETERS)
    try:
        yield conn
    finally:
        await conn.close()


async def _forward(notifies: AsyncGenerator[Notify], wakeups: NotificationHub) -> None:
    # A cancellation must end the generator here. The garbage collector would do it later, when the connection is
    # closed.
    async with aclosing(notifies) as notifications:
        async for notify in notifications:
            wakeups.forward(notify.payload)
