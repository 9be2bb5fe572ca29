"""Checkpointer: saves and loads the checkpoints of all graphs.

Tables and rows are those of LangGraph's Postgres saver, so each can read the other's rows. LangGraph's saver holds an
`asyncio.Lock` around every statement, also with a pool, and serialises in a thread. This one reads on any connection of
its pool, writes by group commit, and serialises small values without a thread.
"""

import copy
import inspect
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Generator, Mapping, Sequence
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
"""The default limit for the value of a channel."""
MAX_TRACKED_CHANNELS = 10_000
MAX_ALLOWLISTS = 100
"""The most allowlists whose serializers are kept."""
FLOAT_LIMIT: Final = 1e16
"""From here on jsonb returns a float as an integer with another value. NaN and infinity are not below it."""
PRIMITIVES = frozenset({str, int, float, bool})
"""Types of values that are stored in a checkpoint's JSON."""

DURABILITY_KEY = "__pregel_durability"
"""The `configurable` key in which LangGraph passes a run's durability."""
WRITE_BEHIND_KEY = "__pregel_threadkeep_writes"
"""The `configurable` key of a run's `WriteBehind`. LangGraph hides keys with this prefix."""

AUTH_KEYS = frozenset({"langgraph_auth_user", "langgraph_auth_user_id", "langgraph_auth_permissions"})
"""The `configurable` keys that hold the user of a run. LangGraph would copy their strings into the metadata."""

NEW_THREAD_KEY = "__pregel_threadkeep_fresh"
"""The `configurable` key of a `NewThreadHint`, for the first run of a thread."""

Packed = TypeVar("Packed", bound=Sequence[Any])
Result = TypeVar("Result")

# All elements of an array have one type, so texts are converted to bytes.
SELECT: Final = """
    SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata,
           (SELECT array_agg(ARRAY[convert_to(referenced.channel, 'UTF8'), convert_to(blob.type, 'UTF8'), blob.blob])
              FROM jsonb_each_text(checkpoint -> 'channel_versions') AS referenced (channel, version)
             CROSS JOIN LATERAL (
                SELECT type, blob
                  FROM checkpoint_blobs AS stored
                 WHERE stored.thread_id = checkpoints.thread_id AND stored.checkpoint_ns = checkpoints.checkpoint_ns
                   AND stored.channel = referenced.channel AND stored.version = referenced.version
                 LIMIT 1 -- there is only one, but without the limit a plan may read all blobs of the thread
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
"""A checkpoint with its channels and pending writes, in the form of LangGraph's saver."""


class NewThreadHint:
    """Marks a thread that was created for this run. It saves the first read of the newest checkpoint."""

    def __init__(self) -> None:
        self._read = False

    def is_first_read(self, configurable: Mapping[str, Any]) -> bool:
        """Whether this is the first read of the thread's newest checkpoint in the root namespace."""
        if self._read or configurable.get("checkpoint_ns") or configurable.get("checkpoint_id"):
            return False
        self._read = True
        return True


