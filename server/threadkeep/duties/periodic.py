"""Periodic: the loop that runs each background duty of a process.

A duty defines one round (`run_once`) and the time of the next. A notification of its topic starts a round early. The loop
repeats a round after a transaction conflict. It continues while Postgres is unavailable and after an unexpected
exception, because a process without its duties is useless.
"""

import logging
from contextlib import nullcontext
from typing import ClassVar, Protocol

import anyio

from threadkeep.postgres.listen import NotificationHub, WakeEvent
from threadkeep.postgres.retry import TRANSIENT_ERRORS, retry_conflicts

log = logging.getLogger(__name__)

FAILURE_PAUSE_S = 1.0
"""Seconds to wait after an unexpected exception."""


class Duty(Protocol):
    """Background work of a process."""

    topic: ClassVar[str | None]
    """The notification topic that starts the next round early. None: the interval alone decides."""

    @property
    def interval_s(self) -> float:
        """The most seconds between two rounds."""
        ...

    async def run_once(self) -> float | None:
        """Do one round. Returns the seconds until the next round, or None for `interval_s`."""
        ...


async def repeat(duty: Duty, wakeups: NotificationHub) -> None:
    """Repeat a duty until cancelled."""
    name = type(duty).__name__
    with wakeups.subscribe(duty.topic) if duty.topic else nullcontext(WakeEvent()) as signal:
        while True:
            pause_s = duty.interval_s
            try:
                next_s = await retry_conflicts(duty.run_once)
                pause_s = duty.interval_s if next_s is None else max(0.0, min(duty.interval_s, next_s))
            except TRANSIENT_ERRORS:
                log.warning("background task waits for the database", exc_info=True, extra={"duty": name})
            except Exception:
                log.exception("background task failed and will be retried", extra={"duty": name})
                await anyio.sleep(FAILURE_PAUSE_S)
            # A notification during the round is not lost: the signal is then already set.
            await signal.wait(pause_s)
