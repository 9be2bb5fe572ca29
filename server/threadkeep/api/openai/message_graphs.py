"""Message graphs: which graphs take messages, and so are models of the OpenAI API."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from threadkeep.graphs import SERVER, Graph, LoadedGraph, is_local

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MessageGraphs:
    """Which graphs take messages. Found out once a process, because a graph may have to be made for it."""

    graphs: Mapping[str, LoadedGraph]
    _known: dict[str, bool] = field(default_factory=dict[str, bool])
    _looking: anyio.Lock = field(default_factory=anyio.Lock)

    async def look_at_all(self) -> None:
        """Find out about all graphs, so that the first request does not wait for it."""
        for graph_id in self.graphs:
            await self.takes_messages(graph_id)

    async def takes_messages(self, graph_id: str) -> bool:
        """Whether the input of a graph has `messages`. False if there is no such graph."""
        if graph_id not in self._known:
            async with self._looking:
                if graph_id not in self._known:
                    self._known[graph_id] = await self._look(graph_id)
        return self._known[graph_id]

    async def _look(self, graph_id: str) -> bool:
        loaded = self.graphs.get(graph_id)
        if loaded is None:
            return False
        try:
            async with loaded.open({}, durable=False, access="assistants.read", tenant=SERVER) as graph:
                return _takes_messages(graph)
        except Exception:  # the factory is the project's code
            log.exception("a graph could not be made to see whether it takes messages", extra={"graph_id": graph_id})
            return False


def _takes_messages(graph: Graph) -> bool:
    if not is_local(graph):  # it runs elsewhere, and its input is not known
        return True
    builder: Any = getattr(graph, "builder", None)
    if builder is not None:
        return "messages" in builder.schemas[builder.input_schema]
    return "messages" in graph.get_input_jsonschema().get("properties", ())
