"""Store: the items that graphs and clients keep beside threads: the stock store on the pool of running graphs.

Tables and rows are the stock store's. It differs in what happens when many ask at once: operations that come together
are one round trip, as there, but one that fails fails alone, and an embedding, which may take seconds, holds up nobody
else and no connection. A scoped store is a caller's part of it: all its namespaces begin with a label of the caller's own,
which the caller never sees. Items are counted by the principal who put them first (`functions/store_items.sql`), and a
principal may have a limited number of them.
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

COMPARISONS: Mapping[str, str] = {
    "$gt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s > %s::jsonb)",
    "$gte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s >= %s::jsonb)",
    "$lt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s < %s::jsonb)",
    "$lte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s <= %s::jsonb)",
}
"""The stock store compares as text, where 9 is above 10."""
OPERATORS = frozenset({"$eq", "$ne", *COMPARISONS})

ITEM_BYTES: Final = 16 * 1024 * 1024
"""The largest value of an item, unless the operator says otherwise."""
FULL_RETRY_S: Final = 60
"""Only a deletion makes room for a further item."""
SWEEP_BATCH: Final = 1000
"""Expired items that are deleted in one transaction."""

AnyOp = TypeVar("AnyOp", bound=Op)
Statement: TypeAlias = tuple[Any, Sequence[Any]]
"""A query and its parameters, as the stock store makes them."""
Indexed = tuple[int, Any]
"""An operation, behind its place among those of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """The most that is kept."""

    item_bytes: int = ITEM_BYTES
    """Of the value of an item."""
    items_per_principal: int = 0
    """0: any number."""


