"""Graph runner: calls a graph with the arguments of its run, and turns its chunks into events.

This module does not use the database. A stateless run needs nothing else.
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
from threadkeep.runs.message_events import with_all_events, with_message_events
from threadkeep.runs.request import (
    Command,
    GraphRunOptions,
    SendCommand,
    StreamMode,
    SurfaceRunOptions,
    client_keys,
    without_reserved_keys,
)
from threadkeep.runs.stream_events import StreamEvents
from threadkeep.tables.queue import OutputKeys

INTERRUPT: Final = "__interrupt__"
MESSAGE_MODES: Final = frozenset({"messages", "messages-tuple"})
"""Modes that are made from LangGraph's mode `messages`."""
STEP_MODES: Final = MESSAGE_MODES | {"updates", "values"}
"""Messages, and modes whose chunks come at the end of a step."""


@dataclass(slots=True)
class GraphOutput:
    """The output of a graph so far."""

    output_keys: OutputKeys = field(default_factory=list[str])
    """The channels of its output. None: its whole state. Empty before the graph starts."""
    values: Any = None
    """Its output after the last finished step. None before the first."""
    checkpointed: Any = None
    """Its state at the last checkpoint, if its output is only a part of it. None before the first."""
    interrupts: Any = None
    """The interrupts of all tasks at which the graph stopped. Each arrives in a `values` chunk of its own."""

    @property
    def answer(self) -> Any:
        """The answer of the run. An empty object if the graph wrote no output."""
        return {} if self.values is None and isinstance(self.output_keys, list) else self.values

    @property
    def state(self) -> Any:
        """The state to store in the thread. None if the graph has not reported it."""
        return self.values if self.output_keys is None else self.checkpointed

    def add(self, values: Any) -> None:
        """Add a `values` chunk. Values of the step's other tasks may follow an interrupt, which stays open."""
        if not isinstance(values, dict) or INTERRUPT not in values:
            self.values = values
            return
        state = cast("dict[str, Any]", values)
        known_ids = {interrupt.id for interrupt in self.interrupts or ()}
        new_interrupts = [interrupt for interrupt in state[INTERRUPT] if interrupt.id not in known_ids]
        self.interrupts = [*(self.interrupts or ()), *new_interrupts]
        self.values = {key: value for key, value in state.items() if key != INTERRUPT}


async def run_graph(graph: Graph, config: RunnableConfig, execution: Execution, output: GraphOutput) -> None:
    """Run a graph to its end or to an interrupt. Raises the graph's exceptions."""
    output.output_keys = output_keys(graph)
    try:
        await _stream(graph, config, execution, output)
    except NotKept:
        if execution.is_durable:
            await _restore_last_checkpoint(graph, config, output)
        raise


async def _restore_last_checkpoint(graph: Graph, config: RunnableConfig, output: GraphOutput) -> None:
    """Replace the output with the last checkpoint's, because a streamed value could not be stored in a checkpoint."""
    # Without the other keys, because the run may have begun at an older checkpoint, which they would select.
    configurable = config.get("configurable", {})
    thread_keys = {key: configurable[key] for key in ("thread_id", WRITE_BEHIND_KEY)} | {"checkpoint_ns": ""}
    snapshot = await graph.aget_state({"configurable": thread_keys})
    output.values, output.checkpointed = output_of(snapshot.values, output.output_keys), snapshot.values


async def _stream(graph: Graph, config: RunnableConfig, execution: Execution, output: GraphOutput) -> None:
    spec, log = execution.spec, execution.log
    is_direct = _has_direct_events(spec) and is_local(graph)
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
            # Without a reader nothing is encoded, which is most of the cost of an event.
            if log.is_wanted and not is_direct:
                events = events or StreamEvents(spec.stream_mode)
                for name, data in events.of_chunk(namespace, mode, value):
                    log.append(name, await _written(data))


async def _written(data: object) -> bytes:
    """Encode an event. One that does not end is shortened, because a run must not fail for being watched."""
    try:
        return await json.dumps_in_pieces(data)
    except json.Unserializable:
        return json.dumps_shortened(data)


def _chunks(graph: Graph, config: RunnableConfig, execution: Execution) -> AsyncGenerator[Any, None]:
    """The mode and value of each chunk. With subgraphs, the namespace comes first."""
    runnable, arguments = cast("Any", graph), call_arguments(graph, execution)
    if "events" in execution.spec.stream_mode:
        return _langchain_events(graph, config, execution, arguments)
    spec = execution.spec
    if _has_direct_events(spec) and is_local(graph):
        arguments["stream_mode"] = [mode for mode in arguments["stream_mode"] if mode in {"values", "checkpoints"}]
        config = with_all_events(config, execution)
    elif _has_direct_messages(spec) and is_local(graph):
        arguments["stream_mode"].remove("messages")
        config = with_message_events(config, execution)
    return runnable.astream(graph_input(execution), config, subgraphs=execution.spec.stream_subgraphs, **arguments)


def _has_direct_events(spec: GraphRunOptions) -> bool:
    """Whether all events go to the log without LangGraph's queue."""
    return isinstance(spec, SurfaceRunOptions) and spec.direct_events


def _has_direct_messages(spec: GraphRunOptions) -> bool:
    """Whether messages can go to the log without LangGraph's queue. Subgraphs stream chunks in the middle of a step."""
    modes = frozenset(spec.stream_mode)
    return not spec.stream_subgraphs and modes <= STEP_MODES and not modes.isdisjoint(MESSAGE_MODES)


