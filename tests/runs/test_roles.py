"""Roles: a process of the role `api` serves every surface and runs no graph, and one of the role `worker` runs them."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from langgraph_sdk import get_client
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from a2a_api.conftest import message, sdk_client, text_of
from agui.conftest import LOADED as TALKERS
from agui.pages import Page, check, types
from conftest import WAIT_S, compiled_graphs, serving
from graphs import Gate
from mcp_client import MODERN, client, texts
from threadkeep.graphs import LoadedGraph, as_loaded_graph
from threadkeep.settings import Settings

RUN = {"assistant_id": "chain", "input": {"items": []}}
ENDED = {"items": ["first", "second"]}
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "one"}]}


async def _call_itself(state: Any) -> Any:
    return {"items": (await get_client().runs.wait(None, "chain", input={"items": []}))["items"]}


def _graphs() -> Mapping[str, LoadedGraph]:
    caller = type(compiled_graphs()["chain"].builder)(dict).add_node("call", _call_itself)
    caller.set_entry_point("call")
    own = {**compiled_graphs(), "caller": caller.compile()}
    return {**TALKERS, **{name: as_loaded_graph(name, graph, where="tests") for name, graph in own.items()}}


def _of_role(settings: Settings, role: str, **more: Any) -> Settings:
    return settings.model_copy(update={"role": role, **more})


@pytest.fixture(scope="module")
async def urls(module_settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """The URLs of a process of the role `api`, and of one of the role `worker`."""
    async with (
        serving(_of_role(module_settings, "api"), _graphs()) as api,
        serving(_of_role(module_settings, "worker"), _graphs()) as worker,
    ):
        yield api, worker


@pytest.fixture
async def api(urls: tuple[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the process that runs no graph."""
    async with httpx.AsyncClient(base_url=urls[0], timeout=WAIT_S * 2) as http:
        yield http


