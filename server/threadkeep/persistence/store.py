"""Store: the items that graphs and clients use across threads (long-term memory), with vector search.

It is LangGraph's store, with the same tables and rows, on the pool of running graphs. It adds:

- Concurrent operations share one round trip, and an operation that fails does not fail the others.
- An embedding, which may take seconds, blocks no other operation and no connection.
- A scoped store is the part of one tenant. Its namespaces begin with a store prefix, which the caller never sees.
- Items count for the principal that first put them (`functions/store_items.sql`), and each principal has a limit.
"""

import copy
import functools
import math
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio
import orjson
import psycopg
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PLACEHOLDER, PostgresIndexConfig
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from threadkeep.base import json
from threadkeep.base.problems import ContentTooLarge, TooManyRequests
from threadkeep.persistence import item_values
from threadkeep.persistence.encoding import NotKept
from threadkeep.persistence.serializer import Serializer
from threadkeep.postgres.pool import Conn, Pool
from threadkeep.postgres.retry import retry_in_run
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters, Restriction

# jsonb also orders values of different types, so the types are compared first.
COMPARISONS: Mapping[str, str] = {
    "$gt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s > %s::jsonb)",
    "$gte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s >= %s::jsonb)",
    "$lt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s < %s::jsonb)",
    "$lte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s <= %s::jsonb)",
}
"""Comparisons of JSON values. LangGraph's store compares text, and there 9 is above 10."""
OPERATORS = frozenset({"$eq", "$ne", *COMPARISONS})

ITEM_BYTES: Final = 16 * 1024 * 1024
"""The default limit for the value of an item."""
FULL_RETRY_S: Final = 60
"""Long, because only a deletion makes room for another item."""
SWEEP_BATCH: Final = 1000
"""Expired items that are deleted in one transaction."""

