"""Schemas: what a graph looks like, and the JSON schemas of what it takes and gives.

A graph's types are its author's: one that has no JSON schema is described as far as it can be (json_schemas.py).
Making one takes some milliseconds of the event loop, so others get their turn between two.
"""

import copy
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio.lowlevel
from langgraph.channels.base import BaseChannel
from pydantic import ConfigDict, Field, TypeAdapter, create_model

from threadkeep.api.langgraph.json_schemas import JsonSchema, LenientJsonSchema, first, of_fields, of_type, title_of
from threadkeep.base.problems import NotFound
from threadkeep.graphs import Graph, Tenant, is_local
from threadkeep.tables.assistants import Assistant
from threadkeep.threads.history import Graphs

Schema = JsonSchema | None
"""A JSON schema; None where the types have none."""


@asynccontextmanager
async def open_graph(graphs: Graphs, tenant: Tenant, assistant: Assistant) -> AsyncGenerator[Graph]:
    """The assistant's graph, for reading, with the assistant's configuration. NotFound where it is not served."""
    loaded = graphs.get(assistant.graph_id)
    if loaded is None:
        raise graph_not_found(graphs, assistant.graph_id)
    ids = {"assistant_id": str(assistant.assistant_id), "graph_id": assistant.graph_id}
    configurable = {**assistant.context.load(), **ids}
    config: Any = {**assistant.config.load(), "configurable": configurable}
    async with loaded.open(config, durable=False, access="assistants.read", tenant=tenant) as graph:
        yield graph


def graph_not_found(graphs: Graphs, graph_id: str) -> NotFound:
    """The problem of a graph that this server does not have."""
    return NotFound(f"Graph {graph_id[:100]!r} not found. Expected one of: {sorted(graphs)}")


async def graph_drawing(
    graphs: Graphs, tenant: Tenant, assistant: Assistant, *, xray: bool | int
) -> dict[str, list[dict[str, Any]]]:
    """Nodes and edges; those of subgraphs too with `xray`, down to that depth where it is a number."""
    async with open_graph(graphs, tenant, assistant) as graph:
        drawn = (await graph.aget_graph(xray=xray)).to_json()
    for node in drawn["nodes"]:
        if isinstance(described := node.get("data"), dict):
            cast("dict[str, Any]", described).pop("id", None)  # the path of a class: nothing to a client
    return drawn


async def assistant_schemas(graphs: Graphs, tenant: Tenant, assistant: Assistant) -> dict[str, Any]:
    """`graph_id` and the five schemas of the assistant's graph, titled by it."""
    async with open_graph(graphs, tenant, assistant) as graph:
        named = copy.copy(graph)
        named.name = assistant.graph_id
        return {"graph_id": assistant.graph_id, **await graph_schemas(named)}


async def subgraph_schemas(
    graphs: Graphs, tenant: Tenant, assistant: Assistant, *, namespace: str | None, recurse: bool
) -> dict[str, dict[str, Schema]]:
    """Namespace -> the five schemas: of the graph's own subgraphs, of theirs too with `recurse`, or of one alone."""
    async with open_graph(graphs, tenant, assistant) as graph:
        if not is_local(graph):
            return {}
        loose: Any = graph
        deep = recurse or "|" in (namespace or "")
        found = loose.aget_subgraphs(namespace=namespace, recurse=deep)
        return {name: await graph_schemas(subgraph) async for name, subgraph in found}


async def graph_schemas(graph: Graph) -> dict[str, Schema]:
    """The five schemas; of a graph that runs elsewhere nothing is known."""
    if not is_local(graph):
        return dict.fromkeys(("input_schema", "output_schema", "state_schema", "config_schema", "context_schema"))
    context = _context(graph.context_schema)
    schemas: dict[str, Schema] = {}
    for name, make in (("input_schema", _input), ("output_schema", _output), ("state_schema", _state)):
        await anyio.lowlevel.checkpoint()
        schemas[name] = make(graph)
    return schemas | {"config_schema": context or {}, "context_schema": context}


def _context(schema: Any) -> Schema:
    if schema is None:
        return None
    return first(lambda: TypeAdapter(schema).json_schema(schema_generator=LenientJsonSchema), lambda: of_type(schema))


def _input(graph: Graph) -> Schema:
    return first(
        graph.get_input_jsonschema,
        lambda: _of_channels(graph, "Input", _declared(graph, "input_schema")),
        lambda: _of_single_channel(graph, graph.input_channels),
    )


def _output(graph: Graph) -> Schema:
    return first(
        graph.get_output_jsonschema,
        lambda: _of_channels(graph, "Output", _declared(graph, "output_schema")),
        lambda: _of_single_channel(graph, graph.output_channels),
    )


def _state(graph: Graph) -> Schema:
    return _of_channels(graph, "State", graph.stream_channels_list)


def _declared(graph: Graph, kind: str) -> Iterable[str] | None:
    """The channels of a StateGraph's input or output, whose type pydantic does not take.

    Such is every `typing.TypedDict` before Python 3.12.
    """
    builder: Any = getattr(graph, "builder", None)
    return None if builder is None else builder.schemas[getattr(builder, kind)]


def _of_single_channel(graph: Graph, name: Any) -> Schema:
    """Of a graph that is called with a value instead of an object."""
    channels = cast("Mapping[str, Any]", graph.channels)
    return of_type(channels[name].UpdateType) if isinstance(name, str) else None


def _of_channels(graph: Graph, suffix: str, names: Iterable[str] | None) -> Schema:
    """An object with the values of channels: at once, or else one by one."""
    if names is None:
        return None
    channels = cast("Mapping[str, Any]", graph.channels)
    fields = {name: channels[name].UpdateType for name in names if isinstance(channels.get(name), BaseChannel)}
    title = graph.get_name(suffix)
    return first(lambda: _at_once(title, fields), lambda: of_fields(title, fields))


def _at_once(title: str, fields: Mapping[str, Any]) -> Schema:
    """As pydantic has it. The fields have numbers, for pydantic refuses some names."""
    numbered: dict[str, Any] = {
        f"field_{number}": (annotation, Field(default=None, alias=name, title=title_of(name)))
        for number, (name, annotation) in enumerate(fields.items())
    }
    model = create_model(title, __config__=ConfigDict(arbitrary_types_allowed=True), **numbered)
    return model.model_json_schema(schema_generator=LenientJsonSchema)
