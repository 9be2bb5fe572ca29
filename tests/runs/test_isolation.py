"""A graph that does its worst ends its own run, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


class Odd(BaseException):
    """No Exception."""


class Unprintable(Exception):
    """Its text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError


def _itself() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def _deep() -> Any:
    value: Any = 1
    for _ in range(5000):
        value = {"a": value}
    return value


def _endlessly(depth: int) -> BaseException:
    return _endlessly(depth + 1)


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "Odd": Odd,
    "CancelledError": asyncio.CancelledError,
    "Unprintable": Unprintable,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("one")]),
    "StopAsyncIteration": StopAsyncIteration,
    "RecursionError": lambda: _endlessly(0),
}
RETURNED: dict[str, Callable[[], Any]] = {
    "function": lambda: _itself,
    "endless": _itself,
    "deep": _deep,
}


class Wish(TypedDict):
    """The action of the node."""

    wish: Any


async def _fulfil(state: Wish) -> Wish:
    wish = state["wish"]
    if wish in RAISED:
        raise RAISED[wish]()
    return {"wish": RETURNED[wish]() if wish in RETURNED else wish}


@pytest.fixture
async def http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A server of a graph whose input chooses its action."""
    graph = StateGraph(Wish)
    graph.add_node("fulfil", _fulfil)
    graph.add_edge(START, "fulfil")
    graphs = {"bad": as_loaded_graph("bad", graph, where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=5) as http:
        yield http


@pytest.mark.parametrize("wish", [*RAISED, *RETURNED])
@pytest.mark.parametrize("modes", [["values"], ["messages-tuple", "custom"]], ids=["values", "tokens"])
async def test_run_ends_as_error_and_the_thread_can_go_on(http: httpx.AsyncClient, wish: str, modes: list[str]) -> None:
    """Ours: whatever a node raises or leaves, in the run's own task or in one of LangGraph's."""
    thread_id = (await http.post("/threads", json={})).json()["thread_id"]
    run = {"assistant_id": "bad", "stream_mode": modes}

    failed = await http.post(f"/threads/{thread_id}/runs/wait", json={**run, "input": {"wish": wish}})
    (row,) = (await http.get(f"/threads/{thread_id}/runs")).json()
    thread = (await http.get(f"/threads/{thread_id}")).json()
    after = await http.post(f"/threads/{thread_id}/runs/wait", json={**run, "input": {"wish": "peace"}})

    assert set(failed.json()["__error__"]) - {"request_id"} == {"error", "message"}
    assert (row["status"], thread["status"]) == ("error", "error")
    assert after.json() == {"wish": "peace"}
    assert (await http.get("/info")).json()["load"]["running"] == 0


class ProviderError(Exception):
    """An error of a library. Its text may contain secrets."""


GROUPS: dict[str, tuple[BaseExceptionGroup[Any], str]] = {
    "several": (ExceptionGroup("several", [ValueError("one"), TypeError("two")]), "ValueError: one; TypeError: two"),
    "nested": (
        ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("one")]), RuntimeError("two")]),
        "ValueError: one; RuntimeError: two",
    ),
    "hidden": (
        ExceptionGroup("sk-123", [ProviderError("sk-123"), ValueError("one")]),
        "ProviderError: An internal error occurred; ValueError: one",
    ),
    "many": (ExceptionGroup("many", [ValueError("x")] * 1000), "; ".join(["ValueError: x"] * 10)),
}


@pytest.mark.parametrize("name", GROUPS)
async def test_exception_group_tells_its_inner_exceptions(settings: Settings, name: str) -> None:
    """Issue: TaskGroups and MCP clients raise groups. Each inner exception is reported like any other."""
    group, message = GROUPS[name]

    async def fail(state: Wish) -> Wish:
        raise group

    graphs = {
        "bad": as_loaded_graph("bad", StateGraph(Wish).add_node("fail", fail).add_edge(START, "fail"), where="tests")
    }
    async with serving(settings, graphs) as url, get_client(url=url, api_key=None) as client:
        thread_id = (await client.threads.create())["thread_id"]
        answer: Any = await client.runs.wait(thread_id, "bad", input={}, raise_error=False)
        events = [event async for event in client.runs.stream(None, "bad", input={})]

    told = answer["__error__"]
    assert (told["error"], told["message"]) == ("ExceptionGroup", message)
    assert ("request_id" in told) == (name == "hidden")
    [streamed] = [event.data for event in events if event.event == "error"]
    assert (streamed["error"], streamed["message"]) == ("ExceptionGroup", message)


@pytest.mark.parametrize(("wish", "told"), [("a\0b", "a�b"), ("plain", "plain")])
async def test_a_value_that_json_cannot_hold_is_replaced(http: httpx.AsyncClient, wish: str, told: str) -> None:
    """Protocol: NUL becomes U+FFFD."""
    answer = await http.post("/runs/wait", json={"assistant_id": "bad", "input": {"wish": wish}})

    assert answer.json() == {"wish": told}


@pytest.mark.parametrize("expose", [False, True])
async def test_the_text_of_a_library_error_is_shown_only_if_the_operator_allows_it(
    settings: Settings, expose: bool
) -> None:
    """Ours: otherwise the client gets the class and a request id for the operator. It never gets a trace."""

    async def fail(state: Wish) -> Wish:
        raise ProviderError("the key sk-123 is wrong")

    graph = StateGraph(Wish)
    graph.add_node("fail", fail)
    graph.add_edge(START, "fail")
    graphs = {"bad": as_loaded_graph("bad", graph, where="tests")}
    chosen = settings.model_copy(update={"expose_errors": expose})
    async with serving(chosen, graphs) as url, httpx.AsyncClient(base_url=url, timeout=5) as http:
        body = {"assistant_id": "bad", "input": {"wish": 1}}
        answer = await http.post("/runs/wait", json=body, headers={"x-request-id": "mine-1"})

    hidden = {"error": "ProviderError", "message": "An internal error occurred", "request_id": "mine-1"}
    shown = {"error": "ProviderError", "message": "the key sk-123 is wrong"}
    assert answer.json()["__error__"] == (shown if expose else hidden)


async def test_an_edge_that_raises_system_exit_ends_only_its_request(settings: Settings) -> None:
    """Ours: a state is updated in the request, and its edges are the project's code."""

    def leave(state: Wish) -> str:
        raise SystemExit(1)

    graph = StateGraph(Wish)
    graph.add_node("fulfil", _fulfil)
    graph.add_edge(START, "fulfil")
    graph.add_conditional_edges("fulfil", leave)
    async with (
        serving(settings, {"bad": as_loaded_graph("bad", graph, where="tests")}) as url,
        httpx.AsyncClient(base_url=url, timeout=5) as http,
    ):
        thread_id = (await http.post("/threads", json={"metadata": {"graph_id": "bad"}})).json()["thread_id"]
        body = {"values": {"wish": "x"}, "as_node": "fulfil"}
        updated = await http.post(f"/threads/{thread_id}/state", json=body)
        alive = await http.get("/livez")

    assert (updated.status_code, updated.json()["code"], alive.status_code) == (500, "internal-error", 200)


@pytest.mark.parametrize("raised", [SystemExit(1), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
async def test_a_factory_that_raises_system_exit_ends_only_its_run(settings: Settings, raised: BaseException) -> None:
    """Ours: a factory that calls `sys.exit`, for a key that is missing, stops no server."""

    def make(config: dict[str, Any]) -> Any:
        raise raised

    graphs = {"bad": as_loaded_graph("bad", make, where="tests")}
    async with serving(settings, graphs) as url, httpx.AsyncClient(base_url=url, timeout=5) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        failed = await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "bad", "input": {}})
        schemas = await http.get("/assistants/bad/schemas")
        alive = await http.get("/livez")

    assert set(failed.json()["__error__"]) - {"request_id"} == {"error", "message"}
    assert (schemas.status_code, alive.status_code) == (500, 200)
