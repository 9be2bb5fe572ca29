"""Graph runner: what a graph is called with, and its chunks made events on the way.

Nothing here knows the database: a stateless run is this and no more.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command as GraphCommand
from langgraph.types import Send
from langgraph.types import StreamMode as GraphMode

from threadkeep.auth.principal import NOBODY, auth_configurable
from threadkeep.base import json
from threadkeep.context_schema import context_of
from threadkeep.graphs import Graph, is_local
from threadkeep.persistence.checkpointer import NEW_THREAD_KEY, WRITE_BEHIND_KEY, NewThreadHint
from threadkeep.persistence.encoding import NotKept
from threadkeep.runs.execution import Execution
from threadkeep.runs.request import (
    Command,
    GraphRunOptions,
    SendCommand,
    StreamMode,
    client_keys,
    without_reserved_keys,
)
from threadkeep.runs.stream_events import StreamEvents
from threadkeep.tables.queue import OutputKeys

INTERRUPT: Final = "__interrupt__"


@dataclass(slots=True)
class GraphOutput:
    """What a graph has said so far."""

    output_keys: OutputKeys = field(default_factory=list[str])
    """The channels that its output is. None: its whole state. Before it has begun it has no output."""
    values: Any = None
    """Its output after the last finished step. None before the first."""
    checkpointed: Any = None
    """Its state at the last checkpoint, if its output is only a part of it. None before the first."""
    interrupts: Any = None
    """The interrupts that the graph stopped at, of all its tasks: each comes in values of its own."""

    @property
    def answer(self) -> Any:
        """What the run answers with. An object without keys if none of the output was ever written."""
        return {} if self.values is None and isinstance(self.output_keys, list) else self.values

    @property
    def state(self) -> Any:
        """What the thread holds. None if it was not told."""
        return self.values if self.output_keys is None else self.checkpointed

    def add(self, values: Any) -> None:
        """Values may follow an interrupt: those of the step's other tasks, while its question stays open."""
        if not isinstance(values, dict) or INTERRUPT not in values:
            self.values = values
            return
        state = cast("dict[str, Any]", values)
        known = {interrupt.id for interrupt in self.interrupts or ()}
        fresh = [interrupt for interrupt in state[INTERRUPT] if interrupt.id not in known]
        self.interrupts = [*(self.interrupts or ()), *fresh]
        self.values = {key: value for key, value in state.items() if key != INTERRUPT}


async def run_graph(graph: Graph, config: RunnableConfig, execution: Execution, output: GraphOutput) -> None:
    """Run a graph to its end, to an interrupt, or to an exception, which goes on to the caller."""
    output.output_keys = output_keys(graph)
    try:
        await _stream(graph, config, execution, output)
    except NotKept:
        if execution.is_durable:
            await _forget_what_is_not_kept(graph, config, output)
        raise


async def _forget_what_is_not_kept(graph: Graph, config: RunnableConfig, output: GraphOutput) -> None:
    """The graph has streamed a state with a value that is in no checkpoint: go back to the state of the last one."""
    given = config.get("configurable", {})
    named = {key: given[key] for key in ("thread_id", WRITE_BEHIND_KEY)} | {"checkpoint_ns": ""}
    snapshot = await graph.aget_state({"configurable": named})
    output.values, output.checkpointed = output_of(snapshot.values, output.output_keys), snapshot.values


async def _stream(graph: Graph, config: RunnableConfig, execution: Execution, output: GraphOutput) -> None:
    spec, log = execution.spec, execution.log
    events: StreamEvents | None = None
    async with aclosing(_chunks(graph, config, execution)) as chunks:
        async for chunk in chunks:
            namespace, mode, value = chunk if spec.stream_subgraphs else ((), *chunk)
            if execution.first_chunk_at is None:
                execution.first_chunk_at = time.monotonic()
            if mode == "values" and not namespace:
                output.add(value)
            elif mode == "checkpoints" and not namespace:
                output.checkpointed = value["values"]
            if log.is_wanted:
                events = events or StreamEvents(spec.stream_mode)
                for name, data in events.of_chunk(namespace, mode, value):
                    log.append(name, json.dumps(data))


def _chunks(graph: Graph, config: RunnableConfig, execution: Execution) -> AsyncGenerator[Any, None]:
    """Mode and value of each chunk, and before them its namespace if those of subgraphs are wanted too."""
    runnable, arguments = cast("Any", graph), call_arguments(graph, execution)
    if "events" in execution.spec.stream_mode:
        return _langchain_events(graph, config, execution, arguments)
    return runnable.astream(graph_input(execution), config, subgraphs=execution.spec.stream_subgraphs, **arguments)


