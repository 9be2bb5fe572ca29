"""Assistants as runs need them: by id or graph name, without a statement each time.

An assistant that was read is used for `FRESH_S` seconds. A change in this process is seen at once, one elsewhere after
that.
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
"""Who may see it, and its id."""


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
        """What it may add to a run."""
        return sum(len(json.dumps(part)) for part in (self.config, self.context, self.metadata))

    def applied_to(self, spec: GraphRunOptions) -> GraphRunOptions:
        """`spec` with the assistant's configuration under the run's own.

        A run's `configurable` says another context, too, where the assistant says one.
        """
        if not self.config and not self.context:
            return spec
        own = without_reserved_keys(spec.config)
        configurable = {**self.config.get("configurable", {}), **own}
        config = {**self.config, **spec.config, "configurable": configurable}
        said = {key: own.get(key, value) for key, value in self.context.items()}
        context = {**said, **(spec.context or {})} or None
        return spec.model_copy(update={"config": config, "context": context})


class AssistantCache:
    """The assistants that runs were lately started with."""

    def __init__(self, pool: Pool, graph_ids: Iterable[str]) -> None:
        self._pool = pool
        self._of_graph = {graph_id: assistants.system_id(graph_id) for graph_id in graph_ids}
        """The id of each graph's own assistant."""
        self._own = frozenset(self._of_graph.values())
        self._known: TtlCache[Key, ResolvedAssistant] = TtlCache(capacity=CACHE_MAX_ENTRIES, ttl_s=CACHE_TTL_S)
        """By who may see it and its id."""

    async def resolve(self, filters: Filters, named: str) -> ResolvedAssistant:
        """The assistant of an id or a graph's name. A graph's own assistant is everybody's, whatever the filters.

        Invalid if it is neither, NotFound if the caller has no such assistant or its graph is not served here.
        """
        assistant_id = self.id_of(named)
        if self.is_of_graph(assistant_id):
            filters = UNRESTRICTED
        key = (orjson.dumps(filters.metadata_filter, option=orjson.OPT_SORT_KEYS), assistant_id)
        return self._known.get(key) or await self._known.get_or_read(key, partial(self._read, filters, assistant_id))

    async def _read(self, filters: Filters, assistant_id: UUID) -> ResolvedAssistant:
        async with self._pool.connection(filters) as conn:
            row = await assistants.get(conn, filters, assistant_id)
        if row is None:
            raise NotFound("Thread or assistant not found.")
        if row.graph_id not in self._of_graph:  # another process of the project may serve it
            raise NotFound(f"Graph {row.graph_id!r} not found. Expected one of: {sorted(self._of_graph)}")
        return _resolved(row)

    def is_of_graph(self, assistant_id: UUID) -> bool:
        """Whether it is a graph's own assistant, which the server makes."""
        return assistant_id in self._own

    def find_id(self, named: str) -> UUID | None:
        """The id that `named` is, or that of the graph's own assistant. None if it is neither."""
        if (own := self._of_graph.get(named)) is not None:
            return own
        try:
            return UUID(named)
        except ValueError:
            return None

    def id_of(self, named: str) -> UUID:
        """As `find_id`. Invalid if it is neither."""
        if (assistant_id := self.find_id(named)) is not None:
            return assistant_id
        known = ", ".join(sorted(self._of_graph))
        raise ValidationFailed(
            f"Invalid assistant: {named[:100]!r}. Must be either: an assistant's UUID, or a graph: {known}"
        )

    def invalidate(self, assistant_id: UUID) -> None:
        """It was changed: read it anew."""
        for key in self._known.keys():  # noqa: SIM118 - a copy, also of what is being read
            if key[1] == assistant_id:
                self._known.forget(key)


def _resolved(assistant: Assistant) -> ResolvedAssistant:
    return ResolvedAssistant(
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        config=assistant.config.load(),
        context=assistant.context.load(),
        metadata=assistant.metadata.load(),
    )
