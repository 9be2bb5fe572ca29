"""Store: put, get and delete items; namespaces; what expires; graphs and clients see the same."""

import operator
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, TypedDict

import anyio
import httpx
import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import GetOp, PutOp
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.persistence.store import Store
from threadkeep.postgres.pool import open_runs_pool
from threadkeep.settings import Settings


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """The store alone, without a server."""
    async with open_runs_pool(settings, str(settings.database_uri)) as pool:
        yield Store(pool, ttl={"omit_expired": True})


async def test_item_is_found_under_its_namespace_and_key(client: LangGraphClient) -> None:
    """Protocol: PUT and GET /store/items."""
    await client.store.put_item(["users", "ada"], key="likes.tea", value={"sugar": 2})

    item = await client.store.get_item(["users", "ada"], key="likes.tea")

    assert (item["namespace"], item["key"], item["value"]) == (["users", "ada"], "likes.tea", {"sugar": 2})
    assert set(item) == {"namespace", "key", "value", "created_at", "updated_at"}
    assert datetime.fromisoformat(item["created_at"]).tzinfo is not None


async def test_second_put_replaces_the_value_and_keeps_the_time_of_the_first(client: LangGraphClient) -> None:
    """Protocol: PUT is create or replace."""
    await client.store.put_item(["a"], key="k", value={"n": 1, "old": True})
    first = await client.store.get_item(["a"], key="k")
    await client.store.put_item(["a"], key="k", value={"n": 2})

    second = await client.store.get_item(["a"], key="k")

    assert (second["value"], second["created_at"]) == ({"n": 2}, first["created_at"])
    assert second["updated_at"] > first["updated_at"]


async def test_item_that_is_not_there_is_null_and_its_namespace_stays_unknown(http: httpx.AsyncClient) -> None:
    """Protocol: 200 `null`. Ours: a read leaves nothing behind."""
    answer = await http.get("/store/items", params={"namespace": "no.where", "key": "k"})

    assert (answer.status_code, answer.content) == (200, b"null")
    assert (await http.post("/store/namespaces", json={})).json() == {"namespaces": []}


async def test_namespace_may_come_as_several_parameters(http: httpx.AsyncClient) -> None:
    """Ours: the result of a form encoder for a list."""
    await http.put("/store/items", json={"namespace": ["a", "b"], "key": "k", "value": {"n": 1}})

    answer = await http.get("/store/items?namespace=a&namespace=b&key=k")

    assert answer.json()["namespace"] == ["a", "b"]


async def test_read_without_a_key_is_refused(http: httpx.AsyncClient) -> None:
    """Protocol: 400."""
    answer = await http.get("/store/items?namespace=a")

    assert (answer.status_code, answer.json()) == (400, {"detail": "Key is required", "code": "invalid-request"})


async def test_deleted_item_is_gone_and_deleting_it_again_is_no_error(http: httpx.AsyncClient) -> None:
    """Protocol: DELETE is 204 either way."""
    where = {"namespace": ["a"], "key": "k"}
    put = await http.put("/store/items", json=where | {"value": {}})
    first = await http.request("DELETE", "/store/items", json=where)
    second = await http.request("DELETE", "/store/items", json=where)

    assert [put.status_code, first.status_code, second.status_code] == [204, 204, 204]
    assert (await http.get("/store/items?namespace=a&key=k")).json() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": []},
        {"namespace": ["a", ""]},
        {"namespace": ["a.b"]},
        {"namespace": [1]},
        {"namespace": ["langgraph", "x"]},
        {"namespace": ["a"] * 33},
        {"namespace": ["é" * 501]},
        {"key": "k" * 1001},
        {"key": 1},
        {"value": None},
        {"value": "text"},
        {"ttl": 0},
    ],
)
async def test_item_that_can_not_be_kept_is_refused(http: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    """Protocol: labels without periods, not below `langgraph`. Ours: JSON problems, and bounds that Postgres sets."""
    answer = await http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {}} | wrong)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("key", ["", "a.b/c?d", "ключ \N{ROCKET}", "nul\x00", "%", "k" * 1000])
