"""Message graphs: the keys that the input of each graph has, and so whether it takes messages."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from threadkeep.graphs import SERVER, Graph, LoadedGraph, is_local

log = logging.getLogger(__name__)

MESSAGES: Final = "messages"
"""The key of an input, and of a state, that has the messages."""


@dataclass(slots=True)
class MessageGraphs:
    """The input keys of the graphs. Found out once a process, because a graph may have to be made for it."""

    graphs: Mapping[str, LoadedGraph]
    _known: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    _looking: anyio.Lock = field(default_factory=anyio.Lock)

    async def look_at_all(self) -> None:
        """Find out about all graphs, so that the first request does not wait for it."""
        for graph_id in self.graphs:
            await self.input_keys(graph_id)

    async def takes_messages(self, graph_id: str) -> bool:
        """Return whether the input of a graph has `messages`. False if the graph does not exist."""
        return MESSAGES in await self.input_keys(graph_id)

    async def input_keys(self, graph_id: str) -> frozenset[str]:
        """Return the keys of a graph's input. Empty if the graph does not exist, or if its input is not an object."""
        if graph_id not in self._known:
            async with self._looking:
                if graph_id not in self._known:
                    self._known[graph_id] = await self._look(graph_id)
        return self._known[graph_id]

    async def _look(self, graph_id: str) -> frozenset[str]:
        loaded = self.graphs.get(graph_id)
        if loaded is None:
            return frozenset()
        try:
            async with loaded.open({}, durable=False, access="assistants.read", tenant=SERVER) as graph:
                return frozenset(_input_keys(graph))
        except Exception:  # the factory is the project's code
            log.exception("input schema not known: the graph could not be built", extra={"graph_id": graph_id})
            return frozenset()


def _input_keys(graph: Graph) -> Any:
    if not is_local(graph):  # it runs elsewhere, and its input is not known
        return (MESSAGES,)
    builder: Any = getattr(graph, "builder", None)
    if builder is not None:
        return builder.schemas[builder.input_schema]
    return graph.get_input_jsonschema().get("properties", ())
