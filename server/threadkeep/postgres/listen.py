"""Wake-ups: from a commit in any process to whoever waits for it here.

One connection LISTENs; a payload is a topic. Behind a transaction pooler, which hands no NOTIFY on, all look often. A NOTIFY may be lost, so it is a hint and never the data: whoever waits
looks again on a slow beat of its own.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
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
"""A running run is to stop."""
RECORD = "watch"
"""A running run's events are to be written: somebody follows it in another process."""

RECONNECT_S = 1.0
"""Pause before a lost listening connection is opened again."""
CONNECT_S = 30.0
POLLS_PER_S = 4
"""If nothing can be listened to."""


def run_topic(run_id: UUID) -> str:
    """Wakes those who follow the run: it has new events, or it ended."""
    return f"run:{run_id}"


def thread_topic(thread_id: UUID) -> str:
    """Wakes those who follow the whole thread: it has a new run, or its state was changed."""
    return f"thread:{thread_id}"


async def notify(conn: Conn, topic: str) -> None:
    """Wake whoever waits for `topic`, in every process, when this transaction commits."""
    await conn.execute("SELECT pg_notify('threadkeep', %(topic)s)", {"topic": topic})


class WakeEvent:
    """Something to wait for again and again; a wake-up between two waits is not lost."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up, `timeout_s` seconds at most; whether one came. Then start anew."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        woken = self._event.is_set()
        self._event = anyio.Event()
        return woken


class NotificationHub:
    """Who waits for which topic, in this process."""

    def __init__(self, *, polls: bool = False) -> None:
        self.polls = polls
        """Nothing is listened to: whoever waits looks often."""
        self._signals: dict[str, set[WakeEvent]] = defaultdict(set)

    @contextmanager
    def subscribe(self, topic: str) -> Generator[WakeEvent]:
        """A signal that is set whenever `topic` is told of, here or elsewhere."""
        signal = WakeEvent()
        self._signals[topic].add(signal)
        try:
            yield signal
        finally:
            self._signals[topic].discard(signal)
            if not self._signals[topic]:
                del self._signals[topic]

    def topics(self) -> list[str]:
        """The topics that somebody waits for in this process."""
        return list(self._signals)

    def publish(self, topic: str) -> None:
        """Set the signals of `topic` in this process."""
        for signal in self._signals.get(topic, ()):
            signal.set()

    def publish_all(self) -> None:
        """Set every signal: what was told while nobody listened is unknown."""
        for topic in list(self._signals):
            self.publish(topic)


@asynccontextmanager
async def run_listener(uri: str) -> AsyncGenerator[NotificationHub]:
    """Hand on what other processes tell, until the block ends; a lost connection is opened again."""
    wakeups = NotificationHub()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_listen, uri, wakeups, name="listen")
        yield wakeups
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def polling() -> AsyncGenerator[NotificationHub]:
    """As `run_listener`, but every topic is told of `POLLS_PER_S` times a second: a transaction pooler hands no NOTIFY on."""
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
                wakeups.publish_all()
                await _hand_on(conn.notifies(), wakeups)
        except psycopg.OperationalError:
            log.warning("the listening connection was lost", exc_info=True)
        await anyio.sleep(RECONNECT_S)


@asynccontextmanager
async def _connected(uri: str) -> AsyncGenerator[AsyncConnection]:
    """Psycopg leaves a connection open whose making, or whose last rollback, is cancelled. `conninfo` gives up sooner."""
    with anyio.fail_after(CONNECT_S, shield=True):
        conn = await AsyncConnection.connect(session.conninfo(uri), autocommit=True)
        await conn.execute(session.SET_UP, session.PARAMETERS)
    try:
        yield conn
    finally:
        await conn.close()


async def _hand_on(notifies: AsyncGenerator[Notify], wakeups: NotificationHub) -> None:
    async with aclosing(notifies) as received:
        async for notify in received:
            wakeups.publish(notify.payload)
