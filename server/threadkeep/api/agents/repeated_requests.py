"""Repeated requests: starts a run once, although several requests with the same idempotency key come at the same time.

The first request may wait for a slot before its run exists. The others wait for that run as long as the first one may take.
A new run of the thread sends a notification, and the waiting requests also poll.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import anyio

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base.problems import IdempotencyKeyInUse, ServiceUnavailable
from threadkeep.postgres.listen import thread_topic
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.idempotency import RESERVATION_S
from threadkeep.runs.service import RunHandle
from threadkeep.tables import queue

FOLLOW_S: Final = 60.0
"""Seconds for which the thread is followed at a time."""
POLL_S: Final = 0.5
"""Seconds between two attempts without a notification: a first request that fails sends none."""


async def start_once(
    call: AuthorizedRequest[Any, Any], filters: Filters, thread_id: UUID, start: Callable[[], Awaitable[RunHandle]]
) -> RunHandle:
    """Return the run that `start` starts, or that an equal request is starting on the thread.

    IdempotencyKeyInUse if the other request takes longer than admission may take. ServiceUnavailable if this process stops.
    """
    state = call.state
    give_up_at = anyio.current_time() + state.settings.queue_timeout_s + RESERVATION_S
    follow_at = -math.inf
    with state.wakeups.subscribe(thread_topic(thread_id)) as signal:
        while True:
            try:
                return await start()
            except IdempotencyKeyInUse:
                if anyio.current_time() > give_up_at:
                    raise
            if state.signals.leaving.is_set():
                raise ServiceUnavailable("the server is stopping")
            if anyio.current_time() < follow_at:
                await signal.wait(POLL_S)
                continue
            follow_at = anyio.current_time() + FOLLOW_S / 2
            async with state.pool.connection(filters) as conn:
                await queue.record_thread_events(conn, filters, thread_id, FOLLOW_S)
