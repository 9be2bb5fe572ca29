"""Looking for threads."""

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


async def _conversation(client: LangGraphClient, **metadata: Any) -> str:
    thread = await client.threads.create(metadata=metadata)
    await client.runs.wait(thread["thread_id"], "chain", input={"items": ["in"]})
    return thread["thread_id"]


async def test_threads_are_found_by_their_content(client: LangGraphClient) -> None:
    """Protocol: containment in metadata and values, status, ids; `values` is a 500 on the reference where one is null."""
    empty = (await client.threads.create(metadata={"user": "ada", "tags": ["a", "b"]}))["thread_id"]
    full = await _conversation(client, user="ada")
    other = await _conversation(client, user="bob")

    async def found(**wanted: Any) -> set[str]:
        ids = {thread["thread_id"] for thread in await client.threads.search(**wanted)}
        wanted.pop("ids", None)
        assert "ids" in wanted or await client.threads.count(**wanted) >= len(ids)
        return ids

    assert await found() == {empty, full, other}
    assert await found(metadata={"user": "ada"}) == {empty, full}
    assert await found(metadata={"tags": ["b"]}) == {empty}
    assert await found(values={"items": ["first"]}) == {full, other}
    assert await found(values={"items": ["first"]}, metadata={"user": "bob"}) == {other}
    assert await found(ids=[full, empty]) == {full, empty}
    assert await found(status="idle") == {empty, full, other}
    assert await found(status="error") == set()
    assert await client.threads.count(metadata={"user": "ada"}) == 2
    assert await client.threads.count(values={"items": ["first"]}, status="idle") == 2


@pytest.mark.parametrize(
    ("held", "found", "missed"),
    [
        ({"said": '100 % \\ "sure"_'}, {"said": '100 % \\ "sure"_'}, {"said": '100 x \\ "sure"x'}),
        ({"é ü": {"deep": ["\n\t", "\u2028"]}}, {"é ü": {"deep": ["\u2028"]}}, {"é u": {"deep": ["\u2028"]}}),
        ({"said": "here", "n": 1}, {"n": 1}, {"said": "here", "n": 2}),
        ({"a": "b", "c": "d"}, {"a": "b"}, {"a": "d"}),
        (
            {f"key {n}": f"text {n}" for n in range(30)},
            {f"key {n}": f"text {n}" for n in range(20)},
            {"key 1": "text 2"},
        ),
    ],
    ids=["special", "beyond ASCII", "number", "crossed", "many"],
)
async def test_values_are_found_by_containment_whatever_their_text(
    client: LangGraphClient, held: Any, found: Any, missed: Any
) -> None:
    """Ours: the search compares the text first, which leaves out no match and adds none."""
    other, thread_id = [(await client.threads.create())["thread_id"] for _ in range(2)]
    await client.runs.wait(other, "chain", input={"items": [{}]})
    await client.runs.wait(thread_id, "chain", input={"items": [held]})

    (match,) = await client.threads.search(values={"items": [found]})

    assert match["thread_id"] == thread_id
    assert await client.threads.search(values={"items": [missed]}) == []
    assert await client.threads.count(values={"items": [found]}) == 1


async def test_pages_have_the_total_number(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    """Protocol: the newest first; `x-pagination-total`, here the true total."""
    made = [(await client.threads.create(metadata={"n": number}))["thread_id"] for number in range(5)]

    pages = [await http.post("/threads/search", json={"limit": 2, "offset": offset}) for offset in (0, 2, 4, 6)]

    assert [[thread["thread_id"] for thread in page.json()] for page in pages] == [
        made[:2:-1],
        made[2:0:-1],
        made[:1],
        [],
    ]
    assert {page.headers["x-pagination-total"] for page in pages} == {"5"}
    assert [page.headers.get("x-pagination-next") for page in pages] == ["2", "4", None, None]


@pytest.mark.parametrize("field", ["thread_id", "created_at", "updated_at", "state_updated_at"])
async def test_the_client_chooses_the_order(client: LangGraphClient, field: Any) -> None:
    """Protocol: `sort_by` and `sort_order`."""
    made = [(await client.threads.create())["thread_id"] for _ in range(3)]

    rising = await client.threads.search(sort_by=field, sort_order="asc")
    falling = await client.threads.search(sort_by=field, sort_order="desc")

    assert [thread["thread_id"] for thread in rising] == made
    assert [thread["thread_id"] for thread in falling] == made[::-1]


async def test_client_may_take_a_part_of_each_thread(client: LangGraphClient) -> None:
    """Protocol: `select` and `extract`; an index counts from the end where it is negative."""
    thread_id = await _conversation(client, user="ada")
    extract = {
        "first": "values.items[0]",
        "last": "values.items[-1]",
        "user": "metadata.user",
        "nothing": "values.items[7].content",
        "all": "values",
        "config": "config",
    }

    (selected,) = await client.threads.search(select=["thread_id", "status"])
    (extracted,) = await client.threads.search(select=["thread_id"], extract=extract)
    (whole,) = await client.threads.search(extract={"user": "metadata.user"})

    assert selected == {"thread_id": thread_id, "status": "idle"}
    values = {"items": ["in", "first", "second"]}
    assert extracted == {
        "thread_id": thread_id,
        "extracted": {"first": "in", "last": "second", "user": "ada", "nothing": None, "all": values, "config": {}},
    }
    assert whole == {**await client.threads.get(thread_id), "extracted": {"user": "ada"}}


@pytest.mark.parametrize(
    "extract",
    [
        {"x": "error.message"},
        {"x": "values.items[*]"},
        {"x": "values" + ".a" * 21},
        {"x; --": "values"},
        {f"x{number}": "values" for number in range(11)},
    ],
)
async def test_an_invalid_extract_is_refused(client: LangGraphClient, extract: dict[str, str]) -> None:
    """Ours: bounded in number and depth, from four columns only; the reference answers null to a path it can't read."""
    with pytest.raises(UnprocessableEntityError):
        await client.threads.search(extract=extract)


@pytest.mark.parametrize(
    "wanted", [{"limit": 0}, {"limit": 1001}, {"offset": -1}, {"status": "done"}, {"ids": ["zz"]}, {"select": ["row"]}]
)
async def test_a_senseless_search_is_refused(client: LangGraphClient, wanted: dict[str, Any]) -> None:
    """Protocol: 422."""
    with pytest.raises(UnprocessableEntityError):
        await client.threads.search(**wanted)
