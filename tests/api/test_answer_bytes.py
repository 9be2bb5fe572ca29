"""Answers are bounded in bytes: lists end early and say where they go on, one thing that is too large is refused."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import UnprocessableEntityError
from typing_extensions import TypedDict

from conftest import WAIT_S, serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

ANSWER_BYTES = 1_000_000


class Growing(TypedDict, total=False):
    """A counter beside something large."""

    blob: str
    n: int
    steps: int


async def _count(state: Growing) -> Growing:
    return {"n": (state.get("n") or 0) + 1}


def _more(state: Growing) -> str:
    return "count" if (state.get("n") or 0) < (state.get("steps") or 1) else END


def _counting() -> Any:
    graph = StateGraph(Growing)
    graph.add_node("count", _count)
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", _more)
    return graph.compile()


def _nested() -> Any:
    """Two subgraphs that wait side by side, each beside something large."""

    def ask(state: Growing) -> Growing:
        return {"n": interrupt("go on?"), "blob": state["blob"]}

    inner = StateGraph(Growing)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    outer = StateGraph(Growing)
    for name in ("left", "right"):
        outer.add_node(name, inner.compile())
        outer.add_edge(START, name)
    return outer.compile()


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server whose answers hold at most a million bytes."""
    graphs = {"counting": _counting(), "nested": _nested()}
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in graphs.items()}
    async with serving(settings.model_copy(update={"answer_bytes": ANSWER_BYTES}), loaded) as url:
        yield url


async def _counted(client: LangGraphClient, size: int, steps: int) -> str:
    thread_id = (await client.threads.create())["thread_id"]
    graph_input = {"blob": "x" * size, "steps": steps}
    await client.runs.wait(thread_id, "counting", input=graph_input, config={"recursion_limit": steps + 5})
    return thread_id


