"""Schemas: what a graph looks like, and the JSON schemas of what it takes and gives.

A graph's types are its author's: one that has no JSON schema is null here, and no reason to refuse the others.
Making one takes some milliseconds of the event loop, so others get their turn between two.
"""

import copy
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio.lowlevel
from langgraph.channels.base import BaseChannel
from pydantic import ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from threadkeep.base.problems import NotFound
from threadkeep.graphs import Graph, Tenant, is_local
from threadkeep.runs.engine import Engine
from threadkeep.tables.assistants import Assistant

log = logging.getLogger(__name__)

Schema = dict[str, Any] | None
"""A JSON schema; None where the types have none."""

NO_SCHEMA = (PydanticUserError, NameError, TypeError, ValueError, AttributeError, KeyError, NotImplementedError)
"""What pydantic and LangGraph raise at a type that they can't describe."""


class Lenient(GenerateJsonSchema):
    """Anything goes where a type has no JSON schema."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """The schema of anything."""
        del schema, error_info
        return {}


@asynccontextmanager
async def opened(engine: Engine, tenant: Tenant, assistant: Assistant) -> AsyncGenerator[Graph]:
    """The assistant's graph, for reading, with the assistant's configuration. NotFound where it is not served."""
    loaded = engine.graphs.get(assistant.graph_id)
    if loaded is None:
        raise unknown_graph(engine, assistant.graph_id)
    ids = {"assistant_id": str(assistant.assistant_id), "graph_id": assistant.graph_id}
    configurable = {**assistant.context.load(), **ids}
    config: Any = {**assistant.config.load(), "configurable": configurable}
    async with loaded.open(config, durable=False, access="assistants.read", tenant=tenant) as graph:
        yield graph


def unknown_graph(engine: Engine, graph_id: str) -> NotFound:
    """The problem of a graph that this server does not have."""
    return NotFound(f"Graph {graph_id[:100]!r} not found. Expected one of: {sorted(engine.graphs)}")


async def drawing(
    engine: Engine, tenant: Tenant, assistant: Assistant, *, xray: bool | int
) -> dict[str, list[dict[str, Any]]]:
    """Nodes and edges; those of subgraphs too with `xray`, down to that depth where it is a number."""
    async with opened(engine, tenant, assistant) as graph:
        drawn = (await graph.aget_graph(xray=xray)).to_json()
    for node in drawn["nodes"]:
        if isinstance(described := node.get("data"), dict):
            cast("dict[str, Any]", described).pop("id", None)  # the path of a class: nothing to a client
    return drawn


async def of_assistant(engine: Engine, tenant: Tenant, assistant: Assistant) -> dict[str, Any]:
    """`graph_id` and the five schemas of the assistant's graph, titled by it."""
    async with opened(engine, tenant, assistant) as graph:
        named = copy.copy(graph)
        named.name = assistant.graph_id
        return {"graph_id": assistant.graph_id, **await of_graph(named)}


async def of_subgraphs(
    engine: Engine, tenant: Tenant, assistant: Assistant, *, namespace: str | None, recurse: bool
) -> dict[str, dict[str, Schema]]:
    """Namespace -> the five schemas: of the graph's own subgraphs, of theirs too with `recurse`, or of one alone."""
    async with opened(engine, tenant, assistant) as graph:
        if not is_local(graph):
            return {}
        loose: Any = graph
        deep = recurse or "|" in (namespace or "")
        found = loose.aget_subgraphs(namespace=namespace, recurse=deep)
        return {name: await of_graph(subgraph) async for name, subgraph in found}


async def of_graph(graph: Graph) -> dict[str, Schema]:
    """The five schemas; of a graph that runs elsewhere nothing is known."""
    if not is_local(graph):
        return dict.fromkeys(("input_schema", "output_schema", "state_schema", "config_schema", "context_schema"))
    context = _attempt(graph.get_context_jsonschema)
    schemas: dict[str, Schema] = {}
    for name, make in (("input_schema", _input), ("output_schema", _output), ("state_schema", _state)):
        await anyio.lowlevel.checkpoint()
        schemas[name] = make(graph)
    return schemas | {"config_schema": context or {}, "context_schema": context}


def _input(graph: Graph) -> Schema:
    return _attempt(graph.get_input_jsonschema) or _of_declared(graph, "input_schema", "Input")


def _output(graph: Graph) -> Schema:
    return _attempt(graph.get_output_jsonschema) or _of_declared(graph, "output_schema", "Output")


def _of_declared(graph: Graph, kind: str, suffix: str) -> Schema:
    """By the channels of a StateGraph's input or output, whose type pydantic does not take.

    Such is every `typing.TypedDict` before Python 3.12.
    """
    builder: Any = getattr(graph, "builder", None)
    if builder is None:
        return None
    return _attempt(lambda: _of_channels(graph, suffix, builder.schemas[getattr(builder, kind)]))


def _state(graph: Graph) -> Schema:
    return _attempt(lambda: _of_channels(graph, "State", graph.stream_channels_list))


def _of_channels(graph: Graph, suffix: str, names: Iterable[str]) -> Schema:
    """An object with the values of channels. Its fields have numbers, for pydantic refuses some names."""
    channels = cast("Mapping[str, Any]", graph.channels)
    fields: dict[str, Any] = {
        f"field_{number}": (channels[name].UpdateType, Field(default=None, alias=name, title=_title(name)))
        for number, name in enumerate(names)
        if isinstance(channels.get(name), BaseChannel)
    }
    model = create_model(graph.get_name(suffix), __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    return model.model_json_schema(schema_generator=Lenient)


def _title(name: str) -> str:
    return name.replace("_", " ").strip().title()


def _attempt(make: Callable[[], Schema]) -> Schema:
    try:
        return make()
    except NO_SCHEMA:
        log.debug("a graph's type has no JSON schema", exc_info=True)
        return None
