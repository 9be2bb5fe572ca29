"""Message events: adds the messages of a graph to the event log of its run as they come.

LangGraph's stream mode `messages` passes each token through a queue, and wakes two tasks for it. That costs more than the
token's event itself. Its callback handler works as well without the queue. The order of events stays the same if the other
modes of the stream tell of whole steps only.
"""

import asyncio
import threading
import time
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.pregel._messages import StreamMessagesHandler

from threadkeep.base import json
from threadkeep.runs.execution import Execution
from threadkeep.runs.stream_events import StreamEvents


def with_message_events(config: RunnableConfig, execution: Execution) -> RunnableConfig:
    """The config with a handler that adds messages to the run's log. Call it in the event loop of the graph."""
    return {**config, "callbacks": [MessageEvents(execution)]}


class MessageEvents(StreamMessagesHandler):
    """LangGraph's handler for the mode `messages`, which adds events to a run's log."""

    def __init__(self, execution: Execution) -> None:
        # A graph drops its caller's handlers that stream one graph only. This handler is its own, but comes in the config.
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
        for name, data in self._events.of_chunk(namespace, mode, value):
            execution.log.append(name, json.dumps(data))