@dataclass(slots=True, eq=False)
class _PendingOperation:
    """An operation that waits for a round trip, and then what came of it."""

    op: Op
    store: "Store"
    """By which it is done: all of one tenant and principal go together."""
    done: bool = False
    result: Result = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Gathering:
    """What waits for the next round trip of a store and of its scoped copies."""

    waiting: list[_PendingOperation] = field(default_factory=list[_PendingOperation])
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class Store(AsyncPostgresStore):
    """The store of every graph and of the API, or a tenant's part of it (`scoped`)."""

    # The stock methods of the same names put each operation into the queue of one task.
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
        """Of values that are no plain JSON."""
        self._limits = limits or StoreLimits()
        self._gathering = _Gathering()
        self.space: str | None = None
        self.filters = UNRESTRICTED
        self.principal: str | None = None
        """The identity for which items are counted; None: they are not."""

    def scoped(self, space: str | None, filters: Filters = UNRESTRICTED, *, principal: str | None = None) -> "Store":
        """This store below the label `space`, or all of it if that is None, with row-level security of `filters`.

        What is put counts as the items of `principal`. TooManyRequests if it has too many.
        """
        scoped = copy.copy(self)
        scoped.space, scoped.filters, scoped.principal = space, filters, principal
        return scoped

    def _ensure_task(self) -> None:
        """Start no task: whoever waits first does the work of all who wait."""

    @property
    def restriction(self) -> Restriction | None:
        """What row-level security shows of the table."""
        return self.filters.restriction

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Several operations are one round trip and one transaction; one alone may go with those of others."""
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
        """Delete the items that have expired, and return their number. The stock one deletes all at once."""
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
        """Touches one row by its key, and asks no embedding."""
        if isinstance(op, PutOp):
            return self.index_config is None or op.index is False or op.value is None
        return isinstance(op, GetOp)

    async def _gathered(self, op: Op) -> Result:
        mine, gathering = _PendingOperation(op, self), self._gathering
        gathering.waiting.append(mine)
        try:
            async with gathering.turn:
                if not mine.done:  # nobody took it along
                    await _run_waiting(gathering)
        finally:
            if mine in gathering.waiting:
                gathering.waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result

    async def run(self, batch: Sequence[_PendingOperation]) -> None:
        """Do a batch in one round trip, and give each operation its result or its error."""
        results: list[Result] = [None] * len(batch)
        try:
            results = await super().abatch([each.op for each in batch])
        except Exception as error:  # noqa: BLE001 - it goes to the one whose operation it is
            if len(batch) > 1 and not _is_away(error):
                for each in batch:
                    await self.run([each])
                return
            for each in batch:
                each.error = error
        for each, result in zip(batch, results, strict=True):
            each.result, each.done = result, True

    def labelled(self, op: AnyOp) -> AnyOp:
        """The operation as it is on the table, below the label of the space."""
        return op if self.space is None else cast("AnyOp", _labelled(self.space, op))

    def get_statement(self, op: GetOp) -> Statement:
        """The statement of a labelled operation, for one who reads its rows in another form."""
        prepare = cast("Any", self._get_batch_GET_ops_queries)
        [(query, params, _, _)] = prepare([(0, op)])
        return query, params

    async def search_statement(self, op: SearchOp) -> Statement:
        """Likewise; its question is embedded."""
        [(_, query, params)] = await self._searches([(0, op)])
        return query, params

    def connection(self) -> AbstractAsyncContextManager[Conn]:
        """A connection that sees what the store shows."""
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
        """The stock one asks for embeddings while it holds a connection."""
        del conn
        writes = await self._writes(grouped_ops.get(PutOp, []))
        searches = await self._searches(grouped_ops.get(SearchOp, []))
        with self._refusal():
            async with self._cursor(pipeline=True) as cursor:
                await self._batch_get_ops(grouped_ops.get(GetOp, []), results, cursor)
                for index, query, params in searches:
                    await cursor.execute(query, params)
                    results[index] = [_found(row) for row in await cursor.fetchall()]
                await self._batch_list_namespaces_ops(grouped_ops.get(ListNamespacesOp, []), results, cursor)
                if writes and self.principal is not None:
                    await self._count_for(self.principal, cursor)
                for query, params in writes:
                    await cursor.execute(query, params)

    async def _count_for(self, principal: str, cursor: AsyncCursor[DictRow]) -> None:
        """Count the items that the rest of the transaction puts as the principal's."""
        await cursor.execute(
            "SELECT change_store_items(of_principal => %(principal)s, max_items => %(max_items)s)",
            {"principal": principal, "max_items": self._limits.items_per_principal or None},
        )

    @contextmanager
    def _refusal(self) -> Generator[None]:
        """TooManyRequests if Postgres refuses an item because its principal has too many."""
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate != "TK003":
                raise
            detail = f"at most {self._limits.items_per_principal} items in the store; delete some first"
            raise TooManyRequests(detail, retry_after_s=FULL_RETRY_S) from None

    async def _writes(self, puts: Sequence[Indexed]) -> list[tuple[Any, Any]]:
        """The statements that put and delete, rows always in the same order: two batches never wait for each other."""
        if not puts:
            return []
        ordered = [(place, self._as_stored(op)) for place, op in sorted(puts, key=_row_of)]
        # The stock method does not say of what its parameters are a sequence.
        prepare = cast("Any", self._prepare_batch_PUT_queries)
        prepared, embedding = prepare(ordered)
        if embedding is not None:
            _, embedding = prepare([(place, _as_indexed(op)) for place, op in ordered])
        limit = self._limits.item_bytes
        statements: list[tuple[Any, Any]] = [
            (query, [_param(each, limit) for each in params]) for query, params in prepared
        ]
        if self.index_config is not None:
            statements.append(_drop_vectors(ordered))
        if embedding is not None:
            query, texts = embedding
            vectors = await self._embed([each[-1] for each in texts])
            rows = zip(texts, vectors, strict=True)
            statements.append((query, [each for text, vector in rows for each in (*text[:-1], vector)]))
        return statements

    def _as_stored(self, op: PutOp) -> PutOp:
        if op.value is None:
            return op
        try:
            return op._replace(value=item_values.stored(op.value, self._serializer))
        except NotKept as refusal:
            raise NotKept(f"the item {op.key[:100]!r}: {refusal}") from None

    async def _searches(self, searches: Sequence[Indexed]) -> list[tuple[int, Any, Any]]:
        """Each search with its place among the operations; the stock one finds nothing behind the first page."""
        statements, questions = self._prepare_batch_search_queries([(place, _as_shown(op)) for place, op in searches])
        for place, question in questions:
            op: SearchOp = searches[place][1]
            params: list[Any] = statements[place][1]
            params[-3] = params[-3] * (1 + math.ceil(op.offset / op.limit))
            [vector] = await self._embed([question])
            params[:] = [vector if each is PLACEHOLDER else each for each in params]
        return [(index, *statement) for (index, _), statement in zip(searches, statements, strict=True)]

    async def _embed(self, texts: list[str]) -> list[list[float]]:
        embeddings, dims = cast("Any", self.embeddings), cast("Any", self.index_config)["dims"]
        vectors = [[float(each) for each in vector] for vector in await embeddings.aembed_documents(texts)]
        lengths = {len(vector) for vector in vectors}
        if len(vectors) != len(texts) or lengths - {dims}:
            raise RuntimeError(
                f"store.index.embed made {len(vectors)} vectors of {sorted(lengths)} numbers for {len(texts)} texts; "
                f"store.index.dims is {dims}"
            )
        return vectors

    def _get_filter_condition(self, key: str, op: str, value: Any) -> tuple[str, list[Any]]:
        """A condition on one key of a value. Numbers compare as numbers, and only with numbers."""
        wanted = json.dumps(value).decode()
        if op == "$eq":
            return "value->%s = %s::jsonb", [key, wanted]
        if op == "$ne":
            return "value->%s IS DISTINCT FROM %s::jsonb", [key, wanted]
        if op in COMPARISONS:
            return COMPARISONS[op], [key, wanted, key, wanted]
        if op.startswith("$"):
            raise ValueError(f"Unsupported operator: {op}")
        return "value->%s @> %s::jsonb", [key, json.dumps({op: value}).decode()]