class Checkpointer(AsyncPostgresSaver):
    """LangGraph's saver without its lock. Copies (`with_allowlist`, `scoped`) share the pool and the group commit."""

    SELECT_SQL = SELECT

    def __init__(
        self,
        pool: Pool,
        commits: GroupCommit,
        serde: SerializerProtocol | None = None,
        *,
        channel_bytes: int = DEFAULT_MAX_CHANNEL_BYTES,
    ) -> None:
        # LangGraph's type allows only psycopg's pool. Only `_cursor` uses it, and is replaced below.
        super().__init__(cast("Any", pool), serde=serde or Serializer())
        self._pool = pool
        self.filters = UNRESTRICTED
        self.max_channel_bytes = channel_bytes
        self._commits = commits
        self._large: set[str] = set()
        """Channels that have had large values."""
        self._widened: dict[int, tuple[Collection[tuple[str, ...]], SerializerProtocol]] = {}
        """Identity of a graph's allowlist -> the list, and this serializer with its types. Scoped copies share it."""

    def scoped(self, filters: Filters) -> "Checkpointer":
        """A checkpointer whose reads see only a caller's threads. Its writes are not restricted."""
        if filters.restriction is None:
            return self
        scoped = copy.copy(self)
        scoped.filters = filters
        return scoped

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> "Checkpointer":
        """A copy that also reads the types in a graph's allowlist. LangGraph asks for one in each run."""
        known = self._widened.get(id(extra_allowlist))
        if known is None:
            serde = cast("Checkpointer", super().with_allowlist(extra_allowlist)).serde
            if len(self._widened) >= MAX_ALLOWLISTS:  # a factory makes a graph, and so a list, for each run
                self._widened.clear()
            # The list is kept too, because another list could get the identity of one that is gone.
            known = self._widened[id(extra_allowlist)] = (extra_allowlist, serde)
        if known[1] is self.serde:
            return self
        widened = copy.copy(self)
        widened.serde = known[1]
        # Of its own, because the serializer is another one: a subgraph adds its types to those of its parent.
        widened._widened = {}  # noqa: SLF001 - a copy of this object
        return widened

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        async with (
            self._pool.connection(self.filters) as conn,
            # Binary, because bytes as text would be twice as long.
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
        """Save a checkpoint with its run's durability, and return the config that selects it."""
        configurable = config.get("configurable", {})
        thread_id, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
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
            configurable.get("checkpoint_id"),
            _json({**checkpoint, "channel_values": inline}),
            _json({**get_serializable_checkpoint_metadata(without_auth(config), metadata), "thread_id": thread_id}),
        )
        rows = WriteSet(blobs=packed, checkpoints=[row])
        run: WriteBehind | None = configurable.get(WRITE_BEHIND_KEY)
        if run is not None:
            run.add_early((namespace, checkpoint["id"]), rows)
        await self._write(configurable, rows)
        return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save the writes of a task with its run's durability. Writes of errors and interrupts are always awaited.

        Writes that come before their checkpoint are saved together with it.
        """
        configurable = config.get("configurable", {})
        place = (configurable["thread_id"], configurable["checkpoint_ns"], configurable["checkpoint_id"])
        packed = await self._packed(writes, lambda: self._dump_writes(*place, task_id, task_path, writes))
        # As in LangGraph's saver: errors, interrupts and resumes replace the earlier write of their task. Other
        # writes are kept.
        replaces = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        rows = WriteSet(upserts=packed) if replaces else WriteSet(inserts=packed)
        run: WriteBehind | None = configurable.get(WRITE_BEHIND_KEY)
        if run is not None and run.hold_early(place[1:], rows):
            return
        if run is not None and run.is_inherited(place[1:]):
            # The checkpoint is an earlier run's. A rollback of this run must restore its writes.
            rows.undo = [(str(run.fence.run_id), *place, task_id, row[5]) for row in packed]
        await self._write(configurable, rows)

    # LangGraph looks at the parameters in each run. Without this, `inspect` works them out from the code each time.
    cast("Any", aput_writes).__signature__ = inspect.signature(aput_writes)

    async def _write(self, configurable: Mapping[str, Any], rows: WriteSet) -> None:
        """Pass `rows` to the group commit, and wait unless they are written behind.

        Each step is flushed to disk, unless the run has a lower durability. The run's result is always flushed.
        """
        writes: WriteBehind | None = configurable.get(WRITE_BEHIND_KEY)
        # LangGraph passes no durability for a state update, which is flushed.
        rows.synchronous_commit = configurable.get(DURABILITY_KEY, "sync") == "sync"
        # Upserts are errors and interrupts. The graph must not continue before they are stored.
        if writes is not None and not rows.synchronous_commit and not rows.upserts:
            await writes.submit(rows)
            return
        await (self._commits if writes is None else writes).write(rows)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint in `config`, or the thread's newest. NotFound if a run starts at a missing checkpoint."""
        configurable = config.get("configurable", {})
        # The run has just created its thread, so there is nothing to read. This saves a round trip.
        if (hint := configurable.get(NEW_THREAD_KEY)) and hint.is_first_read(configurable):
            return None
        await _caught_up(config)
        with _readable(config):
            # `super()` without arguments does not work inside a lambda.
            checkpoint = await self._read(lambda: super(Checkpointer, self).aget_tuple(config))
        if (
            checkpoint is None
            and WRITE_BEHIND_KEY in configurable
            and configurable.get("checkpoint_id")
            and not configurable.get("checkpoint_ns")
        ):
            # LangGraph would start with an empty state, and the thread would lose its state.
            raise NotFound(f"Checkpoint {configurable['checkpoint_id']} not found")
        _note_read(config, checkpoint)
        return checkpoint

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        """Yield the checkpoints of a thread, the newest first, as LangGraph's saver does."""
        await _caught_up(config)
        # A reader may stop early. Without `aclosing` the connection would stay open until garbage collection.
        async with aclosing(cast("AsyncGenerator[CheckpointTuple]", super().alist(config, **options))) as checkpoints:
            with _readable(config or {}):
                async for checkpoint in checkpoints:
                    _note_read(config, checkpoint)
                    yield checkpoint

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The history of delta channels, as LangGraph's saver returns it."""
        await _caught_up(config)
        stock = super().aget_delta_channel_history
        return await self._read(lambda: stock(config=config, channels=channels))

    async def _read(self, work: Callable[[], Awaitable[Result]]) -> Result:
        return await retry_in_run(work)

    async def _packed(self, values: Sequence[tuple[str, Any]], dump: Callable[[], list[Packed]]) -> list[Packed]:
        """The rows from `dump`, one for each value. It runs in a thread if a value is large or its channel was large before.

        StateTooLarge if a value is above the limit, NotKept if one can't be encoded.
        """
        large = any(channel in self._large or seems_large(value) for channel, value in values)
        try:
            # A thread costs more than a small value.
            packed = await to_thread.run_sync(dump) if large else dump()
        except NotKept:
            raise self._refused(values) from None
        for (channel, _), row in zip(values, packed, strict=True):
            size = len(row[-1] or b"")
            check_channel_size(channel, size, self.max_channel_bytes)
            # `seems_large` only estimates. A channel with one large value will probably have more.
            if size > THREAD_OFFLOAD_BYTES and len(self._large) < MAX_TRACKED_CHANNELS:
                self._large.add(channel)
        return packed

    def _refused(self, values: Sequence[tuple[str, Any]]) -> NotKept:
        """The error that names the channel that can't be encoded, and the reason."""
        for channel, value in values:
            try:
                self.serde.dumps_typed(value)
            except NotKept as refusal:
                return NotKept(f"the channel {channel[:100]!r}: {refusal}")
        return NotKept("a value changed while it was written")

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Decode a row as LangGraph's saver does, but only large ones in a thread, because the thread costs more.

        CheckpointUnreadable if it can't be decoded for any reason.
        """
        try:
            if _size(value) > THREAD_OFFLOAD_BYTES:
                return await to_thread.run_sync(self._loaded, value)
            return self._loaded(value)
        except Exception as failure:  # noqa: BLE001 - a row may hold anything
            raise _unreadable(value["thread_id"], failure) from None

    def _loaded(self, value: DictRow) -> CheckpointTuple:
        configurable = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
        inline: dict[str, Any] = value["checkpoint"].get("channel_values") or {}
        blobs = self._load_blobs(value["channel_values"])
        checkpoint: Any = {**value["checkpoint"], "channel_values": {**inline, **blobs}}
        parent = value["parent_checkpoint_id"]
        return CheckpointTuple(
            {"configurable": {**configurable, "checkpoint_id": value["checkpoint_id"]}},
            checkpoint,
            value["metadata"],
            {"configurable": {**configurable, "checkpoint_id": parent}} if parent else None,
            self._load_writes(value["pending_writes"]),
        )


def _size(row: DictRow) -> int:
    """The bytes of the blobs in a checkpoint's row."""
    channels, writes = row["channel_values"] or (), row["pending_writes"] or ()
    return sum(len(channel[2] or b"") for channel in channels) + sum(len(write[3] or b"") for write in writes)


