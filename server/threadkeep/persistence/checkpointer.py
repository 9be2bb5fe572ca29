"""Checkpoints: the checkpointer of every graph.

Tables and rows are the stock saver's, so that either reads what the other wrote. The stock one holds an
`asyncio.Lock` round every statement, pool or not, and hops through a thread to serialise; this one reads on any
connection of its pool, writes by group commit, and serialises in place what is small.
"""

import copy
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import orjson
from anyio import to_thread
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import PRUNE_SNAPSHOT_SQL
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage] - the stock saver's
from psycopg import AsyncCursor
from psycopg.pq import Format
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from threadkeep.base.problems import CheckpointUnreadable, NotFound
from threadkeep.persistence import group_commit
from threadkeep.persistence.encoding import NotKept
from threadkeep.persistence.group_commit import GroupCommit, WriteSet
from threadkeep.persistence.serializer import Serializer
from threadkeep.persistence.state_limits import THREAD_OFFLOAD_BYTES, check_channel_size, seems_large
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import retry_in_run
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters

if TYPE_CHECKING:
    from threadkeep.persistence.write_behind import WriteBehind

log = logging.getLogger(__name__)

DEFAULT_MAX_CHANNEL_BYTES = 16 * 1024 * 1024
"""The largest value of a channel, unless the operator says otherwise."""
MAX_TRACKED_CHANNELS = 10_000
FLOAT_LIMIT: Final = 1e16
"""From here on jsonb gives a float back as an integer, of another value. Neither NaN nor infinity is below it."""
PRIMITIVES = frozenset({str, int, float, bool})
"""What a checkpoint's JSON holds itself."""

DURABILITY_KEY = "__pregel_durability"
"""Where LangGraph hands a run's durability down."""
WRITE_BEHIND_KEY = "__pregel_threadkeep_writes"
"""The `configurable` key of a run's `WriteBehind`; LangGraph tells nobody of keys that begin so."""

AUTH_KEYS = frozenset({"langgraph_auth_user", "langgraph_auth_user_id", "langgraph_auth_permissions"})
"""The `configurable` keys that hold the user of a run: LangGraph would put their texts into the metadata."""

NEW_THREAD_KEY = "__pregel_threadkeep_fresh"
"""The `configurable` key of a `NewThreadHint`, for the first run of a thread."""

Packed = TypeVar("Packed", bound=Sequence[Any])
Result = TypeVar("Result")

SELECT: Final = """
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata,
           (SELECT array_agg(ARRAY[convert_to(held.channel, 'UTF8'), convert_to(blob.type, 'UTF8'), blob.blob])
              FROM jsonb_each_text(checkpoint -> 'channel_versions') AS held (channel, version)
             CROSS JOIN LATERAL (
                SELECT type, blob
                  FROM checkpoint_blobs AS kept
                 WHERE kept.thread_id = checkpoints.thread_id AND kept.checkpoint_ns = checkpoints.checkpoint_ns
                   AND kept.channel = held.channel AND kept.version = held.version
                 LIMIT 1 -- there is one; said, so that no plan reads all that the thread ever held
             ) AS blob
           ) AS channel_values,
           (SELECT array_agg(ARRAY[convert_to(task_id, 'UTF8'), convert_to(channel, 'UTF8'), convert_to(type, 'UTF8'), blob,
                                   convert_to(task_path, 'UTF8'), convert_to(idx::text, 'UTF8')])
              FROM checkpoint_writes AS written
             WHERE written.thread_id = checkpoints.thread_id AND written.checkpoint_ns = checkpoints.checkpoint_ns
               AND written.checkpoint_id = checkpoints.checkpoint_id
           ) AS pending_writes
      FROM checkpoints
"""
"""A checkpoint with the channels and the writes that belong to it, as the stock saver reads it."""


