"""Stream: one graph, run to its end, its chunks made events on the way.

Nothing here knows the database: a stateless run is this and no more.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from langgraph.pregel import Pregel
from langgraph.types import StreamMode as GraphMode

from threadkeep import wire
from threadkeep.engine.job import Job, client_configurable
from threadkeep.engine.live import LiveRun
from threadkeep.engine.parts import Namespace, Parts, graph_modes

Chunk = tuple[Namespace, GraphMode, Any]
INTERRUPT = "__interrupt__"


@dataclass(slots=True)
class Streamed:
    """What a graph has said so far."""

    values: Any = None
    """The state after the last finished step; None before the first."""
    interrupts: Any = None
    """What the graph stopped to ask, of all its tasks: each comes in values of its own."""


async def stream(graph: Pregel[Any, Any, Any, Any], job: Job, live: LiveRun, streamed: Streamed) -> None:
    """Run `graph` to its end, an interrupt, or an exception, which goes on to the caller."""
    parts = Parts(job.spec.stream_mode)
    async with aclosing(_chunks(graph, job, live)) as chunks:
        async for namespace, mode, chunk in chunks:
            if live.first_at is None:
                live.first_at = time.monotonic()
            if mode == "values" and not namespace:
                _remember(streamed, chunk)
            if live.watched:
                for name, data in parts.of(namespace, mode, chunk):
                    live.append(name, wire.dumps(data))


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


async def _chunks(graph: Pregel[Any, Any, Any, Any], job: Job, live: LiveRun) -> AsyncGenerator[Chunk, None]:
    arguments = call_arguments(graph, job)
    if "events" in job.spec.stream_mode:
        async for chunk in _events(graph, job, live, arguments):
            yield chunk
        return
    subgraphs = job.spec.stream_subgraphs
    runnable: Any = graph
    async for item in runnable.astream(job.graph_input(), job.config(), subgraphs=subgraphs, **arguments):
        yield cast("Chunk", item) if subgraphs else cast("Chunk", ((), *item))


async def _events(
    graph: Pregel[Any, Any, Any, Any], job: Job, live: LiveRun, arguments: dict[str, Any]
) -> AsyncIterator[Chunk]:
    """LangChain's own events, and the graph's chunks, which are events of the root run among them."""
    root = str(job.run_id)
    runnable: Any = graph
    events = runnable.astream_events(job.graph_input(), job.config(), version="v2", subgraphs=True, **arguments)
    async for event in events:
        if event["event"] == "on_chain_stream" and event["run_id"] == root:
            namespace, mode, chunk = cast("Chunk", event["data"].get("chunk"))
            if not namespace or job.spec.stream_subgraphs:
                yield namespace, mode, chunk
        elif live.watched:
            live.append("events", wire.dumps(event))


def call_arguments(graph: Pregel[Any, Any, Any, Any], job: Job) -> dict[str, Any]:
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


def graph_context(graph: Pregel[Any, Any, Any, Any], job: Job) -> Any:
    """What the graph's context schema knows of the run's `configurable` and context; a graph without one gets all.

    A schema is filled in even where nothing is given, so that its defaults are there.
    """
    given = {**client_configurable(job.spec.config), **(job.spec.context or {})}
    if graph.context_schema is None:
        return given or None
    known = (graph.get_context_jsonschema() or {}).get("properties", given)
    return {key: value for key, value in given.items() if key in known}


def has_static_interrupts(graph: Pregel[Any, Any, Any, Any], job: Job) -> bool:
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