@pytest.fixture
async def worker(urls: tuple[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the process that runs graphs."""
    async with httpx.AsyncClient(base_url=urls[1], timeout=WAIT_S * 2) as http:
        yield http


async def _runs_ended(http: httpx.AsyncClient) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("threadkeep_runs_total{"))


async def test_runs_of_the_langgraph_api_are_executed_by_the_worker(
    api: httpx.AsyncClient, worker: httpx.AsyncClient
) -> None:
    """Issue 20: stateless, on a thread, waited for, streamed, asked by /query."""
    before = await _runs_ended(worker)
    thread = (await api.post("/threads", json={})).json()["thread_id"]
    stateless = await api.post("/runs/wait", json=RUN)
    on_thread = await api.post(f"/threads/{thread}/runs/wait", json=RUN)
    streamed = [await api.post(path, json=RUN) for path in ("/runs/stream", f"/threads/{thread}/runs/stream")]
    asked = await api.post("/query", json={"query": "one"})

    assert (stateless.json(), on_thread.json()) == (ENDED, ENDED)
    for answer in streamed:
        assert answer.text.splitlines()[0] == "event: metadata"
        assert "second" in answer.text.splitlines()[-2]
    assert asked.status_code == 200, asked.text
    assert await _runs_ended(worker) == before + 5
    assert await _runs_ended(api) == 0


async def test_surfaces_for_agents_work_through_the_api_process(urls: tuple[str, str], api: httpx.AsyncClient) -> None:
    """Issue 20: protocol v2, OpenAI, MCP, A2A and AG-UI do not notice that another process runs the graph."""
    async with client(urls[0], MODERN) as mcp:
        called: Any = await mcp.call_tool("chat", {"messages": "one"})
    chat = await api.post("/v1/chat/completions", json=CHAT)
    chat_stream = await api.post("/v1/chat/completions", json={**CHAT, "stream": True})
    response = await api.post("/v1/responses", json={"model": "chat", "input": "one"})
    sent = [event async for event in (await sdk_client(api, "chat")).send_message(message("one"))]
    page = await Page(api, "chat").say("one")

    assert texts(called) == ["You said: one"]
    assert chat.json()["choices"][0]["message"]["content"] == "You said: one"
    assert chat_stream.text.rstrip().endswith("[DONE]")
    assert response.json()["output"][0]["content"][0]["text"] == "You said: one"
    assert "".join(text_of(each.artifact_update.artifact.parts) for each in sent[:-1]).endswith("You said: one")
    check(page)
    assert types(page)[-1] == "RUN_FINISHED"


async def test_protocol_v2_works_through_the_api_process(urls: tuple[str, str]) -> None:
    """Issue 20: events of a run of another process come over the socket."""
    address = f"ws{urls[0].removeprefix('http')}/threads/{uuid4()}/stream/events"
    start = {"id": 1, "method": "run.start", "params": RUN}
    subscribe = {"id": 2, "method": "subscription.subscribe", "params": {"channels": ["values", "lifecycle"]}}
    received = ""
    async with connect(address) as socket:
        await socket.send(json.dumps(start))
        await socket.send(json.dumps(subscribe))
        with anyio.fail_after(WAIT_S * 2):
            while '"event":"completed"' not in received:
                received += str(await socket.recv())

    assert "second" in received


async def test_a_run_is_cancelled_through_the_api_process(api: httpx.AsyncClient, gate: Gate) -> None:
    """Ours: as a run of any other process."""
    thread = (await api.post("/threads", json={})).json()["thread_id"]
    run = (await api.post(f"/threads/{thread}/runs", json={**RUN, "assistant_id": "gated"})).json()
    await gate.entered()
    stopped = await api.post(f"/threads/{thread}/runs/{run['run_id']}/cancel", params={"wait": True})
    ended = await api.get(f"/threads/{thread}/runs/{run['run_id']}")

    assert stopped.is_success
    assert ended.json()["status"] == "interrupted"


async def test_a_graph_of_a_worker_reaches_its_own_server(api: httpx.AsyncClient) -> None:
    """Ours: only clients from outside are refused."""
    answer = await api.post("/runs/wait", json={"assistant_id": "caller", "input": {}})

    assert answer.json() == ENDED


async def test_the_api_process_tells_its_role(api: httpx.AsyncClient) -> None:
    """Issue 20: in /info, in /metrics and in the list of processes."""
    info = (await api.get("/info")).json()
    slots = [line for line in (await api.get("/metrics")).text.splitlines() if line.startswith("threadkeep_run_slots ")]
    processes = (await api.get("/workers")).json()

    assert (info["role"], info["limits"]["run_slots"]) == ("api", 0)
    assert slots == ["threadkeep_run_slots 0.0"]
    assert [process["run_slots"] for process in processes] == [0, 12]
    assert [bool(process["graph_ids"]) for process in processes] == [False, True]


async def test_a_worker_serves_health_checks_and_metrics_only(worker: httpx.AsyncClient) -> None:
    """Issue 20: no other path, no socket."""
    served = [(await worker.get(path)).status_code for path in ("/ok", "/livez", "/readyz", "/metrics")]
    refused = [(await worker.get(path)).status_code for path in ("/", "/info", "/docs", "/console", "/threads/1")]
    refusal = (await worker.post("/runs/wait", json=RUN)).json()
    with pytest.raises(InvalidStatus, match="403"):
        async with connect(f"ws://127.0.0.1:{worker.base_url.port}/threads/{uuid4()}/stream/events"):
            pass

    assert (served, refused) == ([200] * 4, [404] * 5)
    assert refusal["code"] == "not-found"
    assert "THREADKEEP_ROLE=worker" in refusal["detail"]


async def test_runs_wait_for_a_worker_and_the_queue_has_its_limit(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 20: a start with the role `api` warns if there is no worker. Above the queue's limit the answer is 503."""
    lonely = _of_role(settings, "api", max_queued=1, max_waiting=0)
    with caplog.at_level(logging.WARNING):
        async with serving(lonely) as url, httpx.AsyncClient(base_url=url, timeout=WAIT_S * 2) as http:
            queued = await http.post("/runs", json=RUN)
            with anyio.fail_after(WAIT_S):
                while (refused := await http.post("/runs/wait", json=RUN, timeout=1)).status_code != 503:
                    await anyio.sleep(0.1)
            async with serving(_of_role(settings, "worker")):
                joined = await http.get(f"/threads/{queued.json()['thread_id']}/runs/{queued.json()['run_id']}/join")

    assert (refused.headers["retry-after"], refused.json()["code"]) == ("5", "overloaded")
    assert joined.json() == ENDED
    told = [record for record in caplog.records if record.message.startswith("no live process runs these graphs")]
    assert ["chain" in record.__dict__["graphs"] for record in told] == [True]
