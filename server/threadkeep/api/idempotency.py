"""Idempotent creation of threads and crons: a request that is sent again with its `Idempotency-Key` has its effect once.

Requests are the same if method, path, body and principal are equal. Without the header this module does nothing else.
"""

from dataclasses import replace
from typing import Any

from threadkeep.api.operation import AuthorizedRequest
from threadkeep.base import ids
from threadkeep.base.problems import NotFound
from threadkeep.runs.idempotency import GONE
from threadkeep.tables import crons, idempotency_keys, threads
from threadkeep.tables.crons import Cron, NewCron
from threadkeep.tables.threads import NewThread, Thread
from threadkeep.threads import updates
from threadkeep.threads.updates import Superstep


class _Taken(Exception):
    """A thread with that id exists, so none was created. The transaction is rolled back and the key is free again."""


async def create_thread_once(
    call: AuthorizedRequest[Any, Any], new: NewThread, supersteps: list[Superstep]
) -> Thread | None:
    """Create a thread, at most once per idempotency key. Return None if the id is taken."""
    key = call.idempotency_key
    if key is None:
        return _counted(call, await updates.create_thread(call.state.threads, call.tenant, new, supersteps))
    try:
        async with call.state.runs.keys.once(key, (new.thread_id,), ()) as claim:
            if not claim.replayed:
                keyed = replace(new, thread_id=claim.thread_id)
                # The same transaction creates the thread and completes the key. A crash leaves both or neither.
                if thread := await updates.create_thread(call.state.threads, call.tenant, keyed, supersteps, key):
                    return _counted(call, thread)
                raise _Taken
    except _Taken:
        return None
    async with call.state.pool.connection(call.filters) as conn:
        thread = await threads.get(conn, call.filters, claim.thread_id)
    if thread is None:
        raise NotFound(GONE)
    return thread


def _counted(call: AuthorizedRequest[Any, Any], thread: Thread | None) -> Thread | None:
    if thread is not None:
        call.state.quotas.count_thread(call.caller.identity)
    return thread


async def create_cron_once(call: AuthorizedRequest[Any, Any], new: NewCron) -> Cron | None:
    """Create a cron, at most once per idempotency key. Without a key, return None if its thread does not exist."""
    key, pool = call.idempotency_key, call.state.pool
    # Row-level security has one scope for a connection, but the statement has two filters: of crons and of their runs.
    visible = new.filters.in_common(new.runs)
    hold_row, identity = call.state.quotas.hold_row, call.caller.identity
    if key is None:
        async with pool.connection(visible) as conn, conn.transaction():
            # Before the insert: it locks the count of the principal, so that parallel requests cannot exceed the limit
            # together.
            await hold_row(conn, "crons", identity)
            return await crons.create(conn, ids.uuid7(), new)
    async with call.state.runs.keys.once(key, (), (ids.uuid7(),)) as claim:
        if not claim.replayed:
            async with pool.connection(visible) as conn, conn.transaction():
                await hold_row(conn, "crons", identity)
                cron = await crons.create(conn, claim.result_ids[0], new)
                if cron is None:
                    raise NotFound(f"Thread with ID {new.thread_id} not found")
                await idempotency_keys.complete(conn, key)
                return cron
    async with pool.connection(call.filters) as conn:
        cron = await crons.get(conn, call.filters, claim.result_ids[0])
    if cron is None:
        raise NotFound(GONE)
    return cron
