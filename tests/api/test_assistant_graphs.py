"""An assistant's graph: its nodes and edges, and the JSON schemas of its input and output."""

import operator
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from typing_extensions import TypedDict

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

ITEMS = {"default": None, "title": "Items", "type": "array", "items": {"type": "string"}}


class Items(TypedDict):
    """A state that grows."""

    items: Annotated[list[str], operator.add]


class Question(TypedDict):
    """The input."""

    question: str


class Answer(TypedDict):
    """The output."""

    answer: str


class Whole(Question, Answer):
    """All there is on the way."""

    odd: "Opaque"


class Opaque:
    """No type that JSON knows."""


@dataclass
class Who:
    """The user."""

    user: str
    depth: int = 3


class Choice(TypedDict, total=False):
    """The choice."""

    model: str


async def _pass(state: Any) -> dict[str, Any]:
    return {}


def _chain(state: Any, *names: str, **settings: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(state, **settings)
    for name in names:
        graph.add_node(name, _pass)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph


def _around(inner: Any) -> StateGraph[Any, Any, Any, Any]:
    """A graph whose node `child` is `inner`."""
    graph = StateGraph(Items)
    graph.add_node("child", inner)
    graph.add_node("last", _pass)
    graph.add_edge(START, "child")
    graph.add_edge("child", "last")
    graph.add_edge("last", END)
    return graph


def _deep() -> StateGraph[Any, Any, Any, Any]:
    inner = StateGraph(Items)
    inner.add_node("deep", _chain(Items, "leaf").compile())
    inner.add_node("beside", _pass)
    inner.add_edge(START, "deep")
    inner.add_edge("deep", "beside")
    return _around(inner.compile())


async def _choose(state: Any, config: RunnableConfig, runtime: Runtime[Choice]) -> dict[str, Any]:
    return {"items": [config["configurable"]["model"], runtime.context["model"]]}


def _made(config: RunnableConfig) -> Any:
    return _chain(Items, config["configurable"].get("name", "unnamed")).compile()


@entrypoint(context_schema=Choice)
async def _count(step: int, *, previous: int | None = None) -> str:
    return str((previous or 0) + step)


GRAPHS: dict[str, Any] = {
    "plain": _chain(Items, "first", "second"),
    "talking": _chain(MessagesState, "speak"),
    "asked": _chain(Whole, "think", input_schema=Question, output_schema=Answer, context_schema=Who),
    "count": _count,
    "deep": _deep(),
    "made": _made,
    "choosing": StateGraph(Items, context_schema=Choice).add_node("choose", _choose).add_edge(START, "choose"),
}


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server of the graphs above."""
    graphs = {name: as_loaded_graph(name, graph, where="tests") for name, graph in GRAPHS.items()}
    async with serving(settings, graphs) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=url, api_key=None) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as http:
        yield http


async def test_graph_is_drawn_by_its_nodes_and_edges(client: LangGraphClient) -> None:
    """Protocol: GET /assistants/{id}/graph, as the reference answers it."""
    assert await client.assistants.get_graph("plain") == {
        "nodes": [_node("__start__"), _node("first"), _node("second"), {"id": "__end__"}],
        "edges": [_edge("__start__", "first"), _edge("first", "second"), _edge("second", "__end__")],
    }


async def test_entrypoint_is_drawn_as_one_node(client: LangGraphClient) -> None:
    """Protocol: the functional API has a drawing too."""
    assert await client.assistants.get_graph("count") == {
        "nodes": [_node("_count"), {"id": "__start__"}, {"id": "__end__"}],
        "edges": [_edge("__start__", "_count"), {**_edge("_count", "__end__"), "conditional": True}],
    }


async def test_xray_draws_subgraphs_too_as_deep_as_asked(client: LangGraphClient) -> None:
    """Protocol: `xray` is a flag or a depth."""
    ids = {
        xray: {node["id"] for node in (await client.assistants.get_graph("deep", xray=xray))["nodes"]}
        for xray in ("false", 1, "true")
    }

    assert ids == {
        "false": {"__start__", "child", "last", "__end__"},
        1: {"__start__", "child:deep", "child:beside", "last", "__end__"},
        "true": {"__start__", "child:deep:leaf", "child:beside", "last", "__end__"},
    }


@pytest.mark.parametrize("xray", ["0", "-1", "deep"])
async def test_an_xray_that_is_no_number_or_boolean_is_refused(http: httpx.AsyncClient, xray: str) -> None:
    """Protocol: 422, for 0 too."""
    response = await http.get("/assistants/plain/graph", params={"xray": xray})

    assert (response.status_code, response.json()["code"]) == (422, "invalid")


async def test_factory_makes_the_graph_of_the_assistants_configuration(client: LangGraphClient) -> None:
    """Ours: the drawing of an assistant is that of the graph that it runs."""
    made = await client.assistants.create("made", {"configurable": {"name": "chosen"}})

    own = await client.assistants.get_graph("made")
    configured = await client.assistants.get_graph(made["assistant_id"])

    assert [node["id"] for node in own["nodes"]] == ["__start__", "unnamed", "__end__"]
    assert [node["id"] for node in configured["nodes"]] == ["__start__", "chosen", "__end__"]


async def test_run_gets_the_assistants_context_under_its_own(client: LangGraphClient) -> None:
    """Protocol: by `configurable` and by `context`, whichever the assistant and the run say it with."""
    made = await client.assistants.create("choosing", context={"model": "small"})

    for said, model in [
        ({}, "small"),
        ({"config": {"configurable": {"model": "big"}}}, "big"),
        ({"context": {"model": "big"}}, "big"),
    ]:
        answer = await client.runs.wait(None, made["assistant_id"], input={"items": []}, **said)
        assert answer == {"items": [model, model]}


async def test_schemas_of_a_state_graph(client: LangGraphClient) -> None:
    """Protocol: GET /assistants/{id}/schemas; the reference has an empty `config_schema` without a context."""
    declared = {"description": "A state that grows.", "required": ["items"], "title": "Items", "type": "object"}
    items = {"title": "Items", "type": "array", "items": {"type": "string"}}

    assert await client.assistants.get_schemas("plain") == {
        "graph_id": "plain",
        "input_schema": declared | {"properties": {"items": items}},
        "output_schema": declared | {"properties": {"items": items}},
        "state_schema": {"properties": {"items": ITEMS}, "title": "plain_state", "type": "object"},
        "config_schema": {},
        "context_schema": None,
    }


async def test_schemas_of_messages_define_each_kind_of_message(client: LangGraphClient) -> None:
    """Protocol: JSON schemas with `$defs`."""
    schemas = await client.assistants.get_schemas("talking")

    for name in ("input_schema", "output_schema", "state_schema"):
        schema: Any = schemas[name]
        assert {"AIMessage", "HumanMessage", "ToolMessage"} < set(schema["$defs"])
        assert {"$ref": "#/$defs/HumanMessage"} in schema["properties"]["messages"]["items"]["oneOf"]


async def test_schemas_tell_input_output_state_and_context_apart(client: LangGraphClient) -> None:
    """Protocol: each is its own; `config_schema` is the context's. Ours: a type that JSON does not know is anything."""
    schemas = await client.assistants.get_schemas("asked")

    assert schemas["input_schema"] == {
        "description": "The input.",
        "properties": {"question": {"title": "Question", "type": "string"}},
        "required": ["question"],
        "title": "Question",
        "type": "object",
    }
    assert schemas["output_schema"] == {
        "description": "The output.",
        "properties": {"answer": {"title": "Answer", "type": "string"}},
        "required": ["answer"],
        "title": "Answer",
        "type": "object",
    }
    assert schemas["state_schema"] == {
        "properties": {
            "question": {"default": None, "title": "Question", "type": "string"},
            "answer": {"default": None, "title": "Answer", "type": "string"},
            "odd": {"default": None, "title": "Odd"},
        },
        "title": "asked_state",
        "type": "object",
    }
    assert (
        schemas["config_schema"]
        == schemas["context_schema"]
        == {
            "description": "The user.",
            "properties": {
                "user": {"title": "User", "type": "string"},
                "depth": {"default": 3, "title": "Depth", "type": "integer"},
            },
            "required": ["user"],
            "title": "Who",
            "type": "object",
        }
    )


async def test_schemas_of_an_entrypoint_are_those_of_its_function(client: LangGraphClient) -> None:
    """Protocol: the functional API."""
    context = {
        "description": "The choice.",
        "properties": {"model": {"title": "Model", "type": "string"}},
        "title": "Choice",
        "type": "object",
    }

    assert await client.assistants.get_schemas("count") == {
        "graph_id": "count",
        "input_schema": {"title": "count_input", "type": "integer"},
        "output_schema": {"title": "count_output", "type": "string"},
        "state_schema": {
            "properties": {"__end__": {"default": None, "title": "End", "type": "string"}},
            "title": "count_state",
            "type": "object",
        },
        "config_schema": context,
        "context_schema": context,
    }


async def test_subgraphs_are_named_by_their_namespace(client: LangGraphClient) -> None:
    """Protocol: GET /assistants/{id}/subgraphs[/{namespace}]?recurse="""
    own = await client.assistants.get_subgraphs("deep")
    all_of_them = await client.assistants.get_subgraphs("deep", recurse=True)
    named = await client.assistants.get_subgraphs("deep", namespace="child", recurse=True)
    inner = await client.assistants.get_subgraphs("deep", namespace="child|deep")

    assert list(own) == list(named) == ["child"]
    assert list(all_of_them) == ["child", "child|deep"]
    assert inner == {"child|deep": all_of_them["child|deep"]}
    assert set(own["child"]) == {"input_schema", "output_schema", "state_schema", "config_schema", "context_schema"}
    assert own["child"]["state_schema"] == {
        "properties": {"items": ITEMS},
        "title": "LangGraphState",
        "type": "object",
    }


async def test_graph_without_subgraphs_has_none(client: LangGraphClient) -> None:
    """Protocol: {} where there is none, and for a namespace that there is not."""
    assert await client.assistants.get_subgraphs("plain") == {}
    assert await client.assistants.get_subgraphs("deep", namespace="nowhere") == {}


async def test_graph_that_is_no_longer_served_is_not_found(client: LangGraphClient, settings: Settings) -> None:
    """Ours: an assistant outlives its graph; only what needs the graph is refused."""
    made = await client.assistants.create("plain")
    only = {"made": as_loaded_graph("made", _made, where="tests")}
    async with serving(settings, only) as url, httpx.AsyncClient(base_url=url) as later:
        known = await later.get(f"/assistants/{made['assistant_id']}")
        drawn = await later.get(f"/assistants/{made['assistant_id']}/graph")

    assert known.json() == made
    assert (drawn.status_code, drawn.json()["detail"]) == (404, "Graph 'plain' not found. Expected one of: ['made']")


def _node(name: str) -> dict[str, Any]:
    return {"id": name, "type": "runnable", "data": {"name": name}}


def _edge(source: str, target: str) -> dict[str, Any]:
    return {"source": source, "target": target}
