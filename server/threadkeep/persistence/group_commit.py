"""Group commit: the checkpoint writes of all runs, and the ends of runs, gathered into one transaction after the other.

Each transaction is one statement on one connection, so one round trip, however many runs have something in it.
"""

import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from psycopg import sql
from psycopg.rows import dict_row

from threadkeep.postgres.arrays import Blobs, Ints, Texts
from threadkeep.postgres.batch_writer import BatchWriter, OnCommit, PendingWrite
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import retry
from threadkeep.tables.queue import FINISH_RUNS, FinishRequest, end_columns

MAX_ROWS = 2000
"""Rows of one transaction, so that a large fan-out does not make the others wait long."""
ROW_BYTES = 16 * 1024
"""Of values, which count as a row: large states of several runs do not all go in one."""

Blob: TypeAlias = tuple[str, str, str, str, str, bytes | None]
"""thread, namespace, channel, version, type, bytes"""
CheckpointRow: TypeAlias = tuple[str, str, str, str | None, str, str]
"""thread, namespace, id, parent's id, checkpoint as JSON, metadata as JSON"""
WriteRow: TypeAlias = tuple[str, str, str, str, str, int, str, str, bytes]
"""thread, namespace, checkpoint's id, task's id, task's path, index, channel, type, bytes"""
UndoRow: TypeAlias = tuple[str, str, str, str, str, int]
"""run, thread, namespace, checkpoint's id, task's id, index"""
Row = TypeVar("Row", bound=Sequence[Any])
KINDS: Final = {"t": Texts, "b": Blobs, "n": Ints}


class Fence(NamedTuple):
    """A run and the lease of the process that executes it. Writes are refused once either is lost."""

    run_id: UUID
    worker_id: UUID


@dataclass(slots=True, kw_only=True)
class WriteSet:
    """What one caller wants to have written, all or nothing."""

    blobs: Sequence[Blob] = ()
    checkpoints: Sequence[CheckpointRow] = ()
    upserts: Sequence[WriteRow] = ()
    """Writes that take the place of an earlier one: errors, interrupts, answers."""
    inserts: Sequence[WriteRow] = ()
    """Writes of which the first stands."""
    run_result: FinishRequest | None = None
    """The end of a run."""
    undo: Sequence[UndoRow] = ()
    """Keys of rows in `checkpoint_writes` whose content before this write is kept for a rollback of the run."""
    fence: Fence | None = None
    """The run that writes; the rows are refused if it is no longer this process's (`workers.is_fenced`)."""
    synchronous_commit: bool = True
    """Not before they are on disk. Otherwise it is enough that Postgres has them: whoever commits after them with a
    flush, as the end of a run does, flushes them too."""
    depends_on: Sequence["PendingWrite[WriteSet, Any]"] = ()
    """What was handed in before by the same run: where that could not be written, neither can these."""

    def __len__(self) -> int:
        written = (self.blobs, self.checkpoints, self.upserts, self.inserts, self.undo)
        return sum(map(len, written)) + (self.run_result is not None)

    @property
    def size_bytes(self) -> int:
        """Of the values in them."""
        values = 0 if self.run_result is None else len(self.run_result.thread_values or b"")
        return values + sum(len(row[-1] or b"") for rows in (self.blobs, self.upserts, self.inserts) for row in rows)

    @property
    def weight(self) -> int:
        """In rows: what has many bytes is as much work as many rows."""
        return len(self) + self.size_bytes // ROW_BYTES


GroupCommit: TypeAlias = BatchWriter[WriteSet, bool | None]
"""What comes of an end: True, it is written; False, the run is no longer its worker's; None, its thread is locked by
somebody for whom the others shall not wait. Of other rows nothing comes."""


@asynccontextmanager
async def open_group_commit(
    pool: Pool, committed: OnCommit = lambda _callers, _seconds: None
) -> AsyncGenerator[GroupCommit]:
    """A group commit whose writer runs until the block ends."""
    gathered = BatchWriter(
        partial(_write_patiently, pool), size=lambda rows: rows.weight, most=MAX_ROWS, committed=committed
    )
    async with gathered.run() as commits:
        yield commits


async def _write_patiently(pool: Pool, batch: list[WriteSet]) -> list[bool | None]:
    """A run's rows wait for Postgres to come back; a request's alone do not.

    Rows of several callers are not tried again together after a conflict: the batch writer tries each alone.
    """
    for before in (before for rows in batch for before in rows.depends_on):
        if before.error is not None:
            raise before.error

    async def write() -> Mapping[str, bool]:
        async with pool.connection() as conn:
            return await write_all(conn, batch)

    patient = any(rows.fence for rows in batch)
    written = await (retry(write, conflicts=len(batch) == 1) if patient else write())
    return [written.get(str(rows.run_result.finished_run)) if rows.run_result else None for rows in batch]


