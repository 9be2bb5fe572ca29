"""Group commit: the checkpoint writes of all runs, gathered into one transaction after the other on one connection."""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from threadkeep.db import workers
from threadkeep.db.arrays import Blobs, Ints, Texts
from threadkeep.db.outage import outlast
from threadkeep.db.pool import Conn, Pool, defer_flush
from threadkeep.db.together import Committed, Together

MAX_ROWS = 2000
"""Rows of one transaction, so that a large fan-out does not make the others wait long."""

Blob: TypeAlias = tuple[str, str, str, str, str, bytes | None]
"""thread, namespace, channel, version, type, bytes"""
CheckpointRow: TypeAlias = tuple[str, str, str, str | None, str, str]
"""thread, namespace, id, parent's id, checkpoint as JSON, metadata as JSON"""
WriteRow: TypeAlias = tuple[str, str, str, str, str, int, str, str, bytes]
"""thread, namespace, checkpoint's id, task's id, task's path, index, channel, type, bytes"""
Row = TypeVar("Row", bound=Sequence[Any])
KINDS = {"t": Texts, "b": Blobs, "n": Ints}


@dataclass(slots=True, kw_only=True)
class Rows:
    """What one caller wants to have written, all or nothing."""

    blobs: Sequence[Blob] = ()
    checkpoints: Sequence[CheckpointRow] = ()
    replacing: Sequence[WriteRow] = ()
    """Writes that take the place of an earlier one: errors, interrupts, answers."""
    adding: Sequence[WriteRow] = ()
    """Writes of which the first stands."""
    lease: UUID | None = None
    """What the run is held by; the rows are refused where it was lost."""
    flushed: bool = True
    """Not before they are on disk. Otherwise it is enough that Postgres has them: whoever commits after them with a
    flush, as the end of a run does, flushes them too."""

    def __len__(self) -> int:
        return len(self.blobs) + len(self.checkpoints) + len(self.replacing) + len(self.adding)


GroupCommit: TypeAlias = Together[Rows]


@asynccontextmanager
async def committing(pool: Pool, committed: Committed = lambda _callers, _seconds: None) -> AsyncGenerator[GroupCommit]:
    """A group commit whose writer runs until the block ends."""
    gathered = Together(partial(_insert_patiently, pool), size=len, most=MAX_ROWS, committed=committed)
    async with gathered.running() as commits:
        yield commits


async def _insert_patiently(pool: Pool, batch: list[Rows]) -> None:
    """A run's rows wait for Postgres to come back; a request's alone do not."""

    async def insert() -> None:
        async with pool.connection() as conn:
            await _insert(conn, batch)

    await (outlast(insert) if any(rows.lease for rows in batch) else insert())


async def _insert(conn: Conn, batch: list[Rows]) -> None:
    """One round trip and one transaction. Rows of one key twice are one row: Postgres changes none twice at once."""
    blobs = _first(batch, lambda rows: rows.blobs, 4)
    checkpoints = _last(batch, lambda rows: rows.checkpoints, 3)
    replacing = _last(batch, lambda rows: rows.replacing, 6)
    adding = _first(batch, lambda rows: rows.adding, 6)
    async with conn.pipeline():
        deferred, leases = not any(rows.flushed for rows in batch), {rows.lease for rows in batch if rows.lease}
        for lease in leases:
            await workers.hold(conn, lease, deferred=deferred)
        if deferred and not leases:
            await defer_flush(conn)
        if blobs:
            await _insert_blobs(conn, blobs)
        if checkpoints:
            await _insert_checkpoints(conn, checkpoints)
        if replacing:
            await _replace_writes(conn, replacing)
        if adding:
            await _add_writes(conn, adding)


def _last(batch: list[Rows], part: Callable[[Rows], Sequence[Row]], key: int) -> list[Row]:
    return list({_key(row, key): row for rows in batch for row in part(rows)}.values())


def _first(batch: list[Rows], part: Callable[[Rows], Sequence[Row]], key: int) -> list[Row]:
    found: dict[tuple[object, ...], Row] = {}
    for rows in batch:
        for row in part(rows):
            found.setdefault(_key(row, key), row)
    return list(found.values())


def _key(row: Sequence[Any], length: int) -> tuple[object, ...]:
    """The primary key; of a write, the task's path stands before the index and is no part of it."""
    return tuple(row[:length]) if length < 6 else (*row[:4], row[5])


def _columns(rows: Iterable[Sequence[Any]], kinds: str) -> list[Texts | Blobs | Ints]:
    """The rows' columns as arrays; `kinds` has a letter a column: a text, bytes, or a number."""
    columns = zip(*rows, strict=True)
    return [KINDS[kind](column) for kind, column in zip(kinds, columns, strict=True)]


async def _insert_blobs(conn: Conn, rows: list[Blob]) -> None:
    await conn.execute(
        """
        INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[])
        ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
        """,
        _columns(rows, "tttttb"),
    )


async def _insert_checkpoints(conn: Conn, rows: list[CheckpointRow]) -> None:
    await conn.execute(
        """
        INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
        SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::jsonb, metadata::jsonb
          FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
            AS given (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
        ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
        DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
        """,
        _columns(rows, "tttttt"),
    )


async def _replace_writes(conn: Conn, rows: list[WriteRow]) -> None:
    await conn.execute(
        """
        INSERT INTO checkpoint_writes
               (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                             %s::int[], %s::text[], %s::text[], %s::bytea[])
        ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
        DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob
        """,
        _columns(rows, "tttttnttb"),
    )


async def _add_writes(conn: Conn, rows: list[WriteRow]) -> None:
    await conn.execute(
        """
        INSERT INTO checkpoint_writes
               (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                             %s::int[], %s::text[], %s::text[], %s::bytea[])
        ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO NOTHING
        """,
        _columns(rows, "tttttnttb"),
    )
