"""Assistant cache: the assistants that runs use, by id or graph name, without a statement for each run.

An entry is used for `CACHE_TTL_S` seconds. A change in this process invalidates it at once. A change in another
process is seen after it expires.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import orjson

from threadkeep.base import json
from threadkeep.base.problems import NotFound, ValidationFailed
from threadkeep.base.ttl_cache import TtlCache
from threadkeep.postgres.pool import Pool
from threadkeep.postgres.tenancy import UNRESTRICTED, Filters
from threadkeep.runs.request import GraphRunOptions, without_reserved_keys
from threadkeep.tables import assistants
from threadkeep.tables.assistants import Assistant

CACHE_TTL_S = 5.0
CACHE_MAX_ENTRIES = 1000

Key: TypeAlias = tuple[bytes, UUID]
"""The filters of the caller as JSON, and the id of the assistant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedAssistant:
    """An assistant as a run uses it."""

    assistant_id: UUID
    graph_id: str
    config: Mapping[str, Any]
    context: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        """The bytes that it may add to a run's row."""
        return sum(len(json.dumps(part)) for part in (self.config, self.context, self.metadata))

    def applied_to(self, spec: GraphRunOptions) -> GraphRunOptions:
        """Return `spec` merged with the assistant's configuration. The run's own values take precedence.

        A key of the run's `configurable` also replaces the same key of the assistant's context.
        """
        if not self.config and not self.context:
            return spec
        run_configurable = without_reserved_keys(spec.config)
        configurable = {**self.config.get("configurable", {}), **run_configurable}
        config = {**self.config, **spec.config, "configurable": configurable}
        assistant_context = {key: run_configurable.get(key, value) for key, value in self.context.items()}
        context = {**assistant_context, **(spec.context or {})} or None
        return spec.model_copy(update={"config": config, "context": context})


class AssistantCache:
    """The assistants that recent runs use."""

    def __init__(self, pool: Pool, graph_ids: Iterable[str]) -> None:
        self._pool = pool
        self._of_graph = {graph_id: assistants.system_id(graph_id) for graph_id in graph_ids}
        """The id of each graph's own assistant."""
        self._own = frozenset(self._of_graph.values())
        self._known: TtlCache[Key, ResolvedAssistant] = TtlCache(capacity=CACHE_MAX_ENTRIES, ttl_s=CACHE_TTL_S)
        """The assistants by the caller's filters and their id."""

    async def resolve(self, filters: Filters, id_or_graph: str) -> ResolvedAssistant:
        """Return the assistant with this id, or the own assistant of the graph with this name.

        All callers may use a graph's own assistant, so no filters apply to it. Raises ValidationFailed if the text is
        neither, and NotFound if the caller has no such assistant or this process does not serve its graph.
        """
        assistant_id = self.id_of(id_or_graph)
        if self.is_of_graph(assistant_id):
            filters = UNRESTRICTED
        # Sorted, because a dict with the same entries in another order is the same filter.
        key = (orjson.dumps(filters.metadata_filter, option=orjson.OPT_SORT_KEYS), assistant_id)
        # `get` first, because a hit then creates no coroutine and no partial.
        return self._known.get(key) or await self._known.get_or_read(key, partial(self._read, filters, assistant_id))

    async def _read(self, filters: Filters, assistant_id: UUID) -> ResolvedAssistant:
        async with self._pool.connection(filters) as conn:
            row = await assistants.get(conn, filters, assistant_id)
        if row is None:
            raise NotFound("Thread or assistant not found.")
        if row.graph_id not in self._of_graph:  # another process of the project may serve it
            raise NotFound(f"Graph {row.graph_id!r} not found. Expected one of: {sorted(self._of_graph)}")
        return resolved(row)

    def is_of_graph(self, assistant_id: UUID) -> bool:
        """Whether it is a graph's own assistant, which the server creates."""
        return assistant_id in self._own

    def find_id(self, id_or_graph: str) -> UUID | None:
        """The id in the text, or the id of the named graph's own assistant. None if the text is neither."""
        if (own_id := self._of_graph.get(id_or_graph)) is not None:
            return own_id
        try:
            return UUID(id_or_graph)
        except ValueError:
            return None

    def id_of(self, id_or_graph: str) -> UUID:
        """Return the same as `find_id`. Raises ValidationFailed if the text is neither."""
        if (assistant_id := self.find_id(id_or_graph)) is not None:
            return assistant_id
        graph_names = ", ".join(sorted(self._of_graph))
        raise ValidationFailed(
            f"Invalid assistant: {id_or_graph[:100]!r}. Must be either: an assistant's UUID, or a graph: {graph_names}"
        )

    def invalidate(self, assistant_id: UUID) -> None:
        """Forget the cached entries of a changed assistant."""
        for key in self._known.keys():  # noqa: SIM118 - a copy, also of what is being read
            if key[1] == assistant_id:
                self._known.forget(key)


def resolved(assistant: Assistant) -> ResolvedAssistant:
    """The row of an assistant as runs use it."""
    return ResolvedAssistant(
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        config=assistant.config.load(),
        context=assistant.context.load(),
        metadata=assistant.metadata.load(),
    )