async def write_all(conn: Conn, batch: list[WriteSet]) -> Mapping[str, bool]:
    """Write a batch in one statement; by run, whether its end is written. The ends whose thread is locked are left out.

    The same statement holds the runs that write, and fails if one of them is lost (`workers.is_fenced`). If no rows of
    the batch are to be flushed, it is not waited for on disk (docs/decisions/0010-deferred-flush.md).
    """
    given = {name: rows for name, rows in _merged(batch).items() if rows}
    columns = [column for name, rows in given.items() for column in _columns(rows, INSERTS[name][1])]
    fences = {rows.fence for rows in batch if rows.fence}
    run_ids, worker_ids = Texts(fence.run_id for fence in fences), Texts(fence.worker_id for fence in fences)
    ends = [rows.run_result for rows in batch if rows.run_result]
    deferred = not any(rows.synchronous_commit for rows in batch)
    undo = list({row: row for rows in batch for row in rows.undo})
    before = _columns(undo, "tttttn") if undo else []
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        _statement(tuple(given), undo=bool(undo)),
        [*columns, run_ids, worker_ids, *before, deferred, *end_columns(ends)],
    )
    row = await cursor.fetchone()
    return row["finished"] if row else {}


def add_writes(rows: WriteSet, early: Sequence[WriteSet]) -> None:
    """Add to the rows of a new checkpoint the writes to it, which come in their order."""
    writes: dict[tuple[object, ...], WriteRow] = {}
    for each in early:
        for row in each.inserts:
            writes.setdefault(_key(row, 6), row)
        for row in each.upserts:
            writes[_key(row, 6)] = row
    if any(each.upserts for each in early):
        rows.upserts = list(writes.values())
    else:
        rows.inserts = list(writes.values())


def _merged(batch: list[WriteSet]) -> Mapping[str, list[Any]]:
    """Rows of one key twice are one row: Postgres changes none twice in a statement."""
    return {
        "blobs": _first(batch, lambda rows: rows.blobs, 4),
        "checkpoints": _last(batch, lambda rows: rows.checkpoints, 3),
        "replacing": _last(batch, lambda rows: rows.upserts, 6),
        "adding": _first(batch, lambda rows: rows.inserts, 6),
    }


INTO_WRITES: Final = sql.SQL(
    """
    INSERT INTO checkpoint_writes
           (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                         %s::int[], %s::text[], %s::text[], %s::bytea[])
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) {}
    """
)
INSERTS: Final[Mapping[str, tuple[sql.Composable, str]]] = {
    "blobs": (
        sql.SQL(
            """
            INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
            SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[])
            ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
            """
        ),
        "tttttb",
    ),
    "checkpoints": (
        sql.SQL(
            """
            INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
            SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::jsonb, metadata::jsonb
              FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
                AS given (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
            ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
            DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
            """
        ),
        "tttttt",
    ),
    "replacing": (
        INTO_WRITES.format(
            sql.SQL("DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob")
        ),
        "tttttnttb",
    ),
    "adding": (INTO_WRITES.format(sql.SQL("DO NOTHING")), "tttttnttb"),
}
"""By kind of rows: how they are inserted, and a letter for each column as `_columns` takes it."""
UNDO: Final = sql.SQL(
    """
           (SELECT log_undo(array_agg(
                       ROW(changed.run_id::uuid, changed.checkpoint_ns, changed.checkpoint_id, changed.task_id, changed.idx,
                           before.thread_id IS NOT NULL, before.channel, before.type, before.blob, before.task_path
                       )::run_undo_log))
              FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[])
                AS changed (run_id, thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
              LEFT JOIN checkpoint_writes AS before USING (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)),
    """
)
LAST: Final = sql.SQL(
    """
    SELECT check_leases(%s::text[]::uuid[], %s::text[]::uuid[]),
           {}
           (SELECT set_config('synchronous_commit', 'off', true) WHERE %s),
           {} AS finished
    """
)
"""The main query, which Postgres runs before the inserts in front of it: first the runs are held."""


@functools.cache
def _statement(kinds: tuple[str, ...], *, undo: bool) -> bytes:
    """The inserts of `kinds`, the leases and the ends: an insert of nothing costs too."""
    inserts = [sql.SQL("{} AS ({})").format(sql.Identifier(kind), INSERTS[kind][0]) for kind in kinds]
    main = LAST.format(UNDO if undo else sql.SQL(""), sql.SQL(FINISH_RUNS))
    return (sql.SQL("WITH {} {}").format(sql.SQL(", ").join(inserts), main) if inserts else main).as_bytes(None)


def _last(batch: list[WriteSet], part: Callable[[WriteSet], Sequence[Row]], key: int) -> list[Row]:
    return list({_key(row, key): row for rows in batch for row in part(rows)}.values())


def _first(batch: list[WriteSet], part: Callable[[WriteSet], Sequence[Row]], key: int) -> list[Row]:
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
