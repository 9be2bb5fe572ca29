"""Group commit: commits checkpoint writes and run results of several runs in one transaction.

Each transaction is one statement on one connection, so it needs one round trip for any number of runs.
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
"""The most rows in one transaction, so that a large fan-out does not delay other runs."""
ROW_BYTES = 16 * 1024
"""Bytes of values that count as one row, so that several large states do not share one transaction."""

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


class DependencyFailed(Exception):
    """A write in a batch depends on a failed write. The batch writer then writes the rows of each caller separately."""


class Fence(NamedTuple):
    """A run and the lease of the process that executes it. Writes are refused once either is lost."""

    run_id: UUID
    worker_id: UUID


@dataclass(slots=True, kw_only=True)
class WriteSet:
    """The rows of one caller, which are written together or not at all."""

    blobs: Sequence[Blob] = ()
    checkpoints: Sequence[CheckpointRow] = ()
    upserts: Sequence[WriteRow] = ()
    """Writes that replace an earlier one: errors, interrupts, answers."""
    inserts: Sequence[WriteRow] = ()
    """Writes that never replace an earlier one."""
    run_result: FinishRequest | None = None
    """The result of a run."""
    undo: Sequence[UndoRow] = ()
    """Keys of rows in `checkpoint_writes` whose previous content is logged for a rollback of the run."""
    fence: Fence | None = None
    """The run that writes. The rows are refused if another process owns it (`workers.is_fenced`)."""
    synchronous_commit: bool = True
    """Flush them to disk. If false, the flush is deferred to a later commit with a flush, such as the run's result."""
    depends_on: Sequence["PendingWrite[WriteSet, Any]"] = ()
    """Earlier writes of the same run. If one of them failed, these rows are not written."""

    def __len__(self) -> int:
        written = (self.blobs, self.checkpoints, self.upserts, self.inserts, self.undo)
        return sum(map(len, written)) + (self.run_result is not None)

    @property
    def size_bytes(self) -> int:
        """The bytes of the values in the rows."""
        values = 0 if self.run_result is None else len(self.run_result.thread_values or b"")
        return values + sum(len(row[-1] or b"") for rows in (self.blobs, self.upserts, self.inserts) for row in rows)

    @property
    def weight(self) -> int:
        """The size in rows, where many bytes count as several rows."""
        return len(self) + self.size_bytes // ROW_BYTES


GroupCommit: TypeAlias = BatchWriter[WriteSet, bool | None]
"""The result of a write with a run result: True if it is written, False if another process owns the run, None if its
thread is locked. In the last case the caller writes it separately, so that other runs do not wait. Other writes: None."""


@asynccontextmanager
async def open_group_commit(
    pool: Pool, committed: OnCommit = lambda _callers, _seconds: None
) -> AsyncGenerator[GroupCommit]:
    """Yield a group commit whose writer runs until the block ends."""
    writer = BatchWriter(
        partial(_write_patiently, pool), size=lambda rows: rows.weight, most=MAX_ROWS, committed=committed
    )
    async with writer.run() as commits:
        yield commits


async def _write_patiently(pool: Pool, batch: list[WriteSet]) -> list[bool | None]:
    """Write a batch. If it has rows of a run, wait while Postgres is unavailable. Rows of requests do not wait.

    After a conflict, the batch writer retries the rows of each caller separately.
    """
    for dependency in (dependency for rows in batch for dependency in rows.depends_on):
        if dependency.error is not None:
            # In a batch another error, because a transient one would fail all its callers without a second try.
            raise dependency.error if len(batch) == 1 else DependencyFailed

    async def write() -> Mapping[str, bool]:
        async with pool.connection() as conn:
            return await write_all(conn, batch)

    patient = any(rows.fence for rows in batch)
    written = await (retry(write, conflicts=len(batch) == 1) if patient else write())
    return [written.get(str(rows.run_result.finished_run)) if rows.run_result else None for rows in batch]


