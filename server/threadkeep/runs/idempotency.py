"""Idempotency: a request that is sent again makes nothing more (docs/decisions/0013-idempotency.md).

A key is reserved, with the ids of what is to be made, before anything is; a request that is refused gives it back.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import anyio
from psycopg.errors import UniqueViolation

from threadkeep.base import ids
from threadkeep.base.problems import IdempotencyKeyInUse, IdempotencyKeyReused
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.runs.lease import Lease
from threadkeep.settings import Settings
from threadkeep.tables import idempotency_keys
from threadkeep.tables.idempotency_keys import IdempotencyKey, Reservation, StoredKey

GONE: Final = "what this Idempotency-Key made is gone"
RESERVATION_S = 60.0
"""What letting a request in may take beside the wait for a slot."""
RELEASE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedResult:
    """What a key stands for: already, or as soon as the caller makes it with these ids."""

    key: IdempotencyKey
    thread_ids: tuple[UUID, ...]
    result_ids: tuple[UUID, ...]
    replayed: bool
    """By an earlier request: there is nothing to make."""

    @property
    def thread_id(self) -> UUID:
        """The thread, where it is one."""
        return self.thread_ids[0]

    @property
    def run_id(self) -> UUID:
        """The run, where it is one."""
        return self.result_ids[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKeys:
    """Lets each request with a key have its effect once."""

    pool: Pool
    lease: Lease
    settings: Settings

    @asynccontextmanager
    async def once(
        self, key: IdempotencyKey, thread_ids: tuple[UUID, ...], *, more: int = 1
    ) -> AsyncGenerator[KeyedResult]:
        """The ids under which the block makes what is asked for, on `thread_ids`, or those under which it was made.

        `more` ids are chosen beside the threads'. The block settles `key` in the transaction that makes it. If it
        raises, the key is free again. IdempotencyKeyReused if the key stands for another request, IdempotencyKeyInUse if the first request
        is still being let in.
        """
        wanted = Reservation(
            reservation=uuid4(),
            worker_id=self.lease.worker_id,
            thread_ids=thread_ids,
            result_ids=[ids.uuid7() for _ in range(more)],
            reservation_s=self.settings.queue_timeout_s + RESERVATION_S,
            ttl_s=self.settings.idempotency_ttl_s,
        )
        held = await retry_conflicts(partial(self._reserve, key, wanted))
        made = KeyedResult(
            key=key, thread_ids=tuple(held.thread_ids), result_ids=tuple(held.result_ids), replayed=held.completed
        )
        if made.replayed:
            yield made
            return
        try:
            yield made
        except UniqueViolation:  # another request took the key over, or this one took it over from another
            await self._release(key, wanted)
            raise IdempotencyKeyInUse("another request with this Idempotency-Key was let in at the same time") from None
        except BaseException:
            await self._release(key, wanted)
            raise

    async def _reserve(self, key: IdempotencyKey, wanted: Reservation) -> StoredKey:
        async with self.pool.connection() as conn:
            taken = await idempotency_keys.reserve(conn, key, wanted)
            held = taken or await idempotency_keys.get(conn, key)
        if held is not None and held.request_sha256 != key.request_sha256:
            raise IdempotencyKeyReused("this Idempotency-Key was sent with another request")
        if held is None or (taken is None and not held.completed):
            raise IdempotencyKeyInUse("the first request with this Idempotency-Key is still being let in")
        return held

    async def _release(self, key: IdempotencyKey, wanted: Reservation) -> None:
        async def release() -> None:
            async with self.pool.connection() as conn:
                await idempotency_keys.release(conn, key, wanted.reservation)

        with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
            await retry_conflicts(release)