class NewThreadHint:
    """Says that a thread was made for this run, so that its newest checkpoint need not be looked for, once."""

    def __init__(self) -> None:
        self._read = False

    def is_first_read(self, named: Mapping[str, Any]) -> bool:
        """Whether this reads the newest checkpoint of the thread itself, for the first time."""
        if self._read or named.get("checkpoint_ns") or named.get("checkpoint_id"):
            return False
        self._read = True
        return True


class Checkpointer(AsyncPostgresSaver):
    """The stock saver's tables, without its lock. A copy (`with_allowlist`, `scoped`) shares pool and group commit."""

    SELECT_SQL = SELECT

    def __init__(
        self,
        pool: Pool,
        commits: GroupCommit,
        serde: SerializerProtocol | None = None,
        *,
        channel_bytes: int = DEFAULT_MAX_CHANNEL_BYTES,
    ) -> None:
        super().__init__(cast("Any", pool), serde=serde or Serializer())
        self._pool = pool
        self.filters = UNRESTRICTED
        self.max_channel_bytes = channel_bytes
        self._commits = commits
        self._large: set[str] = set()
        """Channels whose values are large."""

    def scoped(self, filters: Filters) -> "Checkpointer":
        """This checkpointer, whose reads see a caller's threads alone; its writes stay the server's own."""
        if filters.restriction is None:
            return self
        scoped = copy.copy(self)
        scoped.filters = filters
        return scoped

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        async with (
            self._pool.connection(self.filters) as conn,
            conn.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            if not pipeline:
                yield cursor
                return
            async with conn.pipeline():
                yield cursor

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint, as durable as its run asks for; the config that names it."""
        named = config.get("configurable", {})
        thread_id, namespace = named["thread_id"], named["checkpoint_ns"]
        inline, blobs = _split(checkpoint["channel_values"], all_apart=isinstance(self.serde, EncryptedSerializer))
        versions = {channel: version for channel, version in new_versions.items() if channel in blobs}
        packed = await self._packed(
            [(channel, blobs[channel]) for channel in versions],
            lambda: self._dump_blobs(thread_id, namespace, blobs, cast("Any", versions)),
        )
        row = (
            thread_id,
            namespace,
            checkpoint["id"],
            named.get("checkpoint_id"),
            _json({**checkpoint, "channel_values": inline}),
            _json({**get_serializable_checkpoint_metadata(without_auth(config), metadata), "thread_id": thread_id}),
        )
        rows = WriteSet(blobs=packed, checkpoints=[row])
        run: WriteBehind | None = named.get(WRITE_BEHIND_KEY)
        if run is not None:
            run.add_early((namespace, checkpoint["id"]), rows)
        await self._write(named, rows)
        return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save what a task wrote, as durable as its run asks for. Errors and interrupts are waited for in any case.

        What comes before its checkpoint is saved with it.
        """
        named = config.get("configurable", {})
        place = (named["thread_id"], named["checkpoint_ns"], named["checkpoint_id"])
        packed = await self._packed(writes, lambda: self._dump_writes(*place, task_id, task_path, writes))
        replaces = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        rows = WriteSet(upserts=packed) if replaces else WriteSet(inserts=packed)
        run: WriteBehind | None = named.get(WRITE_BEHIND_KEY)
        if run is not None and run.hold_early(place[1:], rows):
            return
        if run is not None and run.is_inherited(place[1:]):
            rows.undo = [(str(run.fence.run_id), *place, task_id, row[5]) for row in packed]
        await self._write(named, rows)

    async def _write(self, named: Mapping[str, Any], rows: WriteSet) -> None:
        """Hand `rows` to the group commit, and wait for them unless they are written behind.

        Each step has to be on disk, unless a run said that it wants less. Its end is on disk in any case.
        """
        writes: WriteBehind | None = named.get(WRITE_BEHIND_KEY)
        rows.synchronous_commit = named.get(DURABILITY_KEY, "sync") == "sync"
        if writes is not None and not rows.synchronous_commit and not rows.upserts:
            await writes.submit(rows)
            return
        await (self._commits if writes is None else writes).write(rows)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the thread's newest. NotFound if a run starts at one that is gone."""
        named = config.get("configurable", {})
        if (fresh := named.get(NEW_THREAD_KEY)) and fresh.is_first_read(named):
            return None
        await _caught_up(config)
        with _readable(config):
            checkpoint = await self._read(lambda: super(Checkpointer, self).aget_tuple(config))
        if (
            checkpoint is None
            and WRITE_BEHIND_KEY in named
            and named.get("checkpoint_id")
            and not named.get("checkpoint_ns")
        ):
            # LangGraph would start from nothing, and the thread would lose what it holds.
            raise NotFound(f"Checkpoint {named['checkpoint_id']} not found")
        _note_read(config, checkpoint)
        return checkpoint

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints of a thread, the newest first, as the stock saver has them."""
        await _caught_up(config)
        async with aclosing(cast("AsyncGenerator[CheckpointTuple]", super().alist(config, **options))) as checkpoints:
            with _readable(config or {}):
                async for found in checkpoints:
                    _note_read(config, found)
                    yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the channels were made of, as the stock saver has it."""
        await _caught_up(config)
        stock = super().aget_delta_channel_history
        return await self._read(lambda: stock(config=config, channels=channels))

    async def _read(self, work: Callable[[], Awaitable[Result]]) -> Result:
        return await retry_in_run(work)

    async def _packed(self, values: Sequence[tuple[str, Any]], dump: Callable[[], list[Packed]]) -> list[Packed]:
        """The rows of `dump`, one for each of `values`, made in a thread where one of these is large, or has been before.

        StateTooLarge where one is above the cap, NotKept where one has no form.
        """
        large = any(channel in self._large or seems_large(value) for channel, value in values)
        try:
            packed = await to_thread.run_sync(dump) if large else dump()
        except NotKept:
            raise self._refused(values) from None
        for (channel, _), row in zip(values, packed, strict=True):
            size = len(row[-1] or b"")
            check_channel_size(channel, size, self.max_channel_bytes)
            if size > THREAD_OFFLOAD_BYTES and len(self._large) < MAX_TRACKED_CHANNELS:
                self._large.add(channel)
        return packed

    def _refused(self, values: Sequence[tuple[str, Any]]) -> NotKept:
        """Which channel has no form, and why."""
        for channel, value in values:
            try:
                self.serde.dumps_typed(value)
            except NotKept as refusal:
                return NotKept(f"the channel {channel[:100]!r}: {refusal}")
        return NotKept("a value changed while it was written")

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """As the stock saver's, but in place unless it is large: the hop through a thread costs more than small writes do.

        CheckpointUnreadable where it holds what is not read back, whatever the reason.
        """
        try:
            if _size(value) > THREAD_OFFLOAD_BYTES:
                return await to_thread.run_sync(self._loaded, value)
            return self._loaded(value)
        except Exception as failure:  # noqa: BLE001 - a row may hold anything
            raise _unreadable(value["thread_id"], failure) from None

    def _loaded(self, value: DictRow) -> CheckpointTuple:
        named = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
        inline: dict[str, Any] = value["checkpoint"].get("channel_values") or {}
        blobs = self._load_blobs(value["channel_values"])
        checkpoint: Any = {**value["checkpoint"], "channel_values": {**inline, **blobs}}
        parent = value["parent_checkpoint_id"]
        return CheckpointTuple(
            {"configurable": {**named, "checkpoint_id": value["checkpoint_id"]}},
            checkpoint,
            value["metadata"],
            {"configurable": {**named, "checkpoint_id": parent}} if parent else None,
            self._load_writes(value["pending_writes"]),
        )


def _size(row: DictRow) -> int:
    """The bytes of the blobs of a checkpoint's row."""
    channels, writes = row["channel_values"] or (), row["pending_writes"] or ()
    return sum(len(channel[2] or b"") for channel in channels) + sum(len(write[3] or b"") for write in writes)


class TransactionCheckpoints(Checkpointer):
    """Reads and writes in the caller's transaction on one connection: all or nothing, with what else it does there."""

    def __init__(self, checkpoints: Checkpointer, conn: Conn) -> None:
        self.__dict__.update(checkpoints.__dict__)
        self._conn = conn

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        del pipeline
        cursor: AsyncCursor[DictRow] = _CursorInTransaction(self._conn, row_factory=dict_row)
        cursor.format = Format.BINARY
        set_json_loads(json.loads, cursor)
        async with cursor:
            yield cursor

    async def _read(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """A transaction that was taken back is repeated as a whole, by whoever began it."""
        return await work()

    async def _write(self, named: Mapping[str, Any], rows: WriteSet) -> None:
        del named
        await group_commit.write_all(self._conn, [rows])


class _CursorInTransaction(AsyncCursor[DictRow]):
    """Passes over the stock saver's change of the isolation level, which comes too late in a transaction that has begun.

    It is for one snapshot of the thread, and nobody else writes to a thread that the caller holds.
    """

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "_CursorInTransaction":
        if query != PRUNE_SNAPSHOT_SQL:
            await super().execute(query, params, **options)
        return self


async def _caught_up(config: RunnableConfig | None) -> None:
    """Let a run that reads see what it has written."""
    writes: WriteBehind | None = (config or {}).get("configurable", {}).get(WRITE_BEHIND_KEY)
    if writes is not None:
        await writes.flush()


def _note_read(config: RunnableConfig | None, read: CheckpointTuple | None) -> None:
    """A run may write to a checkpoint that it has read, also to one of an earlier run."""
    writes: WriteBehind | None = (config or {}).get("configurable", {}).get(WRITE_BEHIND_KEY)
    if writes is None or read is None:
        return
    named = read.config.get("configurable", {})
    inherited = read.metadata.get("run_id") != str(writes.fence.run_id)
    writes.note_read((named["checkpoint_ns"], named["checkpoint_id"]), inherited=inherited)


@contextmanager
def _readable(config: RunnableConfig) -> Generator[None]:
    """CheckpointUnreadable where a row is not even of the form that it should have."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, ValueError) as failure:
        raise _unreadable(config.get("configurable", {}).get("thread_id"), failure) from None


def _unreadable(thread_id: object, failure: Exception) -> CheckpointUnreadable:
    log.warning("a checkpoint can't be read", extra={"thread_id": str(thread_id)}, exc_info=failure)
    return CheckpointUnreadable("checkpoint unreadable")


def _split(values: dict[str, Any], *, all_apart: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands in the checkpoint's JSON, and what becomes a blob, by the stock saver's rule.

    A primitive that jsonb can't hold as it is (NaN, infinity, a large float, NUL or a surrogate in a text, an integer above 64 bits), one
    of a class of its own, a long text, and with `all_apart` every one, becomes a blob too, which either saver reads.
    """
    inline: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for channel, value in values.items():
        if isinstance(value, _DeltaSnapshot):
            inline[channel], blobs[channel] = True, value
        elif value is None or (not all_apart and type(value) in PRIMITIVES and _is_plain(value)):
            inline[channel] = value
        else:
            blobs[channel] = value
    return inline, blobs


def _is_plain(value: str | float) -> bool:
    if isinstance(value, str):
        return len(value) <= THREAD_OFFLOAD_BYTES and "\0" not in value and (value.isascii() or _is_utf8(value))
    return abs(value) < FLOAT_LIMIT if isinstance(value, float) else value.bit_length() < 64


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer above 64 bits
        return json.dumps(value, allow_nan=False)


def without_auth(config: RunnableConfig) -> RunnableConfig:
    """`config` without the user of its run, which is in no checkpoint."""
    configurable = config.get("configurable") or {}
    if AUTH_KEYS.isdisjoint(configurable):
        return config
    kept = {key: value for key, value in configurable.items() if key not in AUTH_KEYS}
    return cast("RunnableConfig", {**config, "configurable": kept})