async def _langchain_events(
    graph: Graph, config: RunnableConfig, execution: Execution, arguments: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """Yield the graph's chunks, and log LangChain's events. The chunks are the root run's stream events."""
    runnable, log = cast("Any", graph), execution.log
    root, subgraphs = execution.ids["run_id"], execution.spec.stream_subgraphs
    # Always with subgraphs, because only then does a chunk contain its namespace.
    events = runnable.astream_events(graph_input(execution), config, version="v2", subgraphs=True, **arguments)
    async for event in events:
        if event["event"] == "on_chain_stream" and event["run_id"] == root:
            namespace, *chunk = event["data"].get("chunk")
            if subgraphs:
                yield namespace, *chunk
            elif not namespace:
                yield chunk
        elif log.is_wanted:
            log.append("events", json.dumps_shortened(event))


def graph_config(execution: Execution) -> RunnableConfig:
    """The graph's config: the client's config, overwritten by the server's keys."""
    client_config = execution.spec.config
    context = without_reserved_keys({"configurable": execution.spec.context})
    configurable: dict[str, Any] = {**without_reserved_keys(client_config), **context, **execution.ids}
    if execution.claimed is not None:
        configurable[WRITE_BEHIND_KEY] = execution.writes
        if execution.claimed.thread_created:
            configurable[NEW_THREAD_KEY] = NewThreadHint()
    # After the client's keys, so that no client can claim to be another user.
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
    # The client's keys last, because its `run_name` replaces the graph's name. None of them is a key of the server.
    return cast("RunnableConfig", config | client_keys(client_config))


def graph_input(execution: Execution) -> Any:
    """The input of the graph. A command takes precedence over an input, because agent-chat-ui sends both."""
    command = execution.spec.command
    return graph_command(command) if command and command.has_content else execution.spec.input


def call_arguments(graph: Graph, execution: Execution) -> dict[str, Any]:
    """The keyword arguments of `astream` that are set."""
    spec = execution.spec
    modes, keys = graph_modes(spec.stream_mode), output_keys(graph)
    arguments: dict[str, Any] = {"stream_mode": modes}
    if keys is not None:
        arguments["output_keys"] = keys
        if execution.is_durable and "checkpoints" not in modes:
            modes.append("checkpoints")  # the thread's row holds the whole state, but `values` has only the output keys
    if spec.interrupt_before:
        arguments["interrupt_before"] = spec.interrupt_before
    if spec.interrupt_after:
        arguments["interrupt_after"] = spec.interrupt_after
    if execution.is_durable:
        # Only with a checkpointer, because LangGraph warns of a durability without one.
        arguments["durability"] = spec.durability
    context = _context(graph.context_schema, spec)
    if context is not None:
        arguments["context"] = context
    return arguments


def _context(schema: Any, spec: GraphRunOptions) -> Any:
    """The graph's context in its schema's type: the client's `configurable`, overwritten by its `context`."""
    values = {**without_reserved_keys(spec.config), **(spec.context or {})}
    if schema is None:
        return values or None
    return context_of(schema, values, is_asked_for=bool(spec.context))


def output_keys(graph: Graph) -> OutputKeys:
    """The channels in the graph's output schema. None if they are the whole state.

    `ainvoke` returns only these, but `astream` yields the whole state unless it gets the keys.
    """
    if not is_local(graph):
        return None
    output, state = graph.output_channels, graph.stream_channels_asis
    if isinstance(output, str) or isinstance(state, str):
        return None if output == state else cast("OutputKeys", output)
    return None if set(output) == set(state) else list(output)


def output_of(state: Any, keys: OutputKeys) -> Any:
    """The part of the state that a graph with the output `keys` returns."""
    if keys is None or not isinstance(state, Mapping):
        return state
    channels = cast("Mapping[str, Any]", state)
    if isinstance(keys, str):
        return channels.get(keys)
    return {key: channels[key] for key in keys if key in channels}


def graph_modes(modes: Iterable[StreamMode]) -> list[GraphMode]:
    """The stream modes for the graph. They always contain `values`, because the run's answer is made from them."""
    # A dict, because it has no duplicates and keeps the order, which a set does not.
    stream_modes: dict[GraphMode, None] = {"values": None}
    for mode in modes:
        if mode in MESSAGE_MODES:
            stream_modes["messages"] = None
        elif mode != "events":
            stream_modes[cast("GraphMode", mode)] = None
    return list(stream_modes)


def graph_command(command: Command) -> GraphCommand[Any]:
    """Convert the protocol's command into LangGraph's."""
    return GraphCommand(resume=command.resume, update=command.update, goto=_goto(command.goto))


def _goto(goto: str | SendCommand | list[str | SendCommand] | None) -> Any:
    """Convert a node's name, a Send, or a list of them."""
    if isinstance(goto, SendCommand):
        return Send(goto.node, goto.input)
    if isinstance(goto, list):
        return [_goto(target) for target in goto]
    return () if goto is None else goto


def has_static_interrupts(graph: Graph, execution: Execution) -> bool:
    """Whether the graph may stop before or after a node without reporting it in its values."""
    spec = execution.spec
    return bool(
        spec.interrupt_before or spec.interrupt_after or graph.interrupt_before_nodes or graph.interrupt_after_nodes
    )


def add_key(values: Any, key: str, value: object) -> dict[str, object]:
    """Return `values` with one more key. Values that are not an object are put under the key `value`."""
    if isinstance(values, Mapping):
        return {**cast("Mapping[str, object]", values), key: value}
    return {key: value} if values is None else {"value": values, key: value}
