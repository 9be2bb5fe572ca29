"""The OpenAI API as a part of the server: its switches, its place, its models."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from conftest import serving
from openai_graphs import OPENAI_GRAPHS
from threadkeep.graphs import as_loaded_graph
from threadkeep.project import GraphTarget, Project
from threadkeep.settings import Settings

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@asynccontextmanager
async def _served(settings: Settings, folder: Path, **http: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose langgraph.json has these keys below `http`."""
    loaded = {name: as_loaded_graph(name, graph, where="tests") for name, graph in OPENAI_GRAPHS.items()}
    project = Project.model_validate({"root": folder, "graphs": {"echo": GraphTarget(path="x:y")}, "http": http})
    async with serving(settings, loaded, project) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


async def test_a_switch_takes_the_api_away(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Routes: `http.disable_openai`. Its errors go with it."""
    async with _served(module_settings, tmp_path, disable_openai=True) as http:
        answer = await http.get("/v1/models")

    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found", "code": "not-found"})


async def test_other_switches_take_their_parts_away(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Routes: what is a run, a thread or an assistant goes with these."""
    switches = {"disable_runs": True, "disable_threads": True, "disable_assistants": True}
    async with _served(module_settings, tmp_path, **switches) as http:
        paths = ("/v1/chat/completions", "/v1/responses", "/v1/conversations")
        answers = [await http.post(path, json={}) for path in paths] + [await http.get("/v1/models")]

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(404, "unknown_url")}


async def test_a_prefix_goes_before_it(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, Routes: `http.mount_prefix`."""
    async with _served(module_settings, tmp_path, mount_prefix="/agents") as http:
        answer = await http.post("/agents/v1/chat/completions", json={"model": "echo", **HELLO})
        unknown = await http.get("/agents/v1/none")

    assert answer.json()["choices"][0]["message"]["content"] == "You said: hello"
    assert unknown.json()["error"]["code"] == "unknown_url"


async def test_models_are_listed_within_200_ms_of_the_start(module_settings: Settings, tmp_path: Path) -> None:
    """Issue 18: which graphs take messages is looked at in the background at the start. The shortest of three counts."""
    took: list[float] = []
    for _ in range(3):
        async with _served(module_settings, tmp_path) as http:
            began = time.monotonic()
            answer = await http.get("/v1/models")
            took.append(time.monotonic() - began)
            assert len(answer.json()["data"]) > 10

    assert min(took) < 0.2


async def test_tokens_of_subgraphs_come_if_the_assistant_says_so(module_settings: Settings, tmp_path: Path) -> None:
    """Issue 18: `metadata.openai.stream_subgraphs`. By default the message comes whole, when the subgraph has ended."""
    async with _served(module_settings, tmp_path) as http:
        counts: list[int] = []
        for metadata in ({}, {"openai": {"stream_subgraphs": True}}):
            made = await http.post("/assistants", json={"graph_id": "parent", "metadata": metadata})
            body = {"model": made.json()["assistant_id"], "stream": True, **HELLO}
            counts.append((await http.post("/v1/chat/completions", json=body)).text.count('"delta":{"content"'))

    assert counts == [1, 3]


async def test_pages_of_other_origins_may_send_what_the_sdk_sends(module_settings: Settings, tmp_path: Path) -> None:
    """Contract, In general: CORS."""
    cors = {"allow_origins": ["https://chat.example"]}
    asked = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    async with _served(module_settings, tmp_path, cors=cors) as http:
        allowed = await http.options("/v1/chat/completions", headers=asked)
        answer = await http.get("/v1/models", headers={"origin": "https://chat.example"})
        foreign = await http.get("/v1/models", headers={"origin": "https://evil.example"})

    assert "x-stainless-lang" in allowed.headers["access-control-allow-headers"]
    assert {"x-request-id", "x-thread-id"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "insufficient_permissions")
