"""Store: the items that graphs and clients keep beside threads: the stock store on the pool of running graphs.

Tables and rows are the stock store's. It differs in what happens when many ask at once: operations that come together
are one round trip, as there, but one that fails fails alone, and an embedding, which may take seconds, holds up nobody
else and no connection.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import anyio
import orjson
import psycopg
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, Op, PutOp, Result, SearchItem, SearchOp, TTLConfig
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PLACEHOLDER, PostgresIndexConfig
from psycopg.types.json import Jsonb

from threadkeep.base.json import without_nul
from threadkeep.postgres import store_spaces, tenancy
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.retry import outlast_in_run
from threadkeep.postgres.tenancy import Bounds

COMPARISONS: Mapping[str, str] = {
    "$gt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s > %s::jsonb)",
    "$gte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s >= %s::jsonb)",
    "$lt": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s < %s::jsonb)",
    "$lte": "(jsonb_typeof(value->%s) = jsonb_typeof(%s::jsonb) AND value->%s <= %s::jsonb)",
}
"""The stock store compares as text, where 9 is above 10."""
OPERATORS = frozenset({"$eq", "$ne", *COMPARISONS})

Indexed = tuple[int, Any]
"""An operation, behind its place among those of a call."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """An operation that waits for a round trip, and then what came of it."""

    op: Op
    bounds: Bounds | None
    """Of whoever waits."""
    done: bool = False
    result: Result = None
    error: Exception | None = None


class Store(AsyncPostgresStore):
    """The store of every graph and of the API."""

    # The stock methods of the same names put each operation into the queue of one task.
    aget = BaseStore.aget
    asearch = BaseStore.asearch
    aput = BaseStore.aput
    adelete = BaseStore.adelete
    alist_namespaces = BaseStore.alist_namespaces

    def __init__(self, pool: Pool, *, index: PostgresIndexConfig | None = None, ttl: TTLConfig | None = None) -> None:
        super().__init__(pool, index=index, ttl=ttl)
        self._waiting: list[_Waiting] = []
        self._turn = anyio.Lock()

    def _ensure_task(self) -> None:
        """Start no task: whoever waits first does the work of all who wait."""

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Several operations are one round trip and one transaction; one alone may go with those of others.

        They are those of the caller's space, see `spaces`.
        """
        space = store_spaces.current()
        if space is None:
            every = list(ops)
            return await outlast_in_run(lambda: self._abatch(every))
        moved = [store_spaces.inside(space, op) for op in ops]
        results = await outlast_in_run(lambda: self._abatch(moved))
        return [store_spaces.outside(result) for result in results]

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
        mine = _Waiting(op, tenancy.current())
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.done:  # nobody took it along
                    await self._run_waiting()
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result

    async def _run_waiting(self) -> None:
        """Do all that waits; where the caller is cancelled over it, the others wait on and do it themselves."""
        batch, self._waiting = self._waiting, []
        own = tenancy.current()
        try:
            for whose in dict.fromkeys(each.bounds for each in batch):
                tenancy.set_bounds(whose)
                await self._run([each for each in batch if each.bounds == whose])
        finally:
            tenancy.set_bounds(own)
            self._waiting[:0] = [each for each in batch if not each.done]

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        results: list[Result] = [None] * len(batch)
        try:
            results = await super().abatch([each.op for each in batch])
        except Exception as error:  # noqa: BLE001 - it goes to the one whose operation it is
            if len(batch) > 1 and not _is_away(error):
                for each in batch:
                    await self._run([each])
                return
            for each in batch:
                each.error = error
        for each, result in zip(batch, results, strict=True):
            each.result, each.done = result, True

    async def _execute_batch(
        self, grouped_ops: dict[type, list[Indexed]], results: list[Result], conn: object = None
    ) -> None:
        """The stock one asks for embeddings while it holds a connection."""
        del conn
        writes = await self._writes(grouped_ops.get(PutOp, []))
        searches = await self._searches(grouped_ops.get(SearchOp, []))
        async with self._cursor(pipeline=True) as cursor:
            await self._batch_get_ops(grouped_ops.get(GetOp, []), results, cursor)
            for index, query, params in searches:
                await cursor.execute(query, params)
                results[index] = [_found(row) for row in await cursor.fetchall()]
            await self._batch_list_namespaces_ops(grouped_ops.get(ListNamespacesOp, []), results, cursor)
            for query, params in writes:
                await cursor.execute(query, params)

    async def _writes(self, puts: Sequence[Indexed]) -> list[tuple[Any, Any]]:
        """The statements that put and delete, rows always in the same order: two batches never wait for each other."""
        if not puts:
            return []
        ordered = sorted(puts, key=lambda each: (each[1].namespace, each[1].key))
        # The stock method does not say of what its parameters are a sequence.
        prepare = cast("Any", self._prepare_batch_PUT_queries)
        prepared, embedding = prepare(ordered)
        statements: list[tuple[Any, Any]] = [(query, [_param(each) for each in params]) for query, params in prepared]
        if self.index_config is not None:
            statements.append(_drop_vectors(ordered))
        if embedding is not None:
            query, texts = embedding
            vectors = await self._embed([each[-1] for each in texts])
            rows = zip(texts, vectors, strict=True)
            statements.append((query, [each for text, vector in rows for each in (*text[:-1], vector)]))
        return statements

    async def _searches(self, searches: Sequence[Indexed]) -> list[tuple[int, Any, Any]]:
        """Each search with its place among the operations; the stock one finds nothing behind the first page."""
        statements, questions = self._prepare_batch_search_queries(searches)
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
        wanted = orjson.dumps(value).decode()
        if op == "$eq":
            return "value->%s = %s::jsonb", [key, wanted]
        if op == "$ne":
            return "value->%s IS DISTINCT FROM %s::jsonb", [key, wanted]
        if op in COMPARISONS:
            return COMPARISONS[op], [key, wanted, key, wanted]
        if op.startswith("$"):
            raise ValueError(f"Unsupported operator: {op}")
        return "value->%s @> %s::jsonb", [key, orjson.dumps({op: value}).decode()]


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


def _param(value: object) -> object:
    """A parameter of a put: JSON without NUL; minutes that the table keeps as an integer, never as none at all."""
    if isinstance(value, Jsonb):
        return Jsonb(value.obj, dumps=_dumps)
    return math.ceil(value) if isinstance(value, float) else value


def _dumps(value: object) -> bytes:
    """Strict: what is no JSON would come back as something else."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:  # also a lone surrogate, which is replaced, and what is really no JSON, which raises again
        encoded = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    return without_nul(encoded)


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
