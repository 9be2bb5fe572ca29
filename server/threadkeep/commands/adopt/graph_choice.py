"""Graph choice: finds the graph of a thread whose source does not name it."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from threadkeep.base.problems import StartupError
from threadkeep.graphs import LoadedGraph

log = logging.getLogger(__name__)


class NoGraph(Exception):
    """A thread that can't be taken over, because its graph is not known or not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChoice:
    """The graphs of the project and their nodes."""

    nodes: Mapping[str, frozenset[str]]
    """By graph. A graph that can't be opened without a run has none."""
    forced: str | None

    @classmethod
    async def of(cls, graphs: Mapping[str, LoadedGraph], forced: str | None) -> "GraphChoice":
        """Open each graph once. StartupError if the named graph is not served."""
        if forced is not None and forced not in graphs:
            raise StartupError(f"--graph {forced}: the project serves {', '.join(sorted(graphs))}")
        return cls(nodes={name: await _nodes(graph) for name, graph in graphs.items()}, forced=forced)

    def choose(self, named: str | None, seen_nodes: Collection[str]) -> str:
        """The graph of a thread. `named` is the source's word, `seen_nodes` are the nodes that have run.

        NoGraph if none or several come into question.
        """
        if self.forced is not None:
            return self.forced
        if named is not None:
            if named not in self.nodes:
                raise NoGraph(f"the project has no graph {named!r}: choose one with --graph")
            return named
        if len(self.nodes) == 1:
            return next(iter(self.nodes))
        # Without a node that has run, every graph would fit.
        fitting = [name for name, nodes in self.nodes.items() if seen_nodes and nodes.issuperset(seen_nodes)]
        if len(fitting) == 1:
            return fitting[0]
        reason = (
            "the nodes of several graphs fit" if fitting else "no graph of the project has the nodes that it has run"
        )
        raise NoGraph(f"{reason}: choose one with --graph, and its threads with --only")


async def _nodes(loaded: LoadedGraph) -> frozenset[str]:
    try:
        async with loaded.open({"configurable": {}}, durable=False, access="threads.read") as graph:
            return frozenset(getattr(graph, "nodes", ()))
    except Exception:  # noqa: BLE001 - a factory is its author's code
        log.info("the nodes of a graph are not known without a run", extra={"graph_id": loaded.graph_id})
        return frozenset()
