"""Watchdog: a node that blocks the event loop is named."""

import itertools
import logging
import time
from typing import Any

import anyio
import httpx
import pytest
from langgraph.graph import END, START, StateGraph

from conftest import serving
from graphs import Items
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


async def _counting(state: Items) -> Items:
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        pass
    return {"items": ["counted"]}


def _blocking() -> StateGraph[Items]:
    graph = StateGraph(Items)
    graph.add_node("counting", _counting)
    graph.add_edge(START, "counting")
    graph.add_edge("counting", END)
    return graph


def _told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The log lines from the node on, because a busy machine may have blocked the loop before."""
    records = [vars(record) for record in caplog.records if record.name == "threadkeep.duties.watchdog"]
    return list(itertools.dropwhile(lambda record: "node" not in record, records))


async def test_a_node_that_blocks_the_loop_is_named(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a warning after 1 s says which line of which node of which run, and the run ends as any other."""
    graphs = {"blocking": as_loaded_graph("blocking", _blocking(), where="tests")}
    with caplog.at_level(logging.WARNING, "threadkeep.duties.watchdog"):
        async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
            thread = (await http.post("/threads", json={})).json()["thread_id"]
            path = f"/threads/{thread}/runs/wait"
            answer = await http.post(path, json={"assistant_id": "blocking", "input": {"items": []}})
            with anyio.fail_after(5):
                while len(told := _told(caplog)) < 2:
                    await anyio.sleep(0.05)

    assert answer.json() == {"items": ["counted"]}
    blocked, over = told[:2]
    assert (blocked["msg"], over["msg"]) == ("a node blocks the event loop", "the event loop runs again")
    named = {name: blocked[name] for name in ("node", "graph_id", "thread_id", "run_id")}
    run_id = answer.headers["content-location"].rpartition("/")[2]
    assert named == {"node": "counting", "graph_id": "blocking", "thread_id": thread, "run_id": run_id}
    assert blocked["code_location"].startswith(f"{__file__}:")
    assert blocked["code_location"].endswith(" in _counting")
    assert 1.0 <= blocked["blocked_s"] < over["blocked_s"] < 5
