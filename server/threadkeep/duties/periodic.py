"""Periodic: the one loop that all background duties of a process run in.

A duty says what one round does (`run_once`) and when the next is due. The loop wakes it early if its topic is told of,
repeats it after a conflict of transactions, goes on while Postgres is away, and tries again after a failure that nobody foresaw: without its duties a process would be
of no use.
"""

import logging
from contextlib import nullcontext
from typing import ClassVar, Protocol

import anyio

from threadkeep.postgres.listen import NotificationHub, WakeEvent
from threadkeep.postgres.retry import TRANSIENT_ERRORS, retry_conflicts

log = logging.getLogger(__name__)

FAILURE_PAUSE_S = 1.0
"""After a failure that nobody foresaw."""


class Duty(Protocol):
    """Background work of a process."""

    topic: ClassVar[str | None]
    """The topic of LISTEN that makes the next round due. None: only time does."""

    @property
    def interval_s(self) -> float:
        """Seconds between two rounds, at most."""
        ...

    async def run_once(self) -> float | None:
        """Do what is to be done now. Returns the seconds until the next round, or None for `interval_s`."""
        ...


async def repeat(duty: Duty, wakeups: NotificationHub) -> None:
    """Do a duty again and again, until cancelled."""
    name = type(duty).__name__
    with wakeups.subscribe(duty.topic) if duty.topic else nullcontext(WakeEvent()) as signal:
        while True:
            pause_s = duty.interval_s
            try:
                next_s = await retry_conflicts(duty.run_once)
                pause_s = duty.interval_s if next_s is None else max(0.0, min(duty.interval_s, next_s))
            except TRANSIENT_ERRORS:
                log.warning("a duty waits for the database", exc_info=True, extra={"duty": name})
            except Exception:
                log.exception("a duty failed and is tried again", extra={"duty": name})
                await anyio.sleep(FAILURE_PAUSE_S)
            await signal.wait(pause_s)
