"""Assistants as runs need them: by id or graph name, without a look in Postgres each time.

What was read is used for `FRESH_S` seconds; a change in this process is seen at once, one elsewhere after that.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import orjson

from threadkeep.base.problems import Invalid, NotFound
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import Filters
from threadkeep.runs.graph_call import client_configurable
from threadkeep.runs.request import RunSpec
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant

FRESH_S = 5.0
REMEMBERED = 1000

Key: TypeAlias = tuple[bytes, UUID]
"""Who may see it, and its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An assistant as a run uses it."""

    assistant_id: UUID
    graph_id: str
    config: Mapping[str, Any]
    context: Mapping[str, Any]
    metadata: Mapping[str, Any]

    def applied_to(self, spec: RunSpec) -> RunSpec:
        """`spec` with the assistant's configuration under the run's own.

        A run's `configurable` says another context, too, where the assistant says one.
        """
        if not self.config and not self.context:
            return spec
        own = client_configurable(spec.config)
        configurable = {**self.config.get("configurable", {}), **own}
        config = {**self.config, **spec.config, "configurable": configurable}
        said = {key: own.get(key, value) for key, value in self.context.items()}
        context = {**said, **(spec.context or {})} or None
        return spec.model_copy(update={"config": config, "context": context})


class Assistants:
    """The assistants that runs were lately started with."""

    def __init__(self, pool: Pool, graph_ids: Iterable[str]) -> None:
        self._pool = pool
        self._of_graph = {graph_id: assistants.system_id(graph_id) for graph_id in graph_ids}
        """The id of each graph's own assistant."""
        self._known: OrderedDict[Key, tuple[float, Chosen]] = OrderedDict()
        """By who may see it and its id."""
        self._changes = 0
        self._reading = anyio.Lock()

    async def choose(self, filters: Filters, named: str) -> Chosen:
        """The assistant of an id or a graph's name.

        Invalid where it is neither, NotFound where there is none of the caller's or its graph is not served.
        """
        assistant_id = self.id_of(named)
        now = time.monotonic()
        key = (orjson.dumps(filters.match, option=orjson.OPT_SORT_KEYS), assistant_id)
        if (found := self._known.get(key)) and found[0] > now:
            return found[1]
        async with self._reading:  # a thousand requests at once read it once
            if (found := self._known.get(key)) and found[0] > now:
                return found[1]
            return await self._read(filters, key)

    async def _read(self, filters: Filters, key: Key) -> Chosen:
        changes = self._changes
        async with self._pool.connection(filters) as conn:
            assistant = await assistants.get(conn, filters, key[1])
        if assistant is None or assistant.graph_id not in self._of_graph:
            raise NotFound("Thread or assistant not found.")
        chosen = _chosen(assistant)
        if changes == self._changes:  # else it may have been read before a change of its own
            self._known[key] = (time.monotonic() + FRESH_S, chosen)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return chosen

    def id_of(self, named: str) -> UUID:
        """The id that `named` is, or that of the graph's own assistant."""
        if (own := self._of_graph.get(named)) is not None:
            return own
        try:
            return UUID(named)
        except ValueError:
            known = ", ".join(sorted(self._of_graph))
            raise Invalid(
                f"Invalid assistant: {named[:100]!r}. Must be either: an assistant's UUID, or a graph: {known}"
            ) from None

    def forget(self, assistant_id: UUID) -> None:
        """It was changed: read it anew."""
        self._changes += 1
        for key in [key for key in self._known if key[1] == assistant_id]:
            del self._known[key]


def _chosen(assistant: Assistant) -> Chosen:
    return Chosen(
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        config=assistant.config.load(),
        context=assistant.context.load(),
        metadata=assistant.metadata.load(),
    )
