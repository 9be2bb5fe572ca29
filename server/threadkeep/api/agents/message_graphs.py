"""Message graphs: the keys that the input of each graph has, and so whether it takes messages."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from threadkeep.graphs import SERVER, Graph, LoadedGraph, is_local

log = logging.getLogger(__name__)

MESSAGES: Final = "messages"
"""The key of an input, and of a state, that has the messages."""
RETRY_S: Final = 60.0
"""Seconds until a graph that could not be built is built again."""


@dataclass(slots=True)
class MessageGraphs:
    """The input keys of the graphs. They are read once a process, because a graph may have to be built for it."""

    graphs: Mapping[str, LoadedGraph]
    retry_s: float = RETRY_S
    _keys: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    _retry_at: dict[str, float] = field(default_factory=dict[str, float])
    """Monotonic time before which a graph that could not be built is not built again."""
    _building: anyio.Lock = field(default_factory=anyio.Lock)

    async def look_at_all(self) -> None:
        """Read the keys of all graphs, so that the first request does not wait for it."""
        for graph_id in self.graphs:
            await self.input_keys(graph_id)

    async def takes_messages(self, graph_id: str) -> bool:
        """Return whether the input of a graph has `messages`. False if the graph does not exist."""
        return MESSAGES in await self.input_keys(graph_id)

    async def input_keys(self, graph_id: str) -> frozenset[str]:
        """Return the keys of a graph's input. Empty if there is no such graph, it can't be built, or its input is not an object."""
        if graph_id not in self._keys:
            # A factory may be slow or expensive. Requests that come together must not all call it.
            async with self._building:
                if graph_id not in self._keys and time.monotonic() >= self._retry_at.get(graph_id, 0.0):
                    await self._read(graph_id)
        return self._keys.get(graph_id, frozenset())

    async def _read(self, graph_id: str) -> None:
        loaded = self.graphs.get(graph_id)
        if loaded is None:
            return
        try:
            # The schema needs neither a checkpointer nor a caller.
            async with loaded.open({}, durable=False, access="assistants.read", tenant=SERVER) as graph:
                self._keys[graph_id] = frozenset(_input_keys(graph))
        except Exception:  # the factory is the project's code
            # Not recorded as empty: the factory may need a service that is only away for a while.
            self._retry_at[graph_id] = time.monotonic() + self.retry_s
            log.exception("input schema not known: the graph could not be built", extra={"graph_id": graph_id})


def _input_keys(graph: Graph) -> Any:
    if not is_local(graph):  # it runs elsewhere, and its input is not known
        return (MESSAGES,)
    builder: Any = getattr(graph, "builder", None)
    if builder is not None:
        # Far cheaper than the JSON schema below, for which LangGraph builds a pydantic model.
        return builder.schemas[builder.input_schema]
    return graph.get_input_jsonschema().get("properties", ())