async def _run_waiting(gathering: _Gathering) -> None:
    """Do all that waits. If the caller is cancelled meanwhile, the others wait on and do it themselves."""
    batch, gathering.waiting = gathering.waiting, []
    together: dict[object, list[_PendingOperation]] = {}
    for each in batch:
        together.setdefault((each.store.restriction, each.store.principal), []).append(each)
    try:
        for operations in together.values():
            await operations[0].store.run(operations)
    finally:
        gathering.waiting[:0] = [each for each in batch if not each.done]


def _labelled(space: str, op: Op) -> Op:
    """The operation as it is on the table, below the label `space`."""
    if isinstance(op, (GetOp, PutOp)):
        return op._replace(namespace=(space, *op.namespace))
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(space, *op.namespace_prefix))
    return _labelled_listing(space, op)


def _labelled_listing(space: str, op: ListNamespacesOp) -> ListNamespacesOp:
    """A suffix may not match the label itself: at least as many labels as the suffix has follow the label."""
    conditions: list[MatchCondition] = []
    for condition in op.match_conditions or ():
        if condition.match_type == "prefix":
            conditions.append(condition._replace(path=(space, *condition.path)))
        else:
            conditions += [condition, MatchCondition("prefix", (space, *["*"] * len(condition.path)))]
    depth = None if op.max_depth is None else op.max_depth + 1
    return op._replace(match_conditions=(*conditions, MatchCondition("prefix", (space,))), max_depth=depth)


def _unlabelled(result: Result) -> Result:
    """The result of an operation, without the label."""
    outcome: Any = result
    if isinstance(outcome, list):
        every = cast("list[Any]", outcome)
        outcome = [each[1:] if isinstance(each, tuple) else _unlabelled(each) for each in every]
    elif isinstance(outcome, Item):
        outcome.namespace = outcome.namespace[1:]
    return outcome


def _is_away(error: Exception) -> bool:
    """Not a word from Postgres, or no connection to it: the same for every operation."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def _found(row: Mapping[str, Any]) -> SearchItem:
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
    """A parameter of a put: JSON without NUL; minutes that the table keeps as an integer, never as none at all."""
    if isinstance(value, Jsonb):
        return Jsonb(value.obj, dumps=functools.partial(_dumps, limit=limit))
    return math.ceil(value) if isinstance(value, float) else value


def _dumps(value: object, limit: int) -> bytes:
    """ContentTooLarge above `limit` bytes."""
    encoded = json.dumps(value)
    if len(encoded) > limit:
        raise ContentTooLarge(f"the value of an item has {len(encoded):,} bytes; the store keeps at most {limit:,}")
    return encoded


def _as_shown(op: SearchOp) -> SearchOp:
    """With its filter as JSON shows values: by that they are found."""
    if not op.filter or item_values.is_plain(op.filter):
        return op
    shown = {key: json.loads(json.dumps(value)) for key, value in op.filter.items()}
    return op._replace(
        filter={  # the stock store has orjson write what is no object, and that takes no integers above 64 bits
            key: value if isinstance(value, dict) else orjson.Fragment(json.dumps(value))
            for key, value in shown.items()
        }
    )


def _as_indexed(op: PutOp) -> PutOp:
    return op if op.value is None else op._replace(value=item_values.without_written(op.value))


def _row_of(put: Indexed) -> tuple[tuple[str, ...], str]:
    """By which puts are ordered."""
    op: PutOp = put[1]
    return op.namespace, op.key


def _drop_vectors(puts: Sequence[Indexed]) -> tuple[Any, Any]:
    """The stock store keeps the vectors of fields that an item had before, and finds it by them."""
    return (
        """
        DELETE FROM store_vectors AS old
         USING unnest(%(prefixes)s::text[], %(keys)s::text[]) AS put(prefix, key)
         WHERE old.prefix = put.prefix AND old.key = put.key
        """,
        {
            "prefixes": [".".join(each[1].namespace) for each in puts],
            "keys": [each[1].key for each in puts],
        },
    )