class TransactionCheckpoints(Checkpointer):
    """Reads and writes in the caller's transaction on one connection, together with its other statements."""

    def __init__(self, checkpoints: Checkpointer, conn: Conn) -> None:
        # It shares all parts of the original. `__init__` would create new ones.
        self.__dict__.update(checkpoints.__dict__)
        self._conn = conn

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:
        del pipeline
        cursor: AsyncCursor[DictRow] = _CursorInTransaction(self._conn, row_factory=dict_row)
        # The class takes no `binary`, which only `conn.cursor` has.
        cursor.format = Format.BINARY
        # The caller's connection may be one of the API, which returns JSON as text.
        set_json_loads(json.loads, cursor)
        async with cursor:
            yield cursor

    async def _read(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Read without a retry, because only the caller can repeat its whole transaction."""
        return await work()

    async def _write(self, configurable: Mapping[str, Any], rows: WriteSet) -> None:
        del configurable
        await group_commit.write_all(self._conn, [rows])


class _CursorInTransaction(AsyncCursor[DictRow]):
    """Skips a statement of LangGraph's saver that sets the isolation level, because the transaction has already begun.

    It needs one snapshot of the thread. Nobody else writes to the thread, because the caller has locked it.
    """

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "_CursorInTransaction":
        if query != PRUNE_SNAPSHOT_SQL:
            await super().execute(query, params, **options)
        return self


async def _caught_up(config: RunnableConfig | None) -> None:
    """Wait for a run's own writes before it reads."""
    writes: WriteBehind | None = (config or {}).get("configurable", {}).get(WRITE_BEHIND_KEY)
    if writes is not None:
        await writes.flush()


def _note_read(config: RunnableConfig | None, read: CheckpointTuple | None) -> None:
    """Record that the run has read a checkpoint, because it may write to it, even if an earlier run created it."""
    writes: WriteBehind | None = (config or {}).get("configurable", {}).get(WRITE_BEHIND_KEY)
    if writes is None or read is None:
        return
    configurable = read.config.get("configurable", {})
    inherited = read.metadata.get("run_id") != str(writes.fence.run_id)
    writes.note_read((configurable["checkpoint_ns"], configurable["checkpoint_id"]), inherited=inherited)


@contextmanager
def _readable(config: RunnableConfig) -> Generator[None]:
    """Turn errors for a malformed row into CheckpointUnreadable."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, ValueError) as failure:
        raise _unreadable(config.get("configurable", {}).get("thread_id"), failure) from None


def _unreadable(thread_id: object, failure: Exception) -> CheckpointUnreadable:
    log.warning("a checkpoint can't be read", extra={"thread_id": str(thread_id)}, exc_info=failure)
    return CheckpointUnreadable("checkpoint unreadable")


def _split(values: dict[str, Any], *, all_apart: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the values into those in the checkpoint's JSON and those in blobs, by the rule of LangGraph's saver.

    Some primitives also become blobs, which both savers read. These are values that jsonb would change (NaN, infinity, a
    large float, NUL or a surrogate in a string, an integer above 64 bits), instances of subclasses, and long strings.
    With `all_apart` every primitive becomes a blob.
    """
    inline: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for channel, value in values.items():
        if isinstance(value, _DeltaSnapshot):
            # As in LangGraph's saver: the checkpoint's JSON only marks the channel.
            inline[channel], blobs[channel] = True, value
        elif value is None or (not all_apart and type(value) in PRIMITIVES and _is_plain(value)):
            inline[channel] = value
        else:
            blobs[channel] = value
    return inline, blobs


def _is_plain(value: str | float) -> bool:
    if isinstance(value, str):
        # `isascii` reads one bit of the string, and the other test encodes all of it.
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
    """`config` without the user of its run, because checkpoints must not contain the user."""
    configurable = config.get("configurable") or {}
    if AUTH_KEYS.isdisjoint(configurable):
        return config
    public = {key: value for key, value in configurable.items() if key not in AUTH_KEYS}
    return cast("RunnableConfig", {**config, "configurable": public})
