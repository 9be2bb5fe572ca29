"""Values of every kind, over HTTP: they survive an interrupt, and are the same everywhere."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from conftest import serving
from threadkeep import project
from threadkeep.graphs import load_graphs
from threadkeep.persistence.item_values import KEY
from threadkeep.settings import Settings

FILE = Path(__file__).parents[1] / "project_types" / "langgraph.json"
BIG = 2**70


@asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server of the project."""
    found = await to_thread.run_sync(project.load_project, FILE)
    await to_thread.run_sync(project.set_environment, found)
    async with serving(settings, await to_thread.run_sync(load_graphs, found), found) as url:
        yield url


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with _served(settings) as url:
        yield url


async def test_values_are_as_they_were_after_an_interrupt_in_another_process(
    client: LangGraphClient, settings: Settings
) -> None:
    """Nothing lists their types: they are the project's own, behind `Any`."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "filling", input={})

    async with _served(settings) as other, get_client(url=other, api_key=None) as elsewhere:
        answer: Any = await elsewhere.runs.wait(thread_id, "filling", command={"resume": "on"})

    assert {name for name, same in answer["same"].items() if not same} == set()
    assert answer["told"] == {"amount": "Decimal", "level": "Level", "big": "int"}


async def test_values_are_shown_by_their_type(client: LangGraphClient) -> None:
    """JSON that says it: bytes are base64, models and dataclasses objects, an enum its value."""
    thread_id = (await client.threads.create())["thread_id"]
    answer: Any = await client.runs.wait(thread_id, "filling", input={})
    state: Any = await client.threads.get_state(thread_id)

    box = {"width": "red", "pair": [3, 4]}
    assert state["values"]["held"] == answer["held"] == {
        "amount": "1.10", "id": "00000000-0000-0000-0000-000000000007", "url": "https://example.com/a", "range": "range(0, 3)",
        "complex": "(1+2j)", "span": "P1DT2H", "bytes": "AP8=", "set": [1, 2], "deque": [1], "counts": {"a": 1},
        "pair": [1, [2, 3]], "big": BIG, "box": box, "colour": "red", "level": 1, "point": {"x": 1, "y": box},
        "answer": {"city": "Rome", "box": box, "pair": [1, 2]}, "inner": {"depth": 1},
        "by_id": {"00000000-0000-0000-0000-000000000007": box, "(1, 2)": 3}, "clock": "01:02:00+00:00", "money": "1.50",
        "old": {"city": "Rome", "box": {"city": "Oslo", "box": None}}, "pattern": "a+",
        "send": {"node": "node", "args": {"set": [1]}},
    }  # fmt: skip


async def test_large_integers_are_the_same_everywhere(http: httpx.AsyncClient) -> None:
    """Answer, join, stream, thread, state, history, search, and both protocols."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "filling", "input": {}, "stream_mode": ["values", "updates"], "stream_resumable": True}
    streamed = (await http.post(f"/threads/{thread_id}/runs/stream", json=body)).text
    run_id = (await http.get(f"/threads/{thread_id}/runs")).json()[0]["run_id"]
    answers = [
        streamed,
        (await http.get(f"/threads/{thread_id}/runs/{run_id}/join")).text,
        (await http.get(f"/threads/{thread_id}")).text,
        (await http.get(f"/threads/{thread_id}/state")).text,
        (await http.get(f"/threads/{thread_id}/history")).text,
        (await http.post("/threads/search", json={"status": "interrupted"})).text,
        (await http.post(f"/threads/{thread_id}/history", json={"limit": 10})).text,
    ]
    events: dict[str, Any] = {"json": {"channels": ["values", "updates", "input", "lifecycle"]}}
    async with http.stream("POST", f"/threads/{thread_id}/stream/events", **events) as answer:
        told = ""
        async for line in answer.aiter_lines():
            told += line
            if '"interrupted"' in line:
                break

    for text in [*answers, told]:
        assert str(BIG) in text
        assert "e+21" not in text
        assert f'"big":{BIG}' in text.replace(" ", "")


