"""Titles of threads, and the search for their words."""

from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from threadkeep.settings import Settings
from threadkeep.tables import thread_search


@pytest.fixture
def url(emptied_server: str) -> str:
    """One server for all tests of this file."""
    return emptied_server


@pytest.fixture
def database(module_settings: Settings) -> str:
    """The database of the file's server."""
    return str(module_settings.database_uri)


RUN = {"assistant_id": "speaking", "if_not_exists": "create"}


async def _said(http: httpx.AsyncClient, content: object, **message: object) -> str:
    """The id of a new thread on which a run has ended that began with one message."""
    thread_id = str(uuid4())
    first = {"role": "user", "content": content} | message
    answer = await http.post(f"/threads/{thread_id}/runs/wait", json=RUN | {"input": {"messages": [first]}})
    assert answer.is_success, answer.text
    return thread_id


async def _title(http: httpx.AsyncClient, thread_id: str) -> str | None:
    return (await http.get(f"/threads/{thread_id}")).json()["title"]


async def _found(http: httpx.AsyncClient, query: str, **body: Any) -> set[str]:
    answer = await http.post("/threads/search", json={"query": query} | body)
    assert answer.status_code == 200, answer.text
    return {thread["thread_id"] for thread in answer.json()}


async def test_first_human_message_is_the_title_and_stays(http: httpx.AsyncClient) -> None:
    """Issue 17: cut at 120 characters, and kept over later messages."""
    thread_id = await _said(http, "What is the time\n in Tokyo?" + "!" * 200)
    again = {"messages": [{"role": "user", "content": "And in Berlin?"}]}
    await http.post(f"/threads/{thread_id}/runs/wait", json=RUN | {"input": again})

    title = await _title(http, thread_id)
    assert title == ("What is the time  in Tokyo?" + "!" * 200)[:120]


async def test_text_of_a_message_with_a_picture_is_the_title(http: httpx.AsyncClient) -> None:
    """Issue 17: content in blocks."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert (
        await _title(http, await _said(http, [picture, {"type": "text", "text": "Describe this"}])) == "Describe this"
    )


async def test_title_of_the_metadata_comes_first(http: httpx.AsyncClient) -> None:
    """Issue 17: whoever renames a thread finds it by the new name."""
    thread_id = await _said(http, "hello there")
    await http.patch(f"/threads/{thread_id}", json={"metadata": {"title": "Holiday plans"}})

    assert await _title(http, thread_id) == "Holiday plans"
    assert await _found(http, "holiday") == {thread_id}
    assert await _found(http, "hello") == set()
    copy = (await http.post(f"/threads/{thread_id}/copy")).json()
    assert copy["title"] == "Holiday plans"


async def test_state_that_is_changed_by_hand_gives_a_title(http: httpx.AsyncClient) -> None:
    """Issue 17: kept when the state is updated. Text that jsonb can't hold is no error."""
    named, odd = [(await http.post("/threads", json={"metadata": {"graph_id": "speaking"}})).json() for _ in range(2)]
    for thread, text in ((named, "by hand"), (odd, "nul \\u0000")):
        values = {"messages": [{"role": "user", "content": text}]}
        answer = await http.post(f"/threads/{thread['thread_id']}/state", json={"values": values})
        assert answer.is_success, answer.text

    assert await _title(http, named["thread_id"]) == "by hand"


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        ("tokyo", True),
        ("TOK tim", True),
        ("ada@example.com", True),
        ("o'clock", True),
        ("berlin", False),
        ("tokyo berlin", False),
        ("'", False),
        ("a:* | b & !c <-> (", False),
        ("\\", False),
        ("  ", True),
    ],
)
async def test_words_are_found_by_their_beginnings(http: httpx.AsyncClient, query: str, finds: bool) -> None:
    """Issue 17: words in any order and case. What is no word finds nothing, and is no error."""
    thread_id = await _said(http, "Time in Tokyo at 3 o'clock for ada@example.com")
    count = (await http.post("/threads/count", json={"query": query})).json()

    assert (await _found(http, query), count) == (({thread_id}, 1) if finds else (set(), 0))


async def test_query_goes_with_other_conditions(http: httpx.AsyncClient) -> None:
    """Issue 17: ids, metadata, status and pages narrow a search by title, too."""
    ids = [await _said(http, "weather in Rome") for _ in range(3)]
    other = await _said(http, "weather in Oslo")

    assert await _found(http, "rome", ids=[ids[0], other]) == {ids[0]}
    assert await _found(http, "rome", status="busy") == set()
    page = await http.post("/threads/search", json={"query": "rome", "limit": 2, "select": ["title"]})
    assert (page.json(), page.headers["x-pagination-total"]) == ([{"title": "weather in Rome"}] * 2, "3")
    assert (await http.post("/threads/search", json={"query": "x" * 501})).status_code == 422


@pytest.mark.parametrize("condition", ["ids", "metadata", "status"])
async def test_conditions_count_before_the_newest_are_chosen(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    """Ours: an old thread is found behind many newer ones with the same words, if it alone meets a condition."""
    monkeypatch.setattr(thread_search, "MAX_TITLED", 2)
    created = await http.post("/threads", json={"metadata": {"title": "rain in Rome", "topic": "old"}})
    old = created.json()["thread_id"]
    for _ in range(3):
        await http.post("/threads", json={"metadata": {"title": "rain in Rome"}})
    if condition == "status":
        run: dict[str, object] = {"assistant_id": "failing", "input": {"items": []}}
        await http.post(f"/threads/{old}/runs/wait", json=run)
    wanted: dict[str, object] = {"ids": [old], "metadata": {"topic": "old"}, "status": "error"}

    assert await _found(http, "rome", **{condition: wanted[condition]}) == {old}


async def test_graphs_without_messages_have_no_title(http: httpx.AsyncClient, database: str) -> None:
    """Ours: nor have threads of stateless runs, which are gone soon."""
    thread_id = str(uuid4())
    run = {"assistant_id": "chain", "input": {"items": []}, "if_not_exists": "create"}
    await http.post(f"/threads/{thread_id}/runs/wait", json=run)
    messages = {"messages": [{"role": "user", "content": "hello"}]}
    await http.post("/runs/wait", json={"assistant_id": "speaking", "input": messages, "stream_resumable": True})
    async with await psycopg.AsyncConnection.connect(database) as conn:
        titled = await (await conn.execute("SELECT title FROM threads WHERE title IS NOT NULL")).fetchall()

    assert (await _title(http, thread_id), titled) == (None, [])
