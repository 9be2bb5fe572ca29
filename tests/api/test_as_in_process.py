"""As in process: graphs with LangGraph's further features answer over HTTP as `ainvoke` does, turn after turn."""

import copy
import itertools
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.channels import EphemeralValue, UntrackedValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, Overwrite, RetryPolicy, Send
from langgraph_sdk.client import LangGraphClient
from typing_extensions import TypedDict

from conftest import serving
from threadkeep.base import json
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings


class Log(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]
    n: int


class Counted(TypedDict, total=False):
    count: Annotated[int, operator.add]
    log: Annotated[list[Any], operator.add]


class Managed(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]
    last: IsLastStep
    left: RemainingSteps


class Channels(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]
    brief: Annotated[str, EphemeralValue]
    live: Annotated[Any, UntrackedValue]


def _chain(state: Any, **nodes: Any) -> Any:
    return StateGraph(state).add_sequence(list(nodes.items())).add_edge(START, next(iter(nodes)))


def _log(word: str) -> Any:
    return lambda _: {"log": [word]}


def _deferred() -> Any:
    """`last` waits for the longer of two branches."""
    graph: Any = StateGraph(Log)
    for name in ("first", "short", "long", "longer"):
        graph.add_node(name, _log(name))
    graph.add_node("last", _log("last"), defer=True)
    for edge in ((START, "first"), ("first", "short"), ("first", "long"), ("long", "longer"), ("short", "last")):
        graph.add_edge(*edge)
    return graph.add_edge("longer", "last").compile()


def _cached() -> Any:
    calls = itertools.count(1)
    graph: Any = StateGraph(Log)
    graph.add_node("slow", lambda _: {"log": [next(calls)]}, input_schema=Number, cache_policy=CachePolicy(ttl=60))
    return graph.add_edge(START, "slow").compile(cache=InMemoryCache())


class Number(TypedDict, total=False):
    n: int


def _retried() -> Any:
    calls = itertools.count(1)

    def flaky(_: Log) -> Log:
        if next(calls) % 3:
            raise ConnectionError
        return {"log": ["done"]}

    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False)
    return StateGraph(Log).add_node("flaky", flaky, retry_policy=policy).add_edge(START, "flaky").compile()


def _subgraph(checkpointer: Any) -> Any:
    """Its count is its own, and outlives a run only if it has a memory."""
    tell: Any = lambda state: {"log": [f"count {state['count']}"]}  # noqa: E731
    child = _chain(Counted, add=lambda _: {"count": 1}, tell=tell).compile(checkpointer=checkpointer)
    return _chain(Log, child=child).compile()


def _to_parent() -> Any:
    jump: Any = lambda _: Command(graph=Command.PARENT, goto="after", update={"log": ["from the child"], "n": 7})  # noqa: E731
    child = _chain(Log, jump=jump).compile()
    return StateGraph(Log).add_node("child", child).add_node("after", _log("after")).add_edge(START, "child").compile()


def _sent() -> Any:
    goto: Any = lambda _: Command(goto=[Send("work", {"n": 1}), Send("work", {"n": 2})], update={"log": ["sent"]})  # noqa: E731
    graph: Any = StateGraph(Log).add_node("goto", goto).add_node("work", lambda state: {"log": [state["n"]]})
    return graph.add_edge(START, "goto").compile()


@task
async def _square(number: int) -> int:
    return number * number


@entrypoint()
async def _functional(numbers: list[int], *, previous: int | None = None) -> Any:
    total = (previous or 0) + sum([await future for future in [_square(number) for number in numbers]])
    return entrypoint.final(value=f"total {total}", save=total)


def _look(state: Any) -> Any:
    return {"log": [state.get("brief"), type(state.get("live")).__name__]}


def _messages(*messages: Any) -> Any:
    return _chain(MessagesState, say=lambda _: {"messages": list(messages)}).compile()


HI = {"messages": [{"role": "user", "content": "hi", "id": "1"}]}
CASES: dict[str, tuple[Any, Any]] = {
    "deferred": (_deferred, {"log": []}),
    "cached": (_cached, {"n": 2}),
    "retried": (_retried, {"log": []}),
    "with_memory": (lambda: _subgraph(True), {"log": []}),
    "without_memory": (lambda: _subgraph(False), {"log": []}),
    "to_parent": (_to_parent, {"log": []}),
    "sent": (_sent, {"log": []}),
    "functional": (lambda: _functional, [1, 2]),
    "managed": (lambda: _chain(Managed, look=lambda s: {"log": [s["last"], s["left"] > 1]}).compile(), {"log": []}),
    "channels": (
        lambda: _chain(Channels, put=lambda _: {"brief": "b", "live": _log}, look=_look).compile(),
        {"log": []},
    ),
    "overwritten": (
        lambda: _chain(Log, a=_log("a"), b=lambda _: {"log": Overwrite(["only"])}).compile(),
        {"log": ["0"]},
    ),
    "removed": (lambda: _messages(RemoveMessage(id="1"), AIMessage("kept", id="2")), HI),
    "all_removed": (lambda: _messages(RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("only", id="o")), HI),
}


@pytest.fixture(scope="module")
async def file_server(module_settings: Settings) -> AsyncIterator[str]:
    """One server for all tests of this file."""
    graphs = {name: as_loaded_graph(name, make(), where="tests") for name, (make, _) in CASES.items()}
    async with serving(module_settings, graphs) as url:
        yield url


@pytest.fixture
def url(file_server: str) -> str:
    return file_server


@pytest.mark.parametrize("name", CASES)
async def test_two_turns_answer_as_ainvoke_does(client: LangGraphClient, name: str) -> None:
    """A thread over HTTP is a thread of a saver in memory."""
    make, given = CASES[name]
    graph = copy.copy(make())
    graph.checkpointer, graph.store = InMemorySaver(), InMemoryStore()
    config: Any = {"configurable": {"thread_id": "t"}}
    wanted = [json.loads(json.dumps(await graph.ainvoke(given, config))) for _ in range(2)]

    thread_id = (await client.threads.create())["thread_id"]
    assert [await client.runs.wait(thread_id, name, input=given) for _ in range(2)] == wanted
