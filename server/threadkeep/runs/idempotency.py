"""Idempotency: a request that is sent again makes nothing more (docs/decisions/0013-idempotency.md).

A key is reserved, with the ids of what is to be made, before anything is; a request that is refused gives it back.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio

from threadkeep.base import ids
from threadkeep.base.problems import KeyInUse, KeyReused
from threadkeep.runs.engine import Engine
from threadkeep.tables import idempotency_keys
from threadkeep.tables.idempotency_keys import Held, Key, Reservation

RESERVE_S = 60.0
"""What letting a request in may take beside the wait for a slot."""
RELEASE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a key stands for: already, or as soon as the caller makes it with these ids."""

    key: Key
    thread_ids: tuple[UUID, ...]
    ids: tuple[UUID, ...]
    before: bool
    """By an earlier request: there is nothing to make."""

    @property
    def thread_id(self) -> UUID:
        """The thread, where it is one."""
        return self.thread_ids[0]

    @property
    def run_id(self) -> UUID:
        """The run, where it is one."""
        return self.ids[0]


@asynccontextmanager
async def once(engine: Engine, key: Key, thread_ids: tuple[UUID, ...], *, more: int = 1) -> AsyncGenerator[Made]:
    """The ids under which the block makes what is asked for, on `thread_ids`, or those under which it was made.

    `more` ids are chosen beside the threads'. The block settles `key` in the transaction that makes it; where it
    raises, the key is free again. KeyReused where it stands for another request, KeyInUse where that one is still
    being let in.
    """
    wanted = Reservation(
        reservation=uuid4(),
        worker_id=engine.worker_id,
        thread_ids=thread_ids,
        ids=[ids.uuid7() for _ in range(more)],
        reserve_s=engine.settings.queue_timeout_s + RESERVE_S,
        keep_s=engine.settings.idempotency_s,
    )
    held = await _reserve(engine, key, wanted)
    made = Made(key=key, thread_ids=tuple(held.thread_ids), ids=tuple(held.ids), before=held.opened)
    if made.before:
        yield made
        return
    try:
        yield made
    except BaseException:
        with anyio.move_on_after(RELEASE_S, shield=True):
            async with engine.pool.connection() as conn:
                await idempotency_keys.release(conn, key, wanted.reservation)
        raise


async def _reserve(engine: Engine, key: Key, wanted: Reservation) -> Held:
    async with engine.pool.connection() as conn:
        taken = await idempotency_keys.reserve(conn, key, wanted)
        held = taken or await idempotency_keys.get(conn, key)
    if held is not None and held.request != key.request:
        raise KeyReused("this Idempotency-Key was sent with another request")
    if held is None or (taken is None and not held.opened):
        raise KeyInUse("the first request with this Idempotency-Key is still being let in")
    return held