AnyOp = TypeVar("AnyOp", bound=Op)
Statement: TypeAlias = tuple[Any, Sequence[Any]]
"""A query and its parameters from LangGraph's store."""
Indexed = tuple[int, Any]
"""The position of an operation in a call, and the operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """The limits of the store."""

    item_bytes: int = ITEM_BYTES
    """The most bytes in the value of an item."""
    items_per_principal: int = 0
    """The most items of a principal. 0: unlimited."""


@dataclass(slots=True, eq=False)
class _PendingOperation:
    """An operation that waits for a round trip, and later its result."""

    op: Op
    store: "Store"
    """The store that executes it. Operations of one tenant and principal share a round trip."""
    done: bool = False
    result: Result = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Gathering:
    """The operations that wait for the next round trip of a store and of its scoped copies."""

    waiting: list[_PendingOperation] = field(default_factory=list[_PendingOperation])
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class Store(AsyncPostgresStore):
    """The store of all graphs and of the API, or a tenant's part of it (`scoped`)."""

    # LangGraph's methods of these names put each operation into the queue of one task.
    aget = BaseStore.aget
    asearch = BaseStore.asearch
    aput = BaseStore.aput
    adelete = BaseStore.adelete
    alist_namespaces = BaseStore.alist_namespaces

    def __init__(
        self,
        pool: Pool,
        *,
        index: PostgresIndexConfig | None = None,
        ttl: TTLConfig | None = None,
        limits: StoreLimits | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(cast("Any", pool), index=index, ttl=ttl)
        self._pool = pool
        self._serializer = serializer or Serializer()
        """The serializer of values that are not plain JSON."""
        self._limits = limits or StoreLimits()
        self._gathering = _Gathering()
        self.space: str | None = None
        self.filters = UNRESTRICTED
        self.principal: str | None = None
        """The identity that items count for. None: they are not counted."""

    def scoped(self, space: str | None, filters: Filters = UNRESTRICTED, *, principal: str | None = None) -> "Store":
        """Return the part of this store below the store prefix `space`, with row-level security of `filters`.

        None is the whole store. New items count for `principal`. Puts raise TooManyRequests if it has too many.
        """
        # The copies share `_gathering`, so that operations of all tenants take turns.
        scoped = copy.copy(self)
        scoped.space, scoped.filters, scoped.principal = space, filters, principal
        return scoped

    def _ensure_task(self) -> None:
        """Start no task, because the first waiting operation executes all of them."""

    @property
    def restriction(self) -> Restriction | None:
        """The rows that row-level security shows."""
        return self.filters.restriction

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute several operations in one transaction. A single operation may share a round trip with other callers."""
        space = self.space
        every = list(ops) if space is None else [_labelled(space, op) for op in ops]
        for result in (results := await retry_in_run(lambda: self._abatch(every))):
            self._read_values(result)
        return results if space is None else [_unlabelled(result) for result in results]

    def _read_values(self, result: Result) -> None:
        items = result if isinstance(result, list) else [result]
        for item in items:
            if isinstance(item, Item):
                item.value = item_values.read(item.value, self._serializer)

    async def sweep_ttl(self) -> int:
        """Delete the expired items in batches, and return their number. LangGraph's store deletes all at once."""
        swept = 0
        while deleted := await self._delete_expired():
            swept += deleted
        return swept

    async def _delete_expired(self) -> int:
        async with self._cursor() as cursor:
            await cursor.execute(
                "SELECT delete_expired_store_items(%(max_items)s) AS deleted", {"max_items": SWEEP_BATCH}
            )
            row = await cursor.fetchone()
        return row["deleted"] if row else 0

    async def _abatch(self, every: list[Op]) -> list[Result]:
        if len(every) == 1 and self._is_quick(every[0]):
            return [await self._gathered(every[0])]
        return await super().abatch(every)

    def _is_quick(self, op: Op) -> bool:
        """Whether an operation uses one row by its key, and needs no embedding."""
        if isinstance(op, PutOp):
            return self.index_config is None or op.index is False or op.value is None
        return isinstance(op, GetOp)

    async def _gathered(self, op: Op) -> Result:
        pending, gathering = _PendingOperation(op, self), self._gathering
        gathering.waiting.append(pending)
        try:
            async with gathering.turn:
                if not pending.done:  # no other caller has executed it
                    await _run_waiting(gathering)
        finally:
            # The caller was cancelled before its operation was executed.
            if pending in gathering.waiting:
                gathering.waiting.remove(pending)
        if pending.error is not None:
            raise pending.error
        return pending.result

    async def run(self, batch: Sequence[_PendingOperation]) -> None:
        """Execute a batch in one round trip, and set the result or error of each operation."""
        results: list[Result] = [None] * len(batch)
        try:
            results = await super().abatch([pending.op for pending in batch])
        except Exception as error:  # noqa: BLE001 - the caller of the operation gets it
            # One bad operation has failed the batch. While Postgres is away, single operations would fail too.
            if len(batch) > 1 and not _is_away(error):
                for pending in batch:
                    await self.run([pending])
                return
            for pending in batch:
                pending.error = error
        for pending, result in zip(batch, results, strict=True):
            pending.result, pending.done = result, True

    def labelled(self, op: AnyOp) -> AnyOp:
        """The operation with the store prefix in its namespace."""
        return op if self.space is None else cast("AnyOp", _labelled(self.space, op))

    def get_statement(self, op: GetOp) -> Statement:
        """The statement of a labelled operation, for callers that decode its rows differently."""
        prepare = cast("Any", self._get_batch_GET_ops_queries)
        [(query, params, _, _)] = prepare([(0, op)])
        return query, params

    async def search_statement(self, op: SearchOp) -> Statement:
        """The statement of a labelled search. It computes the embedding of its query."""
        [(_, query, params)] = await self._searches([(0, op)])
        return query, params

    def connection(self) -> AbstractAsyncContextManager[Conn]:
        """A connection with the row-level security of the store."""
        return self._pool.connection(self.filters)

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

    async def _execute_batch(
        self, grouped_ops: dict[type, list[Indexed]], results: list[Result], conn: object = None
    ) -> None:
        """Execute a batch. Unlike LangGraph's store, it holds no connection while it computes embeddings."""
        del conn
        writes = await self._writes(grouped_ops.get(PutOp, []))
        searches = await self._searches(grouped_ops.get(SearchOp, []))
        with self._refusal():
            async with self._cursor(pipeline=True) as cursor:
                await self._batch_get_ops(grouped_ops.get(GetOp, []), results, cursor)
                for index, query, params in searches:
                    await cursor.execute(query, params)
                    results[index] = [_search_item(row) for row in await cursor.fetchall()]
                await self._batch_list_namespaces_ops(grouped_ops.get(ListNamespacesOp, []), results, cursor)
                if writes and self.principal is not None:
                    # Before the writes: it locks the principal's count, so that parallel puts can't exceed the limit
                    # together.
                    await self._count_for(self.principal, cursor)
                for query, params in writes:
                    await cursor.execute(query, params)

    async def _count_for(self, principal: str, cursor: AsyncCursor[DictRow]) -> None:
        """Count the items that the rest of the transaction puts for the principal."""
        await cursor.execute(
            "SELECT change_store_items(of_principal => %(principal)s, max_items => %(max_items)s)",
            {"principal": principal, "max_items": self._limits.items_per_principal or None},
        )

    @contextmanager
    def _refusal(self) -> Generator[None]:
        """Turn the error of Postgres for too many items of a principal into TooManyRequests."""
        try:
            yield
        except psycopg.Error as error:
            # `functions/store_items.sql` raises it.
            if error.sqlstate != "TK003":
                raise
            detail = f"at most {self._limits.items_per_principal} items are allowed in the store: delete some first"
            raise TooManyRequests(detail, retry_after_s=FULL_RETRY_S) from None

    async def _writes(self, puts: Sequence[Indexed]) -> list[tuple[Any, Any]]:
        """The statements that put and delete rows, always in the same order, so that batches do not deadlock."""
        if not puts:
            return []
        ordered = [(place, self._as_stored(op)) for place, op in sorted(puts, key=_row_of)]
        # LangGraph's method has an incomplete type.
        prepare = cast("Any", self._prepare_batch_PUT_queries)
        prepared, embedding = prepare(ordered)
        if embedding is not None:
            # Prepared again, because the exact encoding of a value must not be embedded.
            _, embedding = prepare([(place, _as_indexed(op)) for place, op in ordered])
        limit = self._limits.item_bytes
        statements: list[tuple[Any, Any]] = [
            (query, [_param(param, limit) for param in params]) for query, params in prepared
        ]
        if self.index_config is not None:
            statements.append(_drop_vectors(ordered))
        if embedding is not None:
            statements.append(await self._vectors(*embedding))
        return statements

    async def vector_statement(self, puts: Sequence[PutOp]) -> Statement | None:
        """The statement that stores only the vectors of puts with their whole namespaces. None if there are none.

        Their rows must exist. Callers that insert rows themselves execute it in the same transaction.
        """
        if self.index_config is None or not puts:
            return None
        prepare = cast("Any", self._prepare_batch_PUT_queries)
        _, embedding = prepare([(place, _as_indexed(op)) for place, op in enumerate(puts)])
        return None if embedding is None else await self._vectors(*embedding)

    async def _vectors(self, query: Any, texts: Sequence[Sequence[str]]) -> Statement:
        """The statement that stores the vectors of texts. Call it without a connection: an embedding may take seconds."""
        vectors = await self._embed([text_params[-1] for text_params in texts])
        rows = zip(texts, vectors, strict=True)
        return query, [param for text_params, vector in rows for param in (*text_params[:-1], vector)]

    def _as_stored(self, op: PutOp) -> PutOp:
        if op.value is None:
            return op
        try:
            return op._replace(value=item_values.stored(op.value, self._serializer))
        except NotKept as refusal:
            raise NotKept(f"the item {op.key[:100]!r}: {refusal}") from None

    async def _searches(self, searches: Sequence[Indexed]) -> list[tuple[int, Any, Any]]:
        """The statement of each search with its position. LangGraph's store finds nothing after the first page."""
        statements, questions = self._prepare_batch_search_queries([(place, _as_shown(op)) for place, op in searches])
        for place, question in questions:
            op: SearchOp = searches[place][1]
            params: list[Any] = statements[place][1]
            # The inner limit of LangGraph's statement does not contain the offset, so later pages would be
            # empty.
            params[-3] = params[-3] * (1 + math.ceil(op.offset / op.limit))
            [vector] = await self._embed([question])
            params[:] = [vector if param is PLACEHOLDER else param for param in params]
        return [(index, *statement) for (index, _), statement in zip(searches, statements, strict=True)]

    async def _embed(self, texts: list[str]) -> list[list[float]]:
        embeddings, dims = cast("Any", self.embeddings), cast("Any", self.index_config)["dims"]
        vectors = [[float(number) for number in vector] for vector in await embeddings.aembed_documents(texts)]
        lengths = {len(vector) for vector in vectors}
        if len(vectors) != len(texts) or lengths - {dims}:
            raise RuntimeError(
                f"store.index.embed made {len(vectors)} vectors of {sorted(lengths)} numbers for {len(texts)} texts: "
                f"store.index.dims is {dims}"
            )
        return vectors

    def _get_filter_condition(self, key: str, op: str, value: Any) -> tuple[str, list[Any]]:
        """The SQL condition on one key of a value. Numbers compare as numbers, and only with numbers."""
        operand = json.dumps(value).decode()
        if op == "$eq":
            return "value->%s = %s::jsonb", [key, operand]
        if op == "$ne":
            return "value->%s IS DISTINCT FROM %s::jsonb", [key, operand]
        if op in COMPARISONS:
            return COMPARISONS[op], [key, operand, key, operand]
        if op.startswith("$"):
            raise ValueError(f"Unsupported operator: {op}")
        return "value->%s @> %s::jsonb", [key, json.dumps({op: value}).decode()]


async def _run_waiting(gathering: _Gathering) -> None:
    """Execute all waiting operations. After a cancellation of the caller, the remaining callers execute theirs."""
    batch, gathering.waiting = gathering.waiting, []
    groups: dict[object, list[_PendingOperation]] = {}
    for pending in batch:
        groups.setdefault((pending.store.restriction, pending.store.principal), []).append(pending)
    try:
        for operations in groups.values():
            await operations[0].store.run(operations)
    finally:
        gathering.waiting[:0] = [pending for pending in batch if not pending.done]


def _labelled(space: str, op: Op) -> Op:
    """The operation with the store prefix `space` in its namespace."""
    if isinstance(op, (GetOp, PutOp)):
        return op._replace(namespace=(space, *op.namespace))
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(space, *op.namespace_prefix))
    return _labelled_listing(space, op)