async def test_value_that_cannot_be_kept_ends_the_run_before_its_checkpoint(client: LangGraphClient) -> None:
    """The error names the channel. Thread and state are as the step before left them."""
    thread_id = (await client.threads.create())["thread_id"]
    answer: Any = await client.runs.wait(thread_id, "holding", input={}, raise_error=False)

    assert answer["__error__"]["error"] == "NotKept"
    assert answer["__error__"]["message"] == "the channel 'held': an object of type builtins.object can't be stored"
    thread: Any = await client.threads.get(thread_id)
    state = await client.threads.get_state(thread_id)
    assert thread["status"] == "error"
    assert thread["values"] == state["values"] == {"told": "before"}
    assert state["next"] == ["hold_more"]


async def test_run_does_not_fail_because_somebody_watches(client: LangGraphClient) -> None:
    """An event without an end is shortened. Without a reader nothing would be encoded, and the run would succeed."""
    parts = [
        (part.event, part.data)
        async for part in client.runs.stream(None, "telling", input={}, stream_mode=["custom", "values"])
    ]

    custom = {"name": "a child knows its parent", "child": {"parent": "<builtins.dict>"}}
    assert parts[1:] == [("custom", custom), ("values", {"told": "all"})]


async def test_a_state_that_does_not_fit_its_schema_is_refused_with_the_reason(http: httpx.AsyncClient) -> None:
    """4xx, never 500: by a run that spoiled it, by bad input, and by an update, which changes nothing."""
    for graph, given in (("spoiling", {}), ("checked", {"count": "many"})):
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        run = {"assistant_id": graph, "input": given}
        failed = (await http.post(f"/threads/{thread_id}/runs/wait", json=run)).json()
        assert failed["__error__"]["error"] == "ValidationError"
        reads = [
            await http.get(f"/threads/{thread_id}/state"),
            await http.get(f"/threads/{thread_id}/history"),
            await http.post(f"/threads/{thread_id}/history", json={"limit": 5}),
        ]
        for answer in reads:
            assert answer.status_code == 409, answer.text
            assert answer.json()["code"] == "state-invalid"
            assert "valid integer" in answer.json()["detail"]
        assert (await http.get(f"/threads/{thread_id}")).status_code == 200

    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "checked", "input": {"count": 1}})
    before = (await http.get(f"/threads/{thread_id}/state")).json()
    changed = await http.post(f"/threads/{thread_id}/state", json={"values": {"count": "many"}, "as_node": "__start__"})
    assert 400 <= changed.status_code < 500, changed.text
    assert (await http.get(f"/threads/{thread_id}/state")).json() == before


async def test_store_keeps_values_as_they_were(client: LangGraphClient, settings: Settings) -> None:
    """In the run that puts them, in another process, found by a filter; clients see plain JSON."""
    kept: Any = await client.runs.wait(None, "keeping", input={})
    async with _served(settings) as other, get_client(url=other, api_key=None) as elsewhere:
        again: Any = await elsewhere.runs.wait(None, "recalling", input={})

    assert [name for name, same in (kept["same"] | again["same"]).items() if not same] == []
    item: Any = await client.store.get_item(["values"], key="all")
    listed: Any = await client.store.search_items(["values"], filter={"amount": "1.10"})
    assert item["value"]["bytes"] == "AP8="
    assert item["value"]["box"] == {"width": "red", "pair": [3, 4]}
    assert KEY not in json.dumps([item, listed])
    assert [found["value"] for found in listed["items"]] == [item["value"]]


async def test_a_client_cannot_write_the_reserved_key_of_values(http: httpx.AsyncClient) -> None:
    """The key beside which a value is written is reserved."""
    item = {"namespace": ["values"], "key": "mine", "value": {KEY: "forged", "n": 1}}
    refused = await http.put("/store/items", json=item)
    assert refused.status_code == 400, refused.text
    assert KEY in refused.json()["detail"]
