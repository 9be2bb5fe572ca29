"""Idempotency: a repeated request with the same key has its effect once (docs/decisions/0013-idempotency.md).

A key is reserved together with the ids of the new rows, before the rows are created. A request that fails releases its
key.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import anyio
from psycopg.errors import UniqueViolation

from threadkeep.base.problems import IdempotencyKeyInUse, IdempotencyKeyReused
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import retry_conflicts
from threadkeep.runs.lease import Lease
from threadkeep.settings import Settings
from threadkeep.tables import idempotency_keys
from threadkeep.tables.idempotency_keys import IdempotencyKey, Reservation, StoredKey

GONE: Final = "the rows that this Idempotency-Key created were deleted"
RESERVATION_S = 60.0
"""Seconds that admission may take, without the wait for a slot."""
RELEASE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedResult:
    """The ids that belong to a key. The caller must create the rows unless `replayed` is true."""

    key: IdempotencyKey
    thread_ids: tuple[UUID, ...]
    result_ids: tuple[UUID, ...]
    replayed: bool
    """An earlier request has created them."""

    @property
    def thread_id(self) -> UUID:
        """The thread, if the key belongs to a single thread."""
        return self.thread_ids[0]

    @property
    def run_id(self) -> UUID:
        """The run, if the key belongs to a single run."""
        return self.result_ids[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKeys:
    """Gives each request with an idempotency key its effect once."""

    pool: Pool
    lease: Lease
    settings: Settings

    @asynccontextmanager
    async def once(
        self, key: IdempotencyKey, thread_ids: tuple[UUID, ...], result_ids: Sequence[UUID]
    ) -> AsyncGenerator[KeyedResult]:
        """Yield the ids that the block creates its rows with, or those of an earlier request with the same key.

        `result_ids` are the ids of the new rows, and `thread_ids` those of their threads. The transaction that creates the
        rows must also complete `key`. If the block raises, the key is released. IdempotencyKeyReused if the key belongs to
        another request, IdempotencyKeyInUse if the first request is still in admission.
        """
        reservation = self._reservation(thread_ids, result_ids)
        stored = await retry_conflicts(partial(self._reserve, key, reservation))
        result = KeyedResult(
            key=key, thread_ids=tuple(stored.thread_ids), result_ids=tuple(stored.result_ids), replayed=stored.completed
        )
        if result.replayed:
            yield result
            return
        try:
            yield result
        except UniqueViolation:  # two requests used the same key: one took over the other's reservation
            await self._release(key, reservation)
            raise IdempotencyKeyInUse("another request with this Idempotency-Key started at the same time") from None
        # Also for a cancellation, which is no Exception.
        except BaseException:
            await self._release(key, reservation)
            raise

    @asynccontextmanager
    async def held(self, key: IdempotencyKey) -> AsyncGenerator[None]:
        """Keep other requests with the key out while the block runs. Afterwards the key is as free as before.

        IdempotencyKeyReused if the key belongs to another request, IdempotencyKeyInUse if the same request has it.
        """
        reservation = self._reservation((), ())
        stored = await retry_conflicts(partial(self._reserve, key, reservation))
        if stored.completed:
            raise IdempotencyKeyReused("this Idempotency-Key has created its rows")
        try:
            yield
        finally:
            await self._release(key, reservation)

    def _reservation(self, thread_ids: Sequence[UUID], result_ids: Sequence[UUID]) -> Reservation:
        return Reservation(
            reservation=uuid4(),
            worker_id=self.lease.worker_id,
            thread_ids=thread_ids,
            result_ids=list(result_ids),
            reservation_s=self.settings.queue_timeout_s + RESERVATION_S,
            ttl_s=self.settings.idempotency_ttl_s,
        )

    async def _reserve(self, key: IdempotencyKey, reservation: Reservation) -> StoredKey:
        async with self.pool.connection() as conn:
            reserved = await idempotency_keys.reserve(conn, key, reservation)
            # A later statement, because only this one sees the row of a transaction that `reserve` waited for.
            stored = reserved or await idempotency_keys.get(conn, key)
        if stored is not None and stored.request_sha256 != key.request_sha256:
            raise IdempotencyKeyReused("this Idempotency-Key was sent with a different request")
        if stored is None or (reserved is None and not stored.completed):
            raise IdempotencyKeyInUse("the first request with this Idempotency-Key is still being processed")
        return stored

    async def _release(self, key: IdempotencyKey, reservation: Reservation) -> None:
        async def release() -> None:
            async with self.pool.connection() as conn:
                await idempotency_keys.release(conn, key, reservation.reservation)

        # A disconnect has cancelled this task. Without the release a repeated request would get 409 until the
        # reservation ends.
        with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
            await retry_conflicts(release)