def _labelled_listing(space: str, op: ListNamespacesOp) -> ListNamespacesOp:
    """Add the store prefix. A suffix must not match the store prefix, so at least as many labels must follow it."""
    conditions: list[MatchCondition] = []
    for condition in op.match_conditions or ():
        if condition.match_type == "prefix":
            conditions.append(condition._replace(path=(space, *condition.path)))
        else:
            conditions += [condition, MatchCondition("prefix", (space, *["*"] * len(condition.path)))]
    depth = None if op.max_depth is None else op.max_depth + 1
    return op._replace(match_conditions=(*conditions, MatchCondition("prefix", (space,))), max_depth=depth)


def _unlabelled(result: Result) -> Result:
    """The result of an operation without the store prefix."""
    outcome: Any = result
    if isinstance(outcome, list):
        entries = cast("list[Any]", outcome)
        outcome = [entry[1:] if isinstance(entry, tuple) else _unlabelled(entry) for entry in entries]
    elif isinstance(outcome, Item):
        outcome.namespace = outcome.namespace[1:]
    return outcome


def _is_away(error: Exception) -> bool:
    """Whether there was no answer from Postgres or no connection, so that each operation would fail."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _search_item(row: Mapping[str, Any]) -> SearchItem:
    score = row["score"]
    return SearchItem(
        namespace=tuple(row["prefix"].split(".")),
        key=row["key"],
        value=row["value"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        score=None if score is None else float(score),
    )


def _param(value: object, limit: int) -> object:
    """Convert a parameter of a put: JSON without NUL, and minutes rounded up, because the column is an integer."""
    if isinstance(value, Jsonb):
        return Jsonb(value.obj, dumps=functools.partial(_dumps, limit=limit))
    return math.ceil(value) if isinstance(value, float) else value


def _dumps(value: object, limit: int) -> bytes:
    """Encode a value as JSON. ContentTooLarge above `limit` bytes."""
    encoded = json.dumps(value)
    if len(encoded) > limit:
        raise ContentTooLarge(f"the value of an item has {len(encoded):,} bytes: the store accepts at most {limit:,}")
    return encoded


def _as_shown(op: SearchOp) -> SearchOp:
    """The search with its filter as plain JSON, because stored values are searched in this form."""
    if not op.filter or item_values.is_plain(op.filter):
        return op
    json_filter = {key: json.loads(json.dumps(value)) for key, value in op.filter.items()}
    return op._replace(
        filter={  # LangGraph's store encodes other values by orjson, which refuses integers above 64 bits
            key: value if isinstance(value, dict) else orjson.Fragment(json.dumps(value))
            for key, value in json_filter.items()
        }
    )


def _as_indexed(op: PutOp) -> PutOp:
    return op if op.value is None else op._replace(value=item_values.without_written(op.value))


def _row_of(put: Indexed) -> tuple[tuple[str, ...], str]:
    """The sort key of a put."""
    op: PutOp = put[1]
    return op.namespace, op.key


def _drop_vectors(puts: Sequence[Indexed]) -> tuple[Any, Any]:
    """Delete old vectors. LangGraph's store keeps the vectors of removed fields, so searches would still find them."""
    return (
        """
        DELETE FROM store_vectors AS old
         USING unnest(%(prefixes)s::text[], %(keys)s::text[]) AS put(prefix, key)
         WHERE old.prefix = put.prefix AND old.key = put.key
        """,
        {
            "prefixes": [".".join(indexed[1].namespace) for indexed in puts],
            "keys": [indexed[1].key for indexed in puts],
        },
    )