async def test_history_ends_before_the_limit_and_goes_on_before_its_last_state(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    """Ours: one history of large states was 578 MB in memory at once."""
    thread_id = await _counted(client, 300_000, steps=8)
    path, seen, sizes = f"/threads/{thread_id}/history", list[dict[str, Any]](), list[int]()
    before: str | None = None

    while before is not None or not seen:
        answer = await http.post(path, json={"limit": 100, "before": before})
        page: list[dict[str, Any]] = answer.json()
        seen, sizes = seen + page, [*sizes, len(answer.content)]
        before = answer.headers.get("x-pagination-next")
        assert before is None or before == page[-1]["checkpoint_id"]

    assert [state["values"].get("n") for state in seen] == [8, 7, 6, 5, 4, 3, 2, 1, None, None]
    assert max(sizes) <= ANSWER_BYTES
    assert len(sizes) == 4
    first: Any = await client.threads.get_history(thread_id, limit=100)
    assert first == seen[:3]
    rest: Any = await client.threads.get_history(thread_id, limit=2, before=first[-1]["checkpoint_id"])
    assert rest == seen[3:5]


async def test_history_of_small_states_is_not_cut(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    thread_id = await _counted(client, 10, steps=30)

    answer = await http.get(f"/threads/{thread_id}/history?limit=1000")

    assert [state["values"].get("n") for state in answer.json()] == [*range(30, 0, -1), None, None]
    assert "x-pagination-next" not in answer.headers


async def test_a_history_with_a_selection_is_bounded_too(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    thread_id = await _counted(client, 300_000, steps=3)

    answer = await http.post(f"/threads/{thread_id}/history", json={"limit": 100, "select": ["values.n"]})

    assert answer.json() == [{"values": {"n": 3}}, {"values": {"n": 2}}, {"values": {"n": 1}}]
    assert answer.headers["x-pagination-next"]


async def test_a_state_above_the_limit_is_refused_with_the_reason(client: LangGraphClient) -> None:
    thread_id = await _counted(client, ANSWER_BYTES, steps=1)

    for read in (client.threads.get_state(thread_id), client.threads.get_history(thread_id)):
        with pytest.raises(UnprocessableEntityError, match="an answer may have at most 1,000,000"):
            await read


async def test_a_state_whose_json_alone_is_above_the_limit_is_refused(client: LangGraphClient) -> None:
    """A tab is one byte in a checkpoint and two in JSON."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "counting", input={"blob": "\t" * 600_000})

    for read in (client.threads.get_state(thread_id), client.threads.get_history(thread_id)):
        with pytest.raises(UnprocessableEntityError, match="an answer may have at most 1,000,000"):
            await read


async def test_subgraphs_count_with_the_state(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "nested", input={"blob": "x" * 400_000})

    small = await client.threads.get_state(thread_id)
    assert [task["name"] for task in small["tasks"]] == ["left", "right"]
    with pytest.raises(UnprocessableEntityError, match="with its subgraphs"):
        await client.threads.get_state(thread_id, subgraphs=True)


async def test_an_answer_larger_than_a_part_is_sent_whole(http: httpx.AsyncClient) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run_body = {"assistant_id": "counting", "input": {"blob": "x" * 900_000}}
    await http.post(f"/threads/{thread_id}/runs/wait", json=run_body, timeout=WAIT_S)

    answer = await http.get(f"/threads/{thread_id}/state")

    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.json()["values"]["blob"] == "x" * 900_000


async def _pages(http: httpx.AsyncClient, path: str, body: dict[str, Any] | None) -> list[list[dict[str, Any]]]:
    """All pages of a listing, each asked for at the offset that the one before named."""
    pages, offset = list[list[dict[str, Any]]](), 0
    while True:
        parameters = {"limit": 100, "offset": offset}
        if body is None:
            answer = await http.get(path, params=parameters)
        else:
            answer = await http.post(path, json=body | parameters)
        assert answer.status_code == 200, answer.text[:300]
        assert len(answer.content) <= ANSWER_BYTES
        items: Any = answer.json()
        pages.append(items["items"] if isinstance(items, dict) else items)
        if (following := answer.headers.get("x-pagination-next")) is None:
            return pages
        assert int(following) == offset + len(pages[-1])
        offset = int(following)


async def test_a_search_for_threads_ends_before_the_limit_and_goes_on(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    """Ours: one search answered 457 MB."""
    made = [await _counted(client, 300_000, steps=1) for _ in range(5)]

    pages = await _pages(http, "/threads/search", {"sort_by": "created_at", "sort_order": "asc"})
    without_values = await _pages(http, "/threads/search", {"select": ["thread_id"]})

    assert [[thread["thread_id"] for thread in page] for page in pages] == [made[:3], made[3:]]
    assert all(thread["values"]["blob"] == "x" * 300_000 for page in pages for thread in page)
    assert [len(page) for page in without_values] == [5]
    matches = await client.threads.search(limit=100)
    assert len(matches) == 3


async def test_a_thread_above_the_answer_limit_is_refused_with_its_position(
    client: LangGraphClient, http: httpx.AsyncClient
) -> None:
    await _counted(client, ANSWER_BYTES, steps=1)
    small = await _counted(client, 10, steps=1)
    parameters = {"sort_by": "created_at", "sort_order": "asc", "limit": 5}

    refused = await http.post("/threads/search", json=parameters)
    behind = await http.post("/threads/search", json=parameters | {"offset": 1})
    selected = await http.post("/threads/search", json=parameters | {"select": ["thread_id", "metadata"]})

    assert (refused.status_code, refused.json()["code"]) == (422, "answer-too-large")
    assert refused.json()["detail"].startswith("the entry at offset 0 takes 1,00")
    assert [thread["thread_id"] for thread in behind.json()] == [small]
    assert len(selected.json()) == 2


async def test_compressed_values_count_with_their_full_size(http: httpx.AsyncClient) -> None:
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run_body = {"assistant_id": "counting", "input": {"blob": "x" * 300_000}}
    for _ in range(5):
        await http.post(f"/threads/{thread_id}/runs", json=run_body)

    pages = await _pages(http, f"/threads/{thread_id}/runs", None)

    assert [len(page) for page in pages] == [3, 2]
    assert all(run["kwargs"]["input"] == run_body["input"] for page in pages for run in page)


async def test_crons_are_listed_in_bounded_pages(http: httpx.AsyncClient) -> None:
    for number in range(5):
        cron = {"assistant_id": "counting", "schedule": "0 0 1 1 *", "input": {"blob": str(number) * 300_000}}
        assert (await http.post("/runs/crons", json=cron)).status_code == 200

    pages = await _pages(http, "/runs/crons/search", {})

    assert [len(page) for page in pages] == [3, 2]


async def test_items_are_listed_in_bounded_pages(client: LangGraphClient, http: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.store.put_item(["notes"], str(number), {"text": "x" * 300_000, "number": number})

    pages = await _pages(http, "/store/items/search", {"namespace_prefix": ["notes"]})

    assert [[item["value"]["number"] for item in page] for page in pages] == [[4, 3, 2], [1, 0]]
    assert {tuple(item["namespace"]) for page in pages for item in page} == {("notes",)}


async def test_an_item_above_the_answer_limit_is_refused(client: LangGraphClient) -> None:
    await client.store.put_item(["notes"], "large", {"text": "x" * ANSWER_BYTES})

    for read in (client.store.get_item(["notes"], "large"), client.store.search_items(["notes"])):
        with pytest.raises(UnprocessableEntityError, match="an answer may have at most 1,000,000"):
            await read


async def test_an_item_above_the_limit_of_the_store_is_refused(settings: Settings) -> None:
    """A channel's limit is an item's, too: 16 MiB by default."""
    smaller = settings.model_copy(update={"max_channel_bytes": 1024 * 1024})
    async with serving(smaller) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
        item = {"namespace": ["notes"], "key": "large", "value": {"text": "x" * 1024 * 1024}}
        answer = await http.put("/store/items", json=item)

    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "batch"}], ids=["plain", "keyed"])
async def test_a_batch_is_refused_if_its_assistants_would_add_too_much(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Ours: a body of 40 kB was answered with 192 MB, because each run has all that its assistant says."""
    large = {"graph_id": "counting", "metadata": {"text": "x" * 60_000}, "context": {"blob": "x" * 60_000}}
    assistant_id = (await http.post("/assistants", json=large)).json()["assistant_id"]
    run = {"assistant_id": assistant_id, "input": {}, "after_seconds": 3600}
    refused = await http.post("/runs/batch", json=[run] * 1000, headers=headers)
    made = (await http.post("/threads/count", json={})).json()
    taken = await http.post("/runs/batch", json=[run] * 5, headers=headers)

    assert (refused.status_code, refused.json()["code"], made) == (413, "too-large", 0)
    assert "send fewer runs at once" in refused.json()["detail"]
    assert (taken.status_code, len(taken.json())) == (200, 5)