async def test_key_may_be_any_text(client: LangGraphClient, key: str) -> None:
    """Ours: NUL, which Postgres has no place for, becomes U+FFFD in bodies and in queries alike."""
    await client.store.put_item(["münchen", "\N{ROCKET}"], key=key, value={"text": "nul\x00", key: None})

    item = await client.store.get_item(["münchen", "\N{ROCKET}"], key=key)

    kept = key.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    assert item["key"] == kept
    assert item["value"] == {"text": "nul\N{REPLACEMENT CHARACTER}", kept: None}


async def test_namespaces_are_listed_by_prefix_suffix_and_depth(client: LangGraphClient) -> None:
    """Protocol: POST /store/namespaces."""
    for namespace in (["a", "b", "c"], ["a", "b", "d"], ["a", "x", "c"], ["ab", "c"]):
        await client.store.put_item(namespace, key="k", value={})

    async def listed(**wanted: Any) -> list[list[str]]:
        return (await client.store.list_namespaces(**wanted))["namespaces"]

    assert await listed() == [["a", "b", "c"], ["a", "b", "d"], ["a", "x", "c"], ["ab", "c"]]
    assert await listed(prefix=["a"]) == [["a", "b", "c"], ["a", "b", "d"], ["a", "x", "c"]]
    assert await listed(prefix=["a", "*", "c"]) == [["a", "b", "c"], ["a", "x", "c"]]
    assert await listed(suffix=["c"]) == [["a", "b", "c"], ["a", "x", "c"], ["ab", "c"]]
    assert await listed(max_depth=2) == [["a", "b"], ["a", "x"], ["ab", "c"]]
    assert await listed(limit=1, offset=1) == [["a", "b", "d"]]
    with pytest.raises(UnprocessableEntityError):
        await listed(prefix=["a.b"])


async def test_expired_item_is_hidden_at_once_and_deleted_by_the_sweep(
    client: LangGraphClient, database: str, store: Store
) -> None:
    """Protocol: `ttl` in minutes."""
    for key, minutes in (("past", 1), ("present", 1), ("kept", None)):
        await client.store.put_item(["a"], key=key, value={}, ttl=minutes)
    await _expire(database, "past")

    assert await client.store.get_item(["a"], key="past") is None
    found = await client.store.search_items(["a"])
    assert {item["key"] for item in found["items"]} == {"present", "kept"}
    assert await store.sweep_ttl() == 1
    assert await store.sweep_ttl() == 0


async def test_reading_an_item_extends_its_life_unless_disabled(client: LangGraphClient, database: str) -> None:
    """Protocol: `refresh_ttl`. Ours: a time below half a minute does not become none at all."""
    await client.store.put_item(["a"], key="k", value={}, ttl=0.4)  # pyright: ignore[reportArgumentType]
    put = await _end_of(database, "k")

    await client.store.get_item(["a"], key="k", refresh_ttl=False)
    assert await _end_of(database, "k") == put
    assert await client.store.get_item(["a"], key="k")
    assert await _end_of(database, "k") > put
    assert await client.store.get_item(["a"], key="k")