async def _langchain_events(
    graph: Graph, config: RunnableConfig, execution: Execution, arguments: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """LangChain's own events. The graph's chunks are events of the root run among them."""
    runnable, log = cast("Any", graph), execution.log
    root, subgraphs = execution.ids["run_id"], execution.spec.stream_subgraphs
    events = runnable.astream_events(graph_input(execution), config, version="v2", subgraphs=True, **arguments)
    async for event in events:
        if event["event"] == "on_chain_stream" and event["run_id"] == root:
            namespace, *chunk = event["data"].get("chunk")
            if subgraphs:
                yield namespace, *chunk
            elif not namespace:
                yield chunk
        elif log.is_wanted:
            log.append("events", json.dumps(event))


def graph_config(execution: Execution) -> RunnableConfig:
    """The graph's config: the client's, and the server's keys over it."""
    sent = execution.spec.config
    mirrored = without_reserved_keys({"configurable": execution.spec.context})
    configurable: dict[str, Any] = {**without_reserved_keys(sent), **mirrored, **execution.ids}
    if execution.claimed is not None:
        configurable[WRITE_BEHIND_KEY] = execution.writes
        if execution.claimed.thread_created:
            configurable[NEW_THREAD_KEY] = NewThreadHint()
    configurable |= NOBODY if execution.user is None else auth_configurable(execution.user)
    if start := execution.spec.start_checkpoint:
        configurable["checkpoint_id"] = start.checkpoint_id
        configurable["checkpoint_ns"] = start.checkpoint_ns
    config: dict[str, Any] = {
        "configurable": configurable,
        "metadata": {**execution.metadata, **execution.ids, "run_attempt": execution.attempt},
        "run_id": execution.run_id,
        "run_name": execution.graph_id,
    }
    return cast("RunnableConfig", config | client_keys(sent))


def graph_input(execution: Execution) -> Any:
    """What the graph is called with. A command goes before an input, as agent-chat-ui sends both."""
    command = execution.spec.command
    return graph_command(command) if command and command.is_empty else execution.spec.input


def call_arguments(graph: Graph, execution: Execution) -> dict[str, Any]:
    """The keyword arguments of `astream`, only those that say something."""
    spec = execution.spec
    modes, keys = graph_modes(spec.stream_mode), output_keys(graph)
    arguments: dict[str, Any] = {"stream_mode": modes}
    if keys is not None:
        arguments["output_keys"] = keys
        if execution.is_durable and "checkpoints" not in modes:
            modes.append("checkpoints")  # the thread's row holds the whole state, which `values` does not tell then
    if spec.interrupt_before:
        arguments["interrupt_before"] = spec.interrupt_before
    if spec.interrupt_after:
        arguments["interrupt_after"] = spec.interrupt_after
    if execution.is_durable:
        arguments["durability"] = spec.durability
    context = _context(graph.context_schema, spec)
    if context is not None:
        arguments["context"] = context
    return arguments


def _context(schema: Any, spec: GraphRunOptions) -> Any:
    """The context to call a graph with: the client's `context` over its `configurable`, as the schema takes it."""
    sent = {**without_reserved_keys(spec.config), **(spec.context or {})}
    if schema is None:
        return sent or None
    return context_of(schema, sent, is_asked_for=bool(spec.context))


def output_keys(graph: Graph) -> OutputKeys:
    """The channels that the graph's output schema names. None if these are the whole state.

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


def graph_modes(modes: Iterable[StreamMode]) -> list[GraphMode]:
    """The stream modes to ask the graph for. Always `values`, because the run's answer is made of them."""
    wanted: dict[GraphMode, None] = {"values": None}
    for mode in modes:
        if mode in {"messages", "messages-tuple"}:
            wanted["messages"] = None
        elif mode != "events":
            wanted[cast("GraphMode", mode)] = None
    return list(wanted)


def graph_command(command: Command) -> GraphCommand[Any]:
    """LangGraph's command of the protocol's."""
    return GraphCommand(resume=command.resume, update=command.update, goto=_goto(command.goto))


def _goto(goto: str | SendCommand | list[str | SendCommand] | None) -> Any:
    """A node's name, a Send, or several."""
    if isinstance(goto, SendCommand):
        return Send(goto.node, goto.input)
    if isinstance(goto, list):
        return [_goto(each) for each in goto]
    return () if goto is None else goto


def has_static_interrupts(graph: Graph, execution: Execution) -> bool:
    """The graph may stop before or after a node without saying so in its values."""
    spec = execution.spec
    return bool(
        spec.interrupt_before or spec.interrupt_after or graph.interrupt_before_nodes or graph.interrupt_after_nodes
    )


def add_key(values: Any, key: str, value: object) -> dict[str, object]:
    """`values` with one key more. If the graph's output is not an object, it stands under `value`."""
    if isinstance(values, Mapping):
        return {**cast("Mapping[str, object]", values), key: value}
    return {key: value} if values is None else {"value": values, key: value}
