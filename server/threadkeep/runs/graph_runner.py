"""Stream: one graph, run to its end, its chunks made events on the way.

Nothing here knows the database: a stateless run is this and no more.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from threadkeep.base import json
from threadkeep.context_schema import context_of
from threadkeep.graphs import Graph, is_local
from threadkeep.runs.event_log import LiveRun
from threadkeep.runs.graph_call import Job, client_configurable
from threadkeep.runs.stream_events import Parts, graph_modes
from threadkeep.tables.queue import OutputKeys

INTERRUPT = "__interrupt__"


@dataclass(slots=True)
class Streamed:
    """What a graph has said so far."""

    output_keys: OutputKeys = field(default_factory=list[str])
    """The channels that its output is; None: its whole state. Before it has begun it has no output."""
    values: Any = None
    """Its output after the last finished step; None before the first."""
    checkpointed: Any = None
    """Its state at the last checkpoint, if its output is only a part of it; None before the first."""
    interrupts: Any = None
    """What the graph stopped to ask, of all its tasks: each comes in values of its own."""

    @property
    def output(self) -> Any:
        """What the run answers with; an object without keys if none of the output was ever written."""
        return {} if self.values is None and isinstance(self.output_keys, list) else self.values

    @property
    def state(self) -> Any:
        """What the thread holds; None if it was not told."""
        return self.values if self.output_keys is None else self.checkpointed


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
    streamed.output_keys = output_keys(called.graph)
    async with aclosing(_chunks(called, live)) as chunks:
        async for chunk in chunks:
            namespace, mode, value = chunk if spec.stream_subgraphs else ((), *chunk)
            if live.first_at is None:
                live.first_at = time.monotonic()
            if mode == "values" and not namespace:
                _remember(streamed, value)
            elif mode == "checkpoints" and not namespace:
                streamed.checkpointed = value["values"]
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
    modes, keys = graph_modes(spec.stream_mode), output_keys(graph)
    arguments: dict[str, Any] = {"stream_mode": modes}
    if keys is not None:
        arguments["output_keys"] = keys
        if job.durable and "checkpoints" not in modes:
            modes.append("checkpoints")  # the thread's row holds the whole state, which `values` does not tell then
    if spec.interrupt_before:
        arguments["interrupt_before"] = spec.interrupt_before
    if spec.interrupt_after:
        arguments["interrupt_after"] = spec.interrupt_after
    if job.durable:
        arguments["durability"] = spec.durability
    context = context_of(graph.context_schema, client_configurable(job.spec.config), job.spec.context)
    if context is not None:
        arguments["context"] = context
    return arguments


def output_keys(graph: Graph) -> OutputKeys:
    """The channels that the graph's output schema names; None if these are the whole state.

    `ainvoke` gives these by itself, but `astream` gives the whole state unless it is told.
    """
    if not is_local(graph):
        return None
    output, state = graph.output_channels, graph.stream_channels_asis
    if isinstance(output, str) or isinstance(state, str):
        return None if output == state else cast("OutputKeys", output)
    return None if set(output) == set(state) else list(output)


def output_of(state: Any, keys: OutputKeys) -> Any:
    """What a graph whose output is `keys` gives of its state."""
    if keys is None or not isinstance(state, Mapping):
        return state
    channels = cast("Mapping[str, Any]", state)
    if isinstance(keys, str):
        return channels.get(keys)
    return {key: channels[key] for key in keys if key in channels}


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
