"""A user's schema fails no run, whatever types it is made of, and is described as far as it can be."""

import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.runtime import ServerRuntime
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from conftest import serving
from threadkeep.graphs import as_loaded_graph
from threadkeep.settings import Settings

Value = TypeVar("Value")


class Client:
    """No type that pydantic knows."""


class Old(BaseModelV1):
    """A model of pydantic's first version, of which LangGraph makes no object."""

    user: str = "anon"
    more: list[int] = []


@attrs.define
class Made:
    """A class of attrs, of which LangGraph makes no object either."""

    user: str
    todo: "Todo | None" = None


class Raising:
    """One that raises as soon as pydantic looks at it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        raise ZeroDivisionError


class Plain(typing.TypedDict, total=False):
    """Before Python 3.12 pydantic takes no such type."""

    user: str


class Extended(TypedDict, total=False):
    user: str


@dataclass
class WithClient:
    user: str = "anon"
    client: Client = field(default_factory=Client)


@dataclass
class WithCallable:
    user: str = "anon"
    tell: Callable[[str], None] | None = None


@dataclass
class WithUnknown:
    user: str = "anon"
    later: "NotThere | None" = None  # noqa: F821 # pyright: ignore[reportUndefinedVariable] - the case


@dataclass
class WithInit:
    user: str = "anon"
    seed: InitVar[int] = 0


@dataclass
class Required:
    user: str


@dataclass
class Typed(Generic[Value]):
    user: str = "anon"
    value: Value | None = None


@pydantic_dataclass
class Checked:
    user: str = "anon"


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    user: str = "anon"
    client: Client | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    user: str = "anon"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    user: str = "anon"


class Aliased(BaseModel):
    user: str = Field(default="anon", validation_alias=AliasChoices("user", "userName"))


CONTEXTS: dict[str, Any] = {
    "plain": Plain,
    "extended": Extended,
    "with_client": WithClient,
    "with_callable": WithCallable,
    "with_unknown": WithUnknown,
    "with_init": WithInit,
    "required": Required,
    "typed": Typed[int],
    "optional": WithClient | None,
    "annotated": Annotated[WithClient, "of a kind"],
    "checked": Checked,
    "model": Model,
    "open": Open,
    "closed": Closed,
    "aliased": Aliased,
    "old": Old,
    "attrs": Made,
    "raising": dataclass(
        type("Raises", (), {"__annotations__": {"user": str, "odd": Raising}, "user": "anon", "odd": None})
    ),
    "keys": dict,
    "any_keys": dict[str, Any],
    "none": None,
}


class Todo(typing.TypedDict):
    """The task."""

    content: str
    done: typing.NotRequired[bool]


class Point(NamedTuple):
    x: int
    plain: Todo


@dataclass
class Tree:
    """A type that contains itself, beside what pydantic refuses."""

    name: str
    odd: Raising
    later: "NotThere"  # noqa: F821 # pyright: ignore[reportUndefinedVariable] - the case
    children: "list[Tree]"


class Odd(TypedDict, total=False):
    """A state of all kinds."""

    seen: Any
    count: int
    todos: list[Todo]
    by_name: dict[str, Todo]
    either: Todo | int | None
    point: Point
    several: tuple[Todo, ...]
    raising: Raising
    client: Client
    call: Callable[[], int]
    tree: Tree


class State(TypedDict, total=False):
    seen: Any


async def _look_on(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
    context = runtime.context
    if context is None or isinstance(context, dict):
        return {"seen": context}
    return {"seen": {"user": context.user, **(getattr(context, "model_extra", None) or {})}}


def _graph(context: Any, state: Any = State) -> Any:
    graph: Any = StateGraph(state, context_schema=context)
    graph.add_node("look", _look_on)
    graph.add_edge(START, "look")
    return graph


def _odd() -> Any:
    graph: Any = StateGraph(Odd)
    graph.add_node("look", _look_on, input_schema=State)
    graph.add_edge(START, "look")
    return graph


def _made(runtime: ServerRuntime[WithClient]) -> Any:
    return _graph(WithClient)


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server with a graph for each context."""
    graphs = {name: _graph(context) for name, context in CONTEXTS.items()} | {"made": _made, "odd": _odd()}
    async with serving(
        settings, {name: as_loaded_graph(name, graph, where="tests") for name, graph in graphs.items()}
    ) as url:
        yield url


async def test_context_of_any_schema_reaches_its_graph(client: LangGraphClient) -> None:
    """With a context, with keys of `configurable`, and without either; keys that the schema refuses are left out."""
    told: dict[str, list[Any]] = {}
    for name in [*CONTEXTS, "made"]:
        told[name] = []
        given: list[Any] = [
            {},
            {"context": {"user": "ada", "more": 1}},
            {"config": {"configurable": {"user": "ada", "more": 1}}},
        ]
        for more in given:
            answer: Any = await client.runs.wait(None, name, input={}, raise_error=False, **more)
            told[name].append(answer.get("seen", answer))

    ada, anon, whole = {"user": "ada"}, {"user": "anon"}, {"user": "ada", "more": 1}
    usual = [anon, ada, ada]
    wanted = dict.fromkeys([*CONTEXTS, "made"], usual)
    wanted |= {name: [None, ada, ada] for name in ("plain", "extended", "required")}
    wanted |= {name: [None, whole, whole] for name in ("none", "keys", "any_keys", "old", "attrs")}
    wanted |= {"open": [anon, whole, whole]}
    assert told == wanted


async def test_every_context_is_described(client: LangGraphClient) -> None:
    """A schema that pydantic refuses still tells of the field that it has."""
    for name in CONTEXTS.keys() - {"none", "keys", "any_keys"}:
        schemas: Any = await client.assistants.get_schemas(name)
        named = "userName" if name == "aliased" else "user"
        properties = schemas["context_schema"]["properties"]
        assert properties.get("user", properties.get(named))["type"] == "string", name
        assert schemas["config_schema"] == schemas["context_schema"]


async def test_one_odd_type_leaves_the_others_described(client: LangGraphClient) -> None:
    """Each field has what is known of it: the parts of types that pydantic refuses too."""
    schemas: Any = await client.assistants.get_schemas("odd")

    properties = schemas["state_schema"]["properties"]
    todo = {
        "title": "Todo",
        "type": "object",
        "properties": {"content": {"title": "Content", "type": "string"}, "done": {"title": "Done", "type": "boolean"}},
        "required": ["content"],
    }
    assert list(properties) == list(Odd.__annotations__)
    assert _bare(properties["count"]) == {"type": "integer"}
    assert _bare(properties["raising"]) == {}
    assert _bare(properties["client"]) == _bare(properties["call"]) == {}
    for described in (
        properties["todos"]["items"],
        properties["by_name"]["additionalProperties"],
        properties["either"]["anyOf"][0],
        properties["point"]["properties"]["plain"],
        properties["several"]["items"],
    ):
        assert _undescribed(described) == todo
    tree = properties["tree"]["properties"]
    assert [_bare(tree[name]) for name in ("name", "odd", "later")] == [{"type": "string"}, {}, {}]
    assert tree["children"]["items"]["properties"]["name"]["type"] == "string"
    for name in ("input_schema", "output_schema"):
        assert schemas[name]["properties"].keys() == properties.keys()


def _bare(described: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key not in {"title", "default"}}


def _undescribed(described: dict[str, Any]) -> dict[str, Any]:
    """Without the words of pydantic where Python is new enough for it to take the type."""
    return {key: value for key, value in described.items() if key not in {"description", "additionalProperties"}}
