"""Store: what `store` in langgraph.json asks for, made ready before the store is opened, and the sweep of its items."""

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
"""pgvector's own bound for an index on half precision; at full precision it is `MAX_FULL_DIMS`."""
MAX_FULL_DIMS: Final = 2000
DEFAULT_INTERVAL_MINUTES: Final = 5.0
"""How often expired items are deleted, where langgraph.json does not say. Until then they are hidden."""


def store_index_config(project: Project) -> PostgresIndexConfig | None:
    """How items are found by meaning; None where the project asks for no index. StartupError where it can't be had."""
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
    """What opens the project's store. Its embedding is imported here, which may block. StartupError as above."""
    return functools.partial(
        Store, index=store_index_config(project), ttl=ttl_config(project), limits=limits, serializer=serializer
    )


def ttl_config(project: Project) -> TTLConfig:
    """How long items live. An expired one is never shown, whether or not it has been swept."""
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
            log.info("expired items were swept", extra={"deleted": swept})


def _embeddings(project: Project, embed: str) -> Any:
    """An `Embeddings` or a function, by a target such as `./file.py:name`; any other text is `provider:model`."""
    place, _, name = embed.rpartition(":")
    if not place.endswith(".py") and "." not in place:
        return _of_provider(embed)
    found = import_target(project.root, embed, key="store.index.embed")
    if isinstance(found, Embeddings) or (callable(found) and not isinstance(found, type)):
        return found
    raise StartupError(
        f"store.index.embed: {embed}: {name} is neither an Embeddings object nor a function from texts to vectors"
    )


def _of_provider(embed: str) -> Embeddings:
    try:
        init = importlib.import_module("langchain.embeddings").init_embeddings
    except ImportError:
        raise StartupError(
            f"store.index.embed: {embed}: an embedding by provider needs langchain: pip install 'threadkeep[models]'"
        ) from None
    try:
        return init(embed)
    except Exception as error:
        log.exception("the embedding can't be made", extra={"embedding": embed})
        raise StartupError(f"store.index.embed: {embed}: {type(error).__name__}: {error}") from error
