"""Idempotent: requests with an `Idempotency-Key`, which may be sent again without doing more than once.

Without the header nothing of this happens. The same request is the same method, path and body, of the same principal.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, cast
from uuid import UUID

from psycopg.errors import UniqueViolation
from pydantic import BaseModel

from threadkeep.api.operation import Call
from threadkeep.base import ids
from threadkeep.base.problems import Invalid, KeyInUse, NotFound
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.admission import Admission, Admitted, enqueue_all
from threadkeep.runs.engine import Engine
from threadkeep.runs.idempotency import Made, once
from threadkeep.tables import crons, idempotency_keys, runs, threads
from threadkeep.tables.crons import Cron, Definition
from threadkeep.tables.idempotency_keys import Key
from threadkeep.tables.runs import Run
from threadkeep.tables.threads import NewThread, Thread
from threadkeep.threads import updates
from threadkeep.threads.updates import Superstep

HEADER: Final = "idempotency-key"
PLAIN: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""A key: visible ASCII."""
GONE: Final = "what this Idempotency-Key made is gone"


class _Taken(Exception):
    """There is a thread of that id, so that none was made; the key is free again."""


def key_of(call: Call[Any, Any]) -> Key | None:
    """The key of a request, or None where it has none; Invalid where it is too long or has other characters."""
    sent = call.request.headers.get(HEADER)
    if sent is None:
        return None
    if not PLAIN.fullmatch(sent):
        raise Invalid("Idempotency-Key must be 1 to 255 visible ASCII characters")
    asked = json.dumps([call.request.method, call.request.url.path, _plain(call.body)], sort_keys=True, default=str)
    principal = call.principal.identity if call.principal else ""
    return Key(principal=principal, key=sent, request=hashlib.sha256(asked.encode()).digest())


def _plain(body: object) -> object:
    if isinstance(body, list):
        return [_plain(one) for one in cast("list[object]", body)]
    return body.model_dump() if isinstance(body, BaseModel) else body


async def admit(
    call: Call[Any, Any], asked: Admission, by: Callable[[Engine, Filters, Admission], Awaitable[Admitted]]
) -> Admitted:
    """Let a run in `by` a way; with a key, once: the same request again gets the same run."""
    key = key_of(call)
    if key is None:
        return await by(call.engine, call.filters, asked)
    thread_id = asked.thread_id or ids.uuid7()
    async with once(call.engine, key, (thread_id,)) as made:
        if not made.before:
            keyed = replace(
                asked,
                thread_id=made.thread_id,
                create_thread=asked.create_thread or asked.thread_id is None,
                run_id=made.run_id,
                key=key,
            )
            try:
                return await by(call.engine, call.filters, keyed)
            except UniqueViolation:
                raise _raced() from None
    return await _admitted_before(call, made)


async def _admitted_before(call: Call[Any, Any], made: Made) -> Admitted:
    async with call.engine.pool.connection(call.filters) as conn:
        run = await runs.get(conn, call.filters, made.thread_id, made.run_id)
    if run is None:
        raise NotFound(GONE)
    return Admitted(run_id=run.run_id, thread_id=run.thread_id, run=run, live=None)


async def enqueue_several(call: Call[Any, Any], key: Key, asked: list[Admission]) -> list[Run]:
    """Put a batch in the queue, once."""
    fresh = tuple(ids.uuid7() for _ in asked)
    async with once(call.engine, key, fresh, more=len(asked)) as made:
        if not made.before:
            pairs = zip(asked, made.thread_ids, made.ids, strict=True)
            keyed = [
                replace(one, thread_id=thread_id, run_id=run_id, create_thread=True) for one, thread_id, run_id in pairs
            ]
            try:
                return await enqueue_all(call.engine, call.filters, keyed, key)
            except UniqueViolation:
                raise _raced() from None
    async with call.engine.pool.connection(call.filters) as conn:
        return await runs.get_several(conn, call.filters, made.ids)


async def create_thread(call: Call[Any, Any], new: NewThread, supersteps: list[Superstep]) -> Thread | None:
    """Make a thread, with a key once; None where the id is taken."""
    key = key_of(call)
    if key is None:
        return await updates.create_thread(call.engine, call.tenant, new, supersteps)
    try:
        async with once(call.engine, key, (new.thread_id,), more=0) as made:
            if not made.before:
                own = replace(new, thread_id=made.thread_id)
                if thread := await updates.create_thread(call.engine, call.tenant, own, supersteps, key):
                    return thread
                raise _Taken
    except _Taken:
        return None
    async with call.engine.pool.connection(call.filters) as conn:
        thread = await threads.get(conn, call.filters, made.thread_id)
    if thread is None:
        raise NotFound(GONE)
    return thread


async def create_cron(call: Call[Any, Any], of: tuple[UUID, UUID | None], definition: Definition) -> Cron | None:
    """Make a cron `of` an assistant and a thread, with a key once; None where there is no such thread."""
    key = key_of(call)
    if key is None:
        async with call.engine.pool.connection(call.filters) as conn, conn.transaction():
            return await crons.create(conn, call.filters, ids.uuid7(), of, definition)
    async with once(call.engine, key, ()) as made:
        if not made.before:
            async with call.engine.pool.connection(call.filters) as conn, conn.transaction():
                cron = await crons.create(conn, call.filters, made.ids[0], of, definition)
                if cron is None:
                    raise NotFound(f"Thread with ID {of[1]} not found")
                await idempotency_keys.settle(conn, key)
                return cron
    async with call.engine.pool.connection(call.filters) as conn:
        cron = await crons.get(conn, call.filters, made.ids[0])
    if cron is None:
        raise NotFound(GONE)
    return cron


def _raced() -> KeyInUse:
    """Somebody was faster: who took the key over after its time, or from whom it was taken."""
    return KeyInUse("another request with this Idempotency-Key was let in at the same time")
