"""Graph schemas: the nodes and edges of a graph, and the JSON schemas of its input, output, state and context.

A graph's author chooses its types. A type without a JSON schema is described as far as possible (json_schemas.py).
Making a schema takes some milliseconds of the event loop, so the module yields to other tasks between two schemas.
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
"""A JSON schema, or None if the types have none."""


@asynccontextmanager
async def open_graph(graphs: Graphs, tenant: Tenant, assistant: Assistant) -> AsyncGenerator[Graph]:
    """Open the assistant's graph for reading, with its configuration. Raise NotFound if the graph is not served."""
    loaded = graphs.get(assistant.graph_id)
    if loaded is None:
        raise graph_not_found(graphs, assistant.graph_id)
    ids = {"assistant_id": str(assistant.assistant_id), "graph_id": assistant.graph_id}
    configurable = {**assistant.context.load(), **ids}
    config: Any = {**assistant.config.load(), "configurable": configurable}
    async with loaded.open(config, durable=False, access="assistants.read", tenant=tenant) as graph:
        yield graph


def graph_not_found(graphs: Graphs, graph_id: str) -> NotFound:
    """Return the problem for a graph that this server does not have."""
    return NotFound(f"Graph {graph_id[:100]!r} not found. Expected one of: {sorted(graphs)}")


async def graph_drawing(
    graphs: Graphs, tenant: Tenant, assistant: Assistant, *, xray: bool | int
) -> dict[str, list[dict[str, Any]]]:
    """Return nodes and edges. `xray` includes subgraphs, down to that depth if it is a number."""
    async with open_graph(graphs, tenant, assistant) as graph:
        drawing = (await graph.aget_graph(xray=xray)).to_json()
    for node in drawing["nodes"]:
        if isinstance(described := node.get("data"), dict):
            # The import path of a class, which is of no use to a client.
            cast("dict[str, Any]", described).pop("id", None)
    return drawing


async def assistant_schemas(graphs: Graphs, tenant: Tenant, assistant: Assistant) -> dict[str, Any]:
    """Return `graph_id` and the five schemas of the assistant's graph, with the graph id in their titles."""
    async with open_graph(graphs, tenant, assistant) as graph:
        # A copy, because other requests use the same graph under its own name.
        titled = copy.copy(graph)
        titled.name = assistant.graph_id
        return {"graph_id": assistant.graph_id, **await graph_schemas(titled)}


async def subgraph_schemas(
    graphs: Graphs, tenant: Tenant, assistant: Assistant, *, namespace: str | None, recurse: bool
) -> dict[str, dict[str, Schema]]:
    """Return the five schemas of subgraphs by namespace: of direct ones, with `recurse` of all, or of one namespace."""
    async with open_graph(graphs, tenant, assistant) as graph:
        if not is_local(graph):
            return {}
        loose: Any = graph
        # LangGraph finds a nested namespace only if it recurses.
        deep = recurse or "|" in (namespace or "")
        subgraphs = loose.aget_subgraphs(namespace=namespace, recurse=deep)
        return {name: await graph_schemas(subgraph) async for name, subgraph in subgraphs}


async def graph_schemas(graph: Graph) -> dict[str, Schema]:
    """Return the five schemas of a graph. They are all None for a graph that runs on another server."""
    if not is_local(graph):
        return dict.fromkeys(("input_schema", "output_schema", "state_schema", "config_schema", "context_schema"))
    context = _context(graph.context_schema)
    schemas: dict[str, Schema] = {}
    for name, make in (("input_schema", _input), ("output_schema", _output), ("state_schema", _state)):
        # pydantic makes a schema without a pause, so other requests get their turn here.
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
    """Return the channels of a StateGraph's input or output, for types that pydantic refuses.

    It refuses every `typing.TypedDict` before Python 3.12.
    """
    builder: Any = getattr(graph, "builder", None)
    return None if builder is None else builder.schemas[getattr(builder, kind)]


def _of_single_channel(graph: Graph, name: Any) -> Schema:
    """Return the schema of a graph whose input or output is a single value instead of an object."""
    channels = cast("Mapping[str, Any]", graph.channels)
    return of_type(channels[name].UpdateType) if isinstance(name, str) else None


def _of_channels(graph: Graph, suffix: str, names: Iterable[str] | None) -> Schema:
    """Return the schema of an object with one field per channel, by pydantic at once or else field by field."""
    if names is None:
        return None
    channels = cast("Mapping[str, Any]", graph.channels)
    # Managed values stand among the channels, but they are not in the state and have no type.
    fields = {name: channels[name].UpdateType for name in names if isinstance(channels.get(name), BaseChannel)}
    title = graph.get_name(suffix)
    return first(lambda: _at_once(title, fields), lambda: of_fields(title, fields))


def _at_once(title: str, fields: Mapping[str, Any]) -> Schema:
    """Return pydantic's schema of all fields. The model's fields are numbered because pydantic refuses some names."""
    numbered: dict[str, Any] = {
        f"field_{number}": (annotation, Field(default=None, alias=name, title=title_of(name)))
        for number, (name, annotation) in enumerate(fields.items())
    }
    model = create_model(title, __config__=ConfigDict(arbitrary_types_allowed=True), **numbered)
    return model.model_json_schema(schema_generator=LenientJsonSchema)
