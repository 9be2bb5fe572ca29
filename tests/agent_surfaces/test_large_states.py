"""A large state: the surfaces decode it beside the event loop, in which every other request waits."""

import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from a2a_api.conftest import said
from agui.pages import Page, of_type
from conftest import WAIT_S, serving
from mcp_client import post
from threadkeep.base.json import INLINE_BYTES
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

ROWS = [{"id": number, "name": f"row {number}"} for number in range(4000)]


class Table(TypedDict, total=False):
    """A state that grows to more than the event loop decodes."""

    rows: list[Any]
    count: int


async def _fill(state: Table) -> Any:
    return {"rows": ROWS}


async def _count(state: Table) -> Any:
    return {"count": len(state["rows"])}


TABLE: Any = (
    StateGraph(Table)
    .add_node("fill", _fill)
    .add_node("count", _count)
    .add_edge(START, "fill")
    .add_edge("fill", "count")
    .add_edge("count", END)
)


@pytest.fixture(scope="module")
async def http(module_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of that graph."""
    loaded = {"table": as_loaded_graph("table", TABLE, where="tests")}
    async with (
        serving(module_settings, loaded) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http,
    ):
        yield http


async def test_nothing_large_is_decoded_in_the_event_loop(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise on a state of any size: the event loop is not blocked."""
    loads, loop_thread, blocking = orjson.loads, threading.get_ident(), list[str]()

    def noted(raw: bytes) -> Any:
        if len(raw) > INLINE_BYTES and threading.get_ident() == loop_thread:
            blocking.append("".join(traceback.format_stack(limit=4)))
        return loads(raw)

    monkeypatch.setattr(orjson, "loads", noted)
    page = Page(http, "table", state={"count": 0})
    first = await page.run()
    second = await page.run(state={"count": 1})
    tool = {"name": "table", "arguments": {"count": 0}}
    called = await post(http, "tools/call", tool)
    told = await post(http, "tools/call", {**tool, "_meta": {"progressToken": 1}})
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": said(parts=[{"data": {"count": 0}}])}
    task = (await http.post("/a2a/table", json=body)).content
    streamed = await http.post("/a2a/table", json=body | {"method": "SendStreamingMessage"})

    assert of_type(first, "STATE_SNAPSHOT")[-1]["snapshot"] == {"rows": ROWS, "count": 4000}
    assert second[-1]["type"] == "RUN_FINISHED"
    assert called.status_code == told.status_code == streamed.status_code == 200
    assert loads(task)["result"]["task"]["artifacts"][0]["parts"] == [{"data": {"rows": ROWS, "count": 4000}}]
    assert blocking == []
