"""Message events: adds the messages of a graph to the event log of its run while they are streamed.

LangGraph's stream mode `messages` passes each token through a queue, and wakes two tasks for it. That costs more than the
token's event itself. Its callback handler works as well without the queue. The order of events stays the same if the other
modes of the stream have an event only for each step.

A surface may want all events without the queue (`SurfaceRunOptions`). Then LangGraph gets a stream and a writer, as a
subgraph gets them from its parent. It calls both at once, so the order of all events stays the same.
"""

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_RUNTIME, CONFIG_KEY_STREAM  # keys of a subgraph's config
from langgraph.pregel._messages import StreamMessagesHandler
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import Runtime

from threadkeep.base import json
from threadkeep.runs.execution import Execution
from threadkeep.runs.stream_events import NODES, NamedEvent, StreamEvents, event_name


def with_message_events(config: RunnableConfig, execution: Execution) -> RunnableConfig:
    """The config with a handler that adds messages to the run's log. Call it in the event loop of the graph."""
    return {**config, "callbacks": [MessageEvents(execution)]}


def with_all_events(config: RunnableConfig, execution: Execution) -> RunnableConfig:
    """The config with which a graph adds all its events to the run's log. Call it in the event loop of the graph."""
    events = AllEvents(execution)
    parent = {
        CONFIG_KEY_STREAM: StreamProtocol(events.take, {"values", "tasks"}),
        CONFIG_KEY_RUNTIME: Runtime(stream_writer=events.write),
    }
    configurable = {**config.get("configurable", {}), **parent}
    return {**config, "configurable": configurable, "callbacks": [events]}


class MessageEvents(StreamMessagesHandler):
    """LangGraph's handler for the mode `messages`, which adds events to a run's log."""

    def __init__(self, execution: Execution) -> None:
        # A graph drops its caller's handlers that stream only one graph. This handler belongs to the graph, but is in the config.
        super().__init__(self._take, subgraphs=True)
        self._execution = execution
        self._events = StreamEvents(execution.spec.stream_mode)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def on_chain_start(self, *args: Any, **options: Any) -> Any:
        """Note the messages that a node gets. The first call is the graph's own start: from then on, leave out subgraphs."""
        self.subgraphs = False
        return super().on_chain_start(*args, **options)

    def _take(self, chunk: Any) -> None:
        """Add the events of a chunk. A node that is no coroutine calls this in a thread."""
        if threading.get_ident() == self._thread:
            self._add(chunk)
        else:
            self._loop.call_soon_threadsafe(self._add, chunk)

    def _add(self, chunk: Any) -> None:
        namespace, mode, value = chunk
        execution = self._execution
        if execution.first_chunk_at is None:
            execution.first_chunk_at = time.monotonic()
        if not execution.log.is_wanted or execution.log.state != "open":  # a task that was abandoned may still speak
            return
        for name, data in self._named(namespace, mode, value):
            execution.log.append(name, json.dumps_shortened(data))

    def _named(self, namespace: tuple[str, ...], mode: Any, value: Any) -> Iterable[NamedEvent]:
        return self._events.of_chunk(namespace, mode, value)


class AllEvents(MessageEvents):
    """LangGraph's handler for the messages of a graph and its subgraphs, beside its stream of all other events."""

    def on_chain_start(self, *args: Any, **options: Any) -> Any:
        """Note the messages that a node gets, of subgraphs too."""
        return StreamMessagesHandler.on_chain_start(self, *args, **options)

    def take(self, chunk: Any) -> None:
        """Add the event of a chunk. The event of a task has only its node, because the task's input is the whole state."""
        namespace, mode, value = chunk
        if mode == "tasks":
            self._take((namespace, NODES, {"id": value["id"], "name": value["name"], "ended": "result" in value}))
        elif not namespace:
            self._take(chunk)

    def write(self, value: Any) -> None:
        """Add the values that a node writes."""
        self._take(((), "custom", value))

    def _named(self, namespace: tuple[str, ...], mode: Any, value: Any) -> Iterable[NamedEvent]:
        if mode == "messages":
            return super()._named(namespace, mode, value)
        return [(event_name(mode, namespace), value)]