async def write_all(conn: Conn, batch: list[WriteSet]) -> Mapping[str, bool]:
    """Write a batch in one statement. Returns by run id whether its result is written, without runs on locked threads.

    The statement also locks the runs that write, and fails if one of them is lost (`workers.is_fenced`). If no rows of the
    batch need a flush, the flush is deferred (docs/decisions/0010-deferred-flush.md).
    """
    merged = {name: rows for name, rows in _merged(batch).items() if rows}
    columns = [column for name, rows in merged.items() for column in _columns(rows, INSERTS[name][1])]
    fences = {rows.fence for rows in batch if rows.fence}
    run_ids, worker_ids = Texts(fence.run_id for fence in fences), Texts(fence.worker_id for fence in fences)
    ends = [rows.run_result for rows in batch if rows.run_result]
    deferred = not any(rows.synchronous_commit for rows in batch)
    # A key may be written twice in a batch, but its earlier content is logged once.
    undo = list({row: row for rows in batch for row in rows.undo})
    undo_columns = _columns(undo, "tttttn") if undo else []
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        _statement(tuple(merged), undo=bool(undo)),
        [*columns, run_ids, worker_ids, *undo_columns, deferred, *end_columns(ends), True],
    )
    # For the change streams of other processes. It is sent when the connection is released.
    for end in ends:
        conn.note_change(end.of_thread, end.finished_run)
    row = await cursor.fetchone()
    return row["finished"] if row else {}


def add_writes(rows: WriteSet, early: Sequence[WriteSet]) -> None:
    """Add the early writes to the rows of their checkpoint. `early` is in the order of the writes."""
    writes: dict[tuple[object, ...], WriteRow] = {}
    for early_rows in early:
        for row in early_rows.inserts:
            writes.setdefault(_key(row, 6), row)
        for row in early_rows.upserts:
            writes[_key(row, 6)] = row
    # The checkpoint is new, so it has no rows that an insert would have to keep.
    if any(early_rows.upserts for early_rows in early):
        rows.upserts = list(writes.values())
    else:
        rows.inserts = list(writes.values())


def _merged(batch: list[WriteSet]) -> Mapping[str, list[Any]]:
    """The rows of the batch by kind, once for each key, because a statement can't change a row twice."""
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
                AS new_row (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
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
"""By kind of rows: the insert, and a letter for each column for `_columns`."""
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
"""The main query. Postgres runs it before the inserts in the WITH clause, so the runs are locked first."""


@functools.cache
def _statement(kinds: tuple[str, ...], *, undo: bool) -> bytes:
    """The statement with only the inserts of `kinds`, because an insert without rows also takes time."""
    inserts = [sql.SQL("{} AS ({})").format(sql.Identifier(kind), INSERTS[kind][0]) for kind in kinds]
    main = LAST.format(UNDO if undo else sql.SQL(""), sql.SQL(FINISH_RUNS))
    # Bytes, because psycopg would otherwise compose the statement again for each batch.
    return (sql.SQL("WITH {} {}").format(sql.SQL(", ").join(inserts), main) if inserts else main).as_bytes(None)


def _last(batch: list[WriteSet], part: Callable[[WriteSet], Sequence[Row]], key: int) -> list[Row]:
    return list({_key(row, key): row for rows in batch for row in part(rows)}.values())


def _first(batch: list[WriteSet], part: Callable[[WriteSet], Sequence[Row]], key: int) -> list[Row]:
    rows_by_key: dict[tuple[object, ...], Row] = {}
    for rows in batch:
        for row in part(rows):
            rows_by_key.setdefault(_key(row, key), row)
    return list(rows_by_key.values())


def _key(row: Sequence[Any], length: int) -> tuple[object, ...]:
    """The primary key of a row. In a write, the task's path before the index is not a part of it."""
    return tuple(row[:length]) if length < 6 else (*row[:4], row[5])


def _columns(rows: Iterable[Sequence[Any]], kinds: str) -> list[Texts | Blobs | Ints]:
    """The rows' columns as arrays. `kinds` has a letter for each column: text, bytes, or number."""
    columns = zip(*rows, strict=True)
    return [KINDS[kind](column) for kind, column in zip(kinds, columns, strict=True)]
