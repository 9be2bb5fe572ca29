"""Store items of a principal: counted by the identity that put them first, over HTTP and in runs, in all processes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import PutOp

from auth.conftest import MakeKey
from auth.test_custom import BY_NAME, guarded
from conftest import WAIT_S, serving
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.persistence.store import Store, StoreLimits
from threadkeep.postgres.pool import open_runs_pool
from threadkeep.settings import Settings

CAP = 3
REFUSAL = {"detail": "at most 3 items are allowed in the store: delete some first", "code": "too-many-requests"}


class Notes(TypedDict):
    """The keys that a run puts, and whether in one batch."""

    keys: list[str]
    together: bool


async def _put(state: Notes, runtime: Runtime[Any]) -> Notes:
    assert runtime.store is not None
    if state["together"]:
        await runtime.store.abatch([PutOp(("notes",), key, {"n": 1}) for key in state["keys"]])
    else:
        for key in state["keys"]:
            await runtime.store.aput(("notes",), key, {"n": 1})
    return state


def _graphs() -> dict[str, LoadedGraph]:
    graph = StateGraph(Notes)
    graph.add_node("put", _put)
    graph.add_edge(START, "put")
    return {"noting": as_loaded_graph("noting", graph, where="tests")}


@pytest.fixture
def capped(settings: Settings) -> Settings:
    """With keys, and few items for each principal."""
    return settings.model_copy(update={"auth_type": "api_key", "max_store_items_per_principal": CAP})


async def _put_item(http: httpx.AsyncClient, key: str, namespace: str = "notes") -> httpx.Response:
    return await http.put("/store/items", json={"namespace": [namespace], "key": key, "value": {"n": 1}})


async def _run(http: httpx.AsyncClient, keys: list[str], *, together: bool = False) -> dict[str, Any]:
    """The values of a run that puts the items, or its error."""
    body = {"assistant_id": "noting", "input": {"keys": keys, "together": together}, "raise_error": False}
    return (await http.post("/runs/wait", json=body)).json()


async def test_items_of_a_principal_are_counted_under_concurrency(capped: Settings, make_key: MakeKey) -> None:
    """Issue: one principal could fill the store. Two processes count the same items."""
    ada, bob = {"x-api-key": await make_key("ada")}, {"x-api-key": await make_key("bob")}
    async with (
        serving(capped) as one,
        serving(capped) as two,
        httpx.AsyncClient(base_url=one, timeout=WAIT_S, headers=ada) as here,
        httpx.AsyncClient(base_url=two, timeout=WAIT_S, headers=ada) as there,
        httpx.AsyncClient(base_url=one, timeout=WAIT_S, headers=bob) as other,
    ):
        answers: dict[str, httpx.Response] = {}

        async def put(http: httpx.AsyncClient, key: str) -> None:
            answers[key] = await _put_item(http, key, namespace=key)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(put, (here, there)[number % 2], f"key{number}")
        made = [key for key, answer in answers.items() if answer.status_code == 204]
        refused = [answer for answer in answers.values() if answer.status_code != 204]
        again = await _put_item(here, made[0], namespace=made[0])
        theirs = await _put_item(other, "own")
        item = {"namespace": [made[0]], "key": made[0]}
        gone = await here.request("DELETE", "/store/items", json=item)
        after = [await _put_item(there, key) for key in ("further", "one more")]

    assert (len(made), {answer.status_code for answer in refused}) == (CAP, {429})
    assert (refused[0].json(), int(refused[0].headers["retry-after"]) >= 1) == (REFUSAL, True)
    assert [answer.status_code for answer in (again, theirs, gone)] == [204] * 3
    assert [answer.status_code for answer in after] == [204, 429]


async def test_items_that_runs_put_are_counted(capped: Settings, make_key: MakeKey) -> None:
    """Issue: those of a batch are put together or not at all, and the run ends as an error that says why."""
    async with (
        serving(capped, _graphs()) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": await make_key("ada")}) as ada,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S, headers={"x-api-key": await make_key("bob")}) as bob,
    ):
        first = await _run(ada, ["a", "b"])
        batch = await _run(ada, ["c", "d"], together=True)
        found = (await ada.post("/store/items/search", json={})).json()["items"]
        last = await _put_item(ada, "c")
        full = await _put_item(ada, "d")
        single = await _run(ada, ["a", "e"])
        theirs = await _run(bob, ["a", "b", "c"], together=True)

    refusal = {"__error__": {"error": "TooManyRequests", "message": REFUSAL["detail"]}}
    assert (first["keys"], theirs["keys"]) == (["a", "b"], ["a", "b", "c"])
    assert (batch, single) == (refusal, refusal)
    assert {item["key"] for item in found} == {"a", "b"}
    assert (last.status_code, full.status_code, full.json()) == (204, 429, REFUSAL)


async def test_items_of_a_custom_identity_are_counted(settings: Settings, tmp_path: Path) -> None:
    """Issue: principals may share a namespace; an item counts for the one that put it first."""
    capped = settings.model_copy(update={"max_store_items_per_principal": 1})
    async with guarded(capped, tmp_path, BY_NAME) as ada:
        bob = {"authorization": "Bearer bob"}
        item = {"namespace": ["shared"], "value": {"n": 1}}
        answers = [
            await ada.put("/store/items", json=item | {"key": "a"}),
            await ada.put("/store/items", json=item | {"key": "b"}),
            await ada.put("/store/items", json=item | {"key": "a"}, headers=bob),
            await ada.put("/store/items", json=item | {"key": "b"}, headers=bob),
            await ada.put("/store/items", json=item | {"key": "c"}, headers=bob),
        ]

    assert [answer.status_code for answer in answers] == [204, 429, 204, 204, 429]


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """The store alone, of a principal."""
    async with open_runs_pool(settings, str(settings.database_uri)) as pool:
        store = Store(pool, ttl={"omit_expired": True}, limits=StoreLimits(items_per_principal=CAP))
        yield store.scoped(None, principal="ada")


async def test_count_follows_the_items(store: Store, database: str) -> None:
    """Ours: however they are deleted: by their owner, by the sweep, by another role, or with the table."""
    counts = []
    async with await psycopg.AsyncConnection[Any].connect(database, autocommit=True) as conn:

        async def count() -> None:
            counted = await conn.execute("SELECT items FROM store_item_counts WHERE principal = 'ada'")
            row = await counted.fetchone()
            counts.append(row[0] if row else None)

        await store.abatch([PutOp(("n",), key, {}) for key in "abc"])
        await count()
        await store.abatch([PutOp(("n",), "a", None), PutOp(("n",), "b", {"n": 2}), PutOp(("m",), "d", {})])
        await count()
        await conn.execute("UPDATE store SET expires_at = now() - interval '1 second' WHERE key = 'b'")
        assert await store.sweep_ttl() == 1
        await count()
        await conn.execute("DELETE FROM store WHERE key = 'c'")
        await count()
        await conn.execute("TRUNCATE store")
        await count()
        await store.scoped(None).aput(("n",), "nobody's", {})
        await count()

    assert counts == [3, 3, 2, 1, None, None]


async def test_batches_in_two_orders_never_wait_for_each_other(store: Store, database: str) -> None:
    """Ours: a batch that deletes holds its count, and the sweep holds rows: one would wait for the other."""
    async with await psycopg.AsyncConnection[Any].connect(database, autocommit=True) as conn:
        for number in range(20):
            await store.abatch([PutOp(("n",), "a", {}), PutOp(("n",), "b", {})])
            await conn.execute("UPDATE store SET expires_at = now() - interval '1 second'")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.sweep_ttl)
                tasks.start_soon(store.abatch, [PutOp(("n",), "a", None), PutOp(("n",), "b", {"n": number})])
                tasks.start_soon(store.abatch, [PutOp(("n",), "b", None), PutOp(("n",), "a", {"n": number})])
        held = await conn.execute("SELECT count(*) FROM store")
        counted = await conn.execute("SELECT items FROM store_item_counts WHERE principal = 'ada'")
        assert await held.fetchone() == await counted.fetchone()
