"""Search of the store: by the content of items, and by meaning if langgraph.json configures an index."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from threadkeep.base.problems import StartupError
from threadkeep.duties.store_items import store_index_config
from threadkeep.postgres import migrate
from threadkeep.project import Project
from threadkeep.settings import Settings


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


DIMS = 64
EMBEDDING = """
import hashlib

def vector(text):
    found = [0.0] * 64
    for word in text.lower().replace('"', " ").split():
        found[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
    return found

def embed(texts):
    return [vector(text) for text in texts]

async def aembed(texts):
    return embed(texts)

async def short(texts):
    return [[1.0] for _ in texts]

class Wordy:
    pass
"""
"""A bag of hashed words: texts are near that share words."""

BOOKS = {
    "sea": {"title": "the whale and the sea", "year": 1851, "genre": {"main": "novel", "age": 3}},
    "moon": {"title": "a voyage to the moon", "year": 1865, "genre": {"main": "novel", "age": 2}},
    "tea": {"title": "how to make tea", "year": "unknown"},
}


def _project(root: Path, embed: str = "./embedding.py:aembed", **index: Any) -> Project:
    (root / "embedding.py").write_text(EMBEDDING)
    found = {"dims": DIMS, "embed": embed, "fields": ["title"]} | index
    return Project.model_validate({"root": root, "graphs": {"g": "g.py:g"}, "store": {"index": found}})


async def _migrated(settings: Settings, project: Project) -> list[str]:
    index = await anyio.to_thread.run_sync(store_index_config, project)
    return await migrate.migrate(str(settings.database_uri), index=index)


@pytest.fixture(params=["embed", "aembed"])
async def indexed(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> AsyncIterator[LangGraphClient]:
    """A client of a server whose store has an index, by a synchronous or an asynchronous function."""
    project = _project(tmp_path, f"./embedding.py:{request.param}")
    await _migrated(settings, project)
    async with serving(settings, project=project) as url, get_client(url=url, api_key=None) as client:
        yield client


async def _put_books(client: LangGraphClient) -> None:
    for key, value in BOOKS.items():
        await client.store.put_item(["books"], key=key, value=value)


async def _keys(client: LangGraphClient, **wanted: Any) -> list[str]:
    return [item["key"] for item in (await client.store.search_items(["books"], **wanted))["items"]]


async def test_search_gives_the_items_below_a_namespace_the_newest_first(client: LangGraphClient) -> None:
    """Protocol: POST /store/items/search; a prefix is of whole labels."""
    for namespace, key in ((["a"], "1"), (["a", "b"], "2"), (["ab"], "3")):
        await client.store.put_item(namespace, key=key, value={})

    found = (await client.store.search_items(["a"]))["items"]

    assert [(item["namespace"], item["key"], item["score"]) for item in found] == [
        (["a", "b"], "2", None),
        (["a"], "1", None),
    ]
    page = (await client.store.search_items([], limit=1, offset=1))["items"]
    assert [item["key"] for item in page] == ["2"]


async def test_empty_search_finds_everything(http: httpx.AsyncClient) -> None:
    """Ours: every field has a default; the reference fails without `namespace_prefix`."""
    await http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {}})

    answer = await http.post("/store/items/search", json={})

    assert [item["key"] for item in answer.json()["items"]] == ["k"]


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({"year": 1851}, ["sea"]),
        ({"year": {"$eq": 1851}}, ["sea"]),
        ({"year": {"$ne": 1851}}, ["moon", "tea"]),
        ({"year": {"$gt": 900}}, ["moon", "sea"]),
        ({"year": {"$gte": 1865}}, ["moon"]),
        ({"year": {"$gt": 1851, "$lt": 1900}}, ["moon"]),
        ({"title": {"$lte": "b"}}, ["moon"]),
        ({"genre": {"main": "novel"}}, ["moon", "sea"]),
        ({"genre": {"main": "novel", "age": 2}}, ["moon"]),
        ({"missing": {"$ne": 1}}, ["moon", "sea", "tea"]),
        ({"missing": {"$lt": 1}}, []),
    ],
)
async def test_filter_looks_into_values(client: LangGraphClient, wanted: dict[str, Any], keys: list[str]) -> None:
    """Protocol: filter operators. Ours: numbers compare as numbers, so that 1851 is above 900."""
    await _put_books(client)

    assert sorted(await _keys(client, filter=wanted)) == keys


@pytest.mark.parametrize("wanted", [{"year": {"$near": 1}}, {"year": {"$gt": 1, "main": 2}}])
async def test_an_unknown_operator_is_refused(http: httpx.AsyncClient, wanted: dict[str, Any]) -> None:
    """Ours: an unknown operator is never ignored."""
    answer = await http.post("/store/items/search", json={"filter": wanted})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_query_without_an_index_is_a_plain_search(client: LangGraphClient) -> None:
    """Protocol: `query` is ignored where nothing is indexed."""
    await _put_books(client)

    assert await _keys(client, query="a boat on the sea") == ["tea", "moon", "sea"]


async def test_query_finds_by_meaning(indexed: LangGraphClient) -> None:
    """Ours: `store.index` of langgraph.json; the nearest first, each with its score."""
    await _put_books(indexed)

    found = (await indexed.store.search_items(["books"], query="whale sea"))["items"]
    filtered = await _keys(indexed, query="whale sea", filter={"year": 1865})
    second = await _keys(indexed, query="whale sea", limit=1, offset=1)

    assert found[0]["key"] == "sea"
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    assert filtered == ["moon"]
    assert second == [found[1]["key"]]


async def test_an_item_is_not_found_by_its_previous_value(indexed: LangGraphClient) -> None:
    """Ours: putting an item again, and `index`, replace all that it was found by."""
    await _put_books(indexed)
    await indexed.store.put_item(["books"], key="sea", value={"title": "x", "note": "unfindable"}, index=False)
    await indexed.store.put_item(["books"], key="tea", value={"title": "x", "note": "whale"}, index=["note"])

    assert await _keys(indexed, query="whale sea") == ["tea", "moon"]
    assert len(await _keys(indexed)) == 3


async def test_embedding_of_another_length_fails_the_put_and_keeps_nothing(settings: Settings, tmp_path: Path) -> None:
    """Ours: the item and what it is found by are one."""
    project = _project(tmp_path, "./embedding.py:short")
    await _migrated(settings, project)
    async with serving(settings, project=project) as url, httpx.AsyncClient(base_url=url) as http:
        put = await http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {"title": "x"}})
        item = await http.get("/store/items?namespace=a&key=k")

    assert (put.status_code, put.json()["code"], item.json()) == (500, "internal-error", None)


async def test_vectors_are_made_once_and_keep_their_length(settings: Settings, tmp_path: Path) -> None:
    """Ours: a second start does nothing, and another `dims` is no silent loss."""
    assert await _migrated(settings, _project(tmp_path)) == ["vectors"]
    assert await _migrated(settings, _project(tmp_path)) == []

    with pytest.raises(StartupError, match=r"store\.index\.dims is 8, but the vectors in the database have 64"):
        await _migrated(settings, _project(tmp_path, dims=8))


async def test_many_dimensions_are_kept_at_half_precision(settings: Settings, tmp_path: Path) -> None:
    """Ours: pgvector indexes at most 2,000 dimensions of full precision, and models have 3,072."""
    assert await _migrated(settings, _project(tmp_path, dims=3072)) == ["vectors"]


async def test_postgres_without_pgvector_is_refused_clearly(settings: Settings, tmp_path: Path) -> None:
    """Ours: the line says what is missing."""
    uri = str(settings.database_uri)
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as conn:
        name = psycopg.sql.Identifier(conn.info.dbname)
        await conn.execute(psycopg.sql.SQL("ALTER DATABASE {} SET extension_control_path = '/nowhere'").format(name))

    with pytest.raises(StartupError, match=r"store\.index needs the extension pgvector"):
        await _migrated(settings, _project(tmp_path))


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"embed": "./embedding.py:missing"}, "has no missing"),
        ({"embed": "./embedding.py:Wordy"}, "neither an Embeddings object nor a function"),
        ({"embed": "nobody:model"}, r"store\.index\.embed: nobody:model"),
        # Models of Amazon Bedrock have periods and a colon in their names.
        ({"embed": "bedrock:amazon.titan-v2:0"}, r"titan-v2:0: (an embedding named by its provider|[A-Z]\w+Error)"),
        ({"dims": 5000}, "at most 4000 dimensions"),
    ],
)
async def test_an_unavailable_index_stops_the_start(tmp_path: Path, index: dict[str, Any], reason: str) -> None:
    """Ours: nothing falls back to a search that finds something else."""
    project = _project(tmp_path, **index)

    with pytest.raises(StartupError, match=reason):
        await anyio.to_thread.run_sync(store_index_config, project)


async def test_project_without_an_index_asks_for_none(tmp_path: Path) -> None:
    """Ours: there are no vector tables without an index."""
    project = Project.model_validate({"root": tmp_path, "graphs": {"g": "g.py:g"}})

    assert store_index_config(project) is None