async def _expire(database: str, key: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        await conn.execute("UPDATE store SET expires_at = now() - interval '1 second' WHERE key = %s", [key])


async def _end_of(database: str, key: str) -> datetime:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        row = await (await conn.execute("SELECT expires_at FROM store WHERE key = %s", [key])).fetchone()
    assert row is not None
    return row[0]


class Notes(TypedDict):
    """The items that a run read."""

    seen: Annotated[list[Any], operator.add]


async def _note(state: Notes, runtime: Runtime[Any]) -> Notes:
    assert runtime.store is not None
    item = await runtime.store.aget(("notes",), "count")
    count = item.value["n"] if item else 0
    await runtime.store.aput(("notes",), "count", {"n": count + 1})
    return {"seen": [count]}


def _note_in_a_thread(state: Notes, runtime: Runtime[Any]) -> Notes:
    assert runtime.store is not None
    runtime.store.put(("notes",), "sync", {"n": 1})
    item = runtime.store.get(("notes",), "sync")
    return {"seen": [item.value["n"] if item else None]}


async def test_an_item_of_one_thread_is_read_by_other_threads_and_clients(settings: Settings) -> None:
    """Ours: the store of a graph's nodes, synchronous ones too, is the one behind /store."""
    graphs = {}
    for name, node in (("noting", _note), ("blocking", _note_in_a_thread)):
        graph = StateGraph(Notes)
        graph.add_node("note", node)
        graph.add_edge(START, "note")
        graphs[name] = as_loaded_graph(name, graph, where="tests")
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        threads = [await client.threads.create() for _ in range(2)]
        answers = [await client.runs.wait(each["thread_id"], "noting", input={}) for each in threads]
        stateless = await client.runs.wait(None, "blocking", input={})
        item = await client.store.get_item(["notes"], key="count")

    assert answers == [{"seen": [0]}, {"seen": [1]}]
    assert (stateless, item["value"]) == ({"seen": [1]}, {"n": 2})


async def test_operations_that_come_together_fail_one_by_one(store: Store) -> None:
    """Ours: one round trip for all, and one bad value takes no other along."""
    failed: list[str] = []

    async def put(key: str, value: dict[str, Any]) -> None:
        try:
            await store.aput(("a",), key, value)
        except (TypeError, psycopg.DataError) as error:
            failed.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(put, f"k{number}", {"n": number})
        tasks.start_soon(put, "nul\x00", {})
        tasks.start_soon(put, "object", {"no": object()})

    kept = [await store.aget(("a",), f"k{number}") for number in range(10)]
    assert [item and item.value for item in kept] == [{"n": number} for number in range(10)]
    assert sorted(failed) == ["DataError", "NotKept"]


async def test_a_cancelled_caller_does_not_fail_others(store: Store, database: str) -> None:
    """Ours: whoever waits first does the work of all, and may be cancelled in the middle of it."""
    answers: list[str] = []

    async def put(key: str) -> None:
        await store.aput(("a",), key, {})
        answers.append(key)

    async with (
        anyio.create_task_group() as tasks,
        anyio.create_task_group() as leaving,
        await psycopg.AsyncConnection.connect(database) as conn,  # commits when the block ends
    ):
        await conn.execute("LOCK TABLE store")
        leaving.start_soon(put, "first")
        for number in range(5):
            tasks.start_soon(put, f"k{number}")
        await anyio.sleep(0.1)
        leaving.cancel_scope.cancel()

    assert sorted(answers) == [f"k{number}" for number in range(5)]


async def test_operations_of_one_batch_stand_or_fall_together(store: Store) -> None:
    """Ours: a node's own `abatch` is one transaction."""
    puts = [PutOp(("a",), "good", {"n": 1}), PutOp(("a",), "bad\x00", {"n": 2})]
    with pytest.raises(psycopg.DataError):
        await store.abatch(puts)

    assert await store.abatch([GetOp(("a",), "good"), GetOp(("a",), "bad")]) == [None, None]


async def test_floats_of_any_size_stay_floats(store: Store) -> None:
    """Ours: jsonb returns 1e23 as an integer, and as one with another value."""
    numbers = [1e16, -1e23, 1.5e300, 5e-324, 9_007_199_254_740_993.0, 1e5]
    await store.aput(("a",), "k", {"numbers": numbers, "text": "3e5:4e6"})

    item = await store.aget(("a",), "k")

    assert item is not None
    assert item.value == {"numbers": numbers, "text": "3e5:4e6"}
    assert [type(number) for number in item.value["numbers"]] == [float] * len(numbers)


@pytest.mark.parametrize("more", [{}, {"half": "\ud83d"}])
async def test_text_that_postgres_does_not_take_is_kept(store: Store, more: dict[str, str]) -> None:
    """Ours: a model's output may hold NUL, which comes back, and lone surrogates, which no UTF-8 holds."""
    await store.aput(("a",), "k", {"text": "a\x00b", **more})

    item = await store.aget(("a",), "k")

    assert item is not None
    assert item.value == {"text": "a\x00b", **dict.fromkeys(more, "?")}
