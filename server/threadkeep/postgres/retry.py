"""Outage: work of the server's own that waits until Postgres is back.

A request is answered 503 and comes again; a run can't come again, so that what it writes is tried for a while. Only
what may be done twice is tried twice: inserts that pass over what is there, changes that name the state they leave.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import psycopg
from psycopg.errors import ProgramLimitExceeded, ReadOnlySqlTransaction
from psycopg_pool import PoolTimeout, TooManyRequests

from threadkeep.base import current_run

log = logging.getLogger(__name__)

TRANSIENT_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    ReadOnlySqlTransaction,
    PoolTimeout,
    TooManyRequests,
)
"""What says of Postgres, and not of the statement, that it can't be carried out: gone, full, read-only, too slow."""
RETRY_S = 30.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0

Result = TypeVar("Result")


async def retry_in_run(work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` gives; where it is done for a run, tried again as `retry` does. A request is answered at once."""
    return await (retry(work) if current_run.current() is not None else work())


async def retry(work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` gives, tried again for up to 30 s while Postgres is away; then what it raised last."""
    end, pause_s = time.monotonic() + RETRY_S, MIN_BACKOFF_S
    while True:
        try:
            return await work()
        except TRANSIENT_ERRORS as failure:
            if not is_transient(failure) or time.monotonic() > end:
                raise
            if pause_s == MIN_BACKOFF_S:
                log.warning("the database is away; a write waits for it", exc_info=True)
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the load, no secret
        pause_s = min(pause_s * 2, MAX_BACKOFF_S)


def is_transient(failure: BaseException) -> bool:
    """Whether the same may succeed a little later."""
    return isinstance(failure, TRANSIENT_ERRORS) and not isinstance(failure, ProgramLimitExceeded)
