"""Stream: one graph, run to its end, its chunks made events on the way.

Nothing here knows the database: a stateless run is this and no more.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from threadkeep.base import json
from threadkeep.graphs import Graph
from threadkeep.runs.event_log import LiveRun
from threadkeep.runs.graph_call import Job, client_configurable
from threadkeep.runs.stream_events import Parts, graph_modes

INTERRUPT = "__interrupt__"


@dataclass(slots=True)
class Streamed:
    """What a graph has said so far."""

    values: Any = None
    """The state after the last finished step; None before the first."""
    interrupts: Any = None
    """What the graph stopped to ask, of all its tasks: each comes in values of its own."""


@dataclass(frozen=True, slots=True)
class Called:
    """A graph, and what it is called with."""

    graph: Graph
    job: Job
    config: RunnableConfig


async def stream(called: Called, live: LiveRun, streamed: Streamed) -> None:
    """Run a graph to its end, an interrupt, or an exception, which goes on to the caller."""
    spec = called.job.spec
    parts = Parts(spec.stream_mode)
    async with aclosing(_chunks(called, live)) as chunks:
        async for chunk in chunks:
            namespace, mode, value = chunk if spec.stream_subgraphs else ((), *chunk)
            if live.first_at is None:
                live.first_at = time.monotonic()
            if mode == "values" and not namespace:
                _remember(streamed, value)
            if live.watched:
                for name, data in parts.of(namespace, mode, value):
                    live.append(name, json.dumps(data))


def _remember(streamed: Streamed, values: Any) -> None:
    """Values may follow an interrupt: those of the step's other tasks, while its question stays open."""
    if isinstance(values, dict) and INTERRUPT in values:
        found = cast("dict[str, Any]", values)
        known = {interrupt.id for interrupt in streamed.interrupts or ()}
        fresh = [interrupt for interrupt in found[INTERRUPT] if interrupt.id not in known]
        streamed.interrupts = [*(streamed.interrupts or ()), *fresh]
        streamed.values = {key: value for key, value in found.items() if key != INTERRUPT}
        return
    streamed.values = values


def _chunks(called: Called, live: LiveRun) -> AsyncGenerator[Any, None]:
    """Mode and value of each chunk; before them its namespace, where those of subgraphs are asked for too."""
    job, runnable = called.job, cast("Any", called.graph)
    arguments = call_arguments(called.graph, job)
    if "events" in job.spec.stream_mode:
        return _events(called, live, arguments)
    return runnable.astream(job.graph_input(), called.config, subgraphs=job.spec.stream_subgraphs, **arguments)


async def _events(called: Called, live: LiveRun, arguments: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """LangChain's own events, and the graph's chunks, which are events of the root run among them."""
    job, runnable = called.job, cast("Any", called.graph)
    root, subgraphs = job.about["run_id"], job.spec.stream_subgraphs
    events = runnable.astream_events(job.graph_input(), called.config, version="v2", subgraphs=True, **arguments)
    async for event in events:
        if event["event"] == "on_chain_stream" and event["run_id"] == root:
            namespace, *chunk = event["data"].get("chunk")
            if subgraphs:
                yield namespace, *chunk
            elif not namespace:
                yield chunk
        elif live.watched:
            live.append("events", json.dumps(event))


def call_arguments(graph: Graph, job: Job) -> dict[str, Any]:
    """The keyword arguments of `astream`, only those that say something."""
    spec = job.spec
    arguments: dict[str, Any] = {"stream_mode": graph_modes(spec.stream_mode)}
    if spec.interrupt_before:
        arguments["interrupt_before"] = spec.interrupt_before
    if spec.interrupt_after:
        arguments["interrupt_after"] = spec.interrupt_after
    if job.durable:
        arguments["durability"] = spec.durability
    if (context := graph_context(graph, job)) is not None:
        arguments["context"] = context
    return arguments


def graph_context(graph: Graph, job: Job) -> Any:
    """What the graph's context schema knows of the run's `configurable` and context; a graph without one gets all.

    A schema is filled in even where nothing is given, so that its defaults are there.
    """
    given = {**client_configurable(job.spec.config), **(job.spec.context or {})}
    if graph.context_schema is None:
        return given or None
    known = (graph.get_context_jsonschema() or {}).get("properties", given)
    return {key: value for key, value in given.items() if key in known}


def has_static_interrupts(graph: Graph, job: Job) -> bool:
    """The graph may stop before or after a node without saying so in its values."""
    spec = job.spec
    return bool(
        spec.interrupt_before or spec.interrupt_after or graph.interrupt_before_nodes or graph.interrupt_after_nodes
    )


def with_key(values: Any, key: str, value: object) -> dict[str, object]:
    """`values` with one key more; a graph whose output is no object has it under `value`."""
    if isinstance(values, Mapping):
        return {**cast("Mapping[str, object]", values), key: value}
    return {key: value} if values is None else {"value": values, key: value}
