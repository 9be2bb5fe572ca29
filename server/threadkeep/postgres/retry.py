"""Retry: repeats database operations after transient errors and conflicts.

There are two reasons for a retry. First, Postgres may be unavailable. A request is answered 503 and the client repeats it,
but nobody repeats a run, so the writes of a run are retried for some time. Second, a transaction may conflict with another
one (SQLSTATE 40001 and 40P01). Postgres has rolled it back, so requests and runs repeat it.

Only repeatable operations are retried: whole transactions, inserts that skip existing rows, and changes that check the
previous state.
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
    ReadOnlySqlTransaction,  # after a failover, until the address leads to the new primary
    PoolTimeout,
    TooManyRequests,
)
"""Errors that are caused by the state of Postgres and not by the statement: unavailable, full, read-only, too slow.
psycopg counts conflicts among them too."""
CONFLICTS: Final = (SerializationFailure, DeadlockDetected)
"""Errors of a transaction that Postgres rolled back because of another one."""
RETRY_S = 30.0
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0
CONFLICT_RETRY_S = 10.0
MIN_CONFLICT_BACKOFF_S, MAX_CONFLICT_BACKOFF_S = 0.005, 0.25

Result = TypeVar("Result")


async def retry_in_run(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return the result of `work`. If it is done for a run, retry it as `retry` does.

    A request does not wait while Postgres is unavailable, and repeats its whole transaction after a conflict.
    """
    return await (retry(work) if current_run.current() is not None else work())


async def retry(work: Callable[[], Awaitable[Result]], *, conflicts: bool = True) -> Result:
    """Return the result of `work`, retried for up to 30 s while Postgres is unavailable. Then raises the last error.

    It is also retried after conflicts, unless the caller handles `conflicts` itself.
    """
    end, pause_s = time.monotonic() + RETRY_S, MIN_BACKOFF_S
    while True:
        try:
            return await (retry_conflicts(work) if conflicts else work())
        except TRANSIENT_ERRORS as failure:
            # A conflict that comes here has been retried for 10 s already, or its caller handles it.
            if not is_transient(failure) or is_conflict(failure) or time.monotonic() > end:
                raise
            # Once for each outage, not for each attempt.
            if pause_s == MIN_BACKOFF_S:
                log.warning("the database does not answer: a write waits for it", exc_info=True)
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - it spreads the load and is no secret
        pause_s = min(pause_s * 2, MAX_BACKOFF_S)


async def retry_conflicts(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return the result of `work`, retried after conflicts for up to 10 s. Then raises the last conflict."""
    try:
        return await work()
    except CONFLICTS:
        return await retry_after_conflict(work)


async def retry_after_conflict(work: Callable[[], Awaitable[Result]]) -> Result:
    """Retry as `retry_conflicts` does, after a first attempt that has just conflicted. It begins with a short pause."""
    end, pause_s = time.monotonic() + CONFLICT_RETRY_S, MIN_CONFLICT_BACKOFF_S
    while True:
        await anyio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - random, so that both transactions do not meet again
        pause_s = min(pause_s * 2, MAX_CONFLICT_BACKOFF_S)
        try:
            return await work()
        except CONFLICTS as conflict:
            if time.monotonic() > end:
                raise
            log.debug("transaction conflicts with another one and is retried", extra={"sqlstate": conflict.sqlstate})


def is_transient(failure: BaseException) -> bool:
    """Whether the operation may succeed later."""
    # psycopg makes it an OperationalError, but a row that is too large for its index is so at each attempt.
    return isinstance(failure, TRANSIENT_ERRORS) and not isinstance(failure, ProgramLimitExceeded)


def is_conflict(failure: BaseException) -> bool:
    """Whether Postgres rolled the transaction back because of another one."""
    return isinstance(failure, CONFLICTS)
