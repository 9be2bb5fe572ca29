"""Store items: the store's settings from langgraph.json (vector search, time to live), and the deletion of expired items."""

import functools
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

from langchain_core.embeddings import Embeddings
from langgraph.store.base import TTLConfig
from langgraph.store.postgres.base import PostgresIndexConfig

from threadkeep.base.problems import StartupError
from threadkeep.importing import import_target
from threadkeep.persistence.serializer import Serializer
from threadkeep.persistence.store import Store, StoreLimits
from threadkeep.postgres.pool import Pool
from threadkeep.project import Project

log = logging.getLogger(__name__)

MAX_DIMS: Final = 4000
"""pgvector's limit for an index at half precision. At full precision the limit is `MAX_FULL_DIMS`."""
MAX_FULL_DIMS: Final = 2000
DEFAULT_INTERVAL_MINUTES: Final = 5.0
"""Minutes between two deletions of expired items, unless langgraph.json sets them. Expired items are hidden at once."""


def store_index_config(project: Project) -> PostgresIndexConfig | None:
    """The vector index of the store. None if the project has none, StartupError if it is not possible."""
    index = project.store.index
    if index is None:
        return None
    if index.dims > MAX_DIMS:
        raise StartupError(f"store.index.dims: pgvector indexes at most {MAX_DIMS} dimensions, not {index.dims}")
    config = PostgresIndexConfig(
        dims=index.dims,
        embed=_embeddings(project, index.embed),
        ann_index_config={"vector_type": "vector" if index.dims <= MAX_FULL_DIMS else "halfvec"},
    )
    if index.fields:
        config["fields"] = list(index.fields)
    return config


def store_opener(
    project: Project, limits: StoreLimits | None = None, serializer: Serializer | None = None
) -> Callable[[Pool], Store]:
    """A function that opens the project's store. Importing the embedding may block. StartupError as above."""
    return functools.partial(
        Store, index=store_index_config(project), ttl=ttl_config(project), limits=limits, serializer=serializer
    )


def ttl_config(project: Project) -> TTLConfig:
    """The time to live of items. Reads never return expired items, even before they are deleted."""
    ttl = project.store.ttl
    config: dict[str, object] = {} if ttl is None else ttl.model_dump(exclude_none=True)
    return cast("TTLConfig", config | {"omit_expired": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSweep:
    """Duty: delete the items of the store that have expired."""

    store: Store
    topic: ClassVar[str | None] = None

    @property
    def interval_s(self) -> float:
        """`store.ttl.sweep_interval_minutes` of langgraph.json."""
        minutes: float | None = (self.store.ttl_config or {}).get("sweep_interval_minutes")
        return 60 * (minutes or DEFAULT_INTERVAL_MINUTES)

    async def run_once(self) -> None:
        """Delete the items that have expired by now."""
        if swept := await self.store.sweep_ttl():
            log.info("expired store items deleted", extra={"deleted": swept})


def _embeddings(project: Project, embed: str) -> Any:
    """The `Embeddings` or function at a target such as `./file.py:name`. Other text is `provider:model`."""
    # The first colon, because a model's name may have a colon and periods too (`bedrock:amazon.titan-embed-text-v2:0`).
    place, _, name = embed.partition(":")
    if not place.endswith(".py") and "." not in place:
        return _of_provider(embed)
    embeddings = import_target(project.root, embed, key="store.index.embed")
    if isinstance(embeddings, Embeddings) or (callable(embeddings) and not isinstance(embeddings, type)):
        return embeddings
    raise StartupError(
        f"store.index.embed: {embed}: {name} is neither an Embeddings object nor a function from texts to vectors"
    )


def _of_provider(embed: str) -> Embeddings:
    try:
        init = importlib.import_module("langchain.embeddings").init_embeddings
    except ImportError:
        raise StartupError(
            f"store.index.embed: {embed}: an embedding named by its provider needs langchain: pip install 'threadkeep[models]'"
        ) from None
    try:
        return init(embed)
    except Exception as error:
        log.exception("embedding not created", extra={"embedding": embed})
        raise StartupError(f"store.index.embed: {embed}: {type(error).__name__}: {error}") from error
