"""Retry: the one place that says what is tried again after Postgres refused it, and for how long.

There are two reasons. Postgres may be away: a request is answered 503 and comes again, but a run can't come again, so what
it writes is tried for a while. Or a transaction may conflict with another one (SQLSTATE 40001 and 40P01): Postgres is well,
has taken the transaction back, and asks for it again, so requests and runs alike repeat it.

Only what may be done twice is tried twice: a transaction as a whole, inserts that pass over what is there, changes that
name the state they leave.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
import psycopg
from psycopg.errors import DeadlockDetected, ProgramLimitExceeded, ReadOnlySqlTransaction, SerializationFailure
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
"""What says of Postgres, and not of the statement, that it can't be carried out: gone, full, read-only, too slow. To psycopg
a conflict is such an error too."""
CONFLICTS: Final = (SerializationFailure, DeadlockDetected)
"""The transaction was taken back because of another one."""
RETRY_S = 30.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0
CONFLICT_RETRY_S = 10.0
MIN_CONFLICT_BACKOFF_S, MAX_CONFLICT_BACKOFF_S = 0.005, 0.25

Result = TypeVar("Result")


async def retry_in_run(work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` gives, tried again as `retry` does if it is done for a run.

    A request is answered at once while Postgres is away, and repeats its whole transaction after a conflict.
    """
    return await (retry(work) if current_run.current() is not None else work())


async def retry(work: Callable[[], Awaitable[Result]], *, conflicts: bool = True) -> Result:
    """What `work` gives, tried again for up to 30 s while Postgres is away; then what it raised last.

    After a conflict likewise, unless the caller has a better answer to `conflicts`.
    """
    end, pause_s = time.monotonic() + RETRY_S, MIN_BACKOFF_S
    while True:
        try:
            return await (retry_conflicts(work) if conflicts else work())
        except TRANSIENT_ERRORS as failure:
            if not is_transient(failure) or is_conflict(failure) or time.monotonic() > end:
                raise
            if pause_s == MIN_BACKOFF_S:
                log.warning("the database is away; a write waits for it", exc_info=True)
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the load, no secret
        pause_s = min(pause_s * 2, MAX_BACKOFF_S)


async def retry_conflicts(work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work` gives, tried again for up to 10 s while its transaction conflicts with others; then the last conflict."""
    try:
        return await work()
    except CONFLICTS:
        return await retry_after_conflict(work)


async def retry_after_conflict(work: Callable[[], Awaitable[Result]]) -> Result:
    """As `retry_conflicts`, for work whose first attempt has just conflicted: the next one comes after a short pause."""
    end, pause_s = time.monotonic() + CONFLICT_RETRY_S, MIN_CONFLICT_BACKOFF_S
    while True:
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - or both would meet again
        pause_s = min(pause_s * 2, MAX_CONFLICT_BACKOFF_S)
        try:
            return await work()
        except CONFLICTS as conflict:
            if time.monotonic() > end:
                raise
            log.debug("a transaction conflicts with another one", extra={"sqlstate": conflict.sqlstate})


def is_transient(failure: BaseException) -> bool:
    """Whether the same may succeed a little later."""
    return isinstance(failure, TRANSIENT_ERRORS) and not isinstance(failure, ProgramLimitExceeded)


def is_conflict(failure: BaseException) -> bool:
    """Whether the transaction was taken back because of another one."""
    return isinstance(failure, CONFLICTS)
