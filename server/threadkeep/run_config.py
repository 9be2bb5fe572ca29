"""Config: which keys of a client's `RunnableConfig` reach the graph, and in which form.

Its own module because runs, assistants, crons and graphs that run elsewhere keep the same rule.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeGuard, cast

from langchain_core.runnables import RunnableConfig

from threadkeep.base.problems import Unsupported

SERVER_KEYS: Final = frozenset({"callbacks", "configurable", "metadata", "run_id"})
"""Keys that the server fills itself: `callbacks` are code, the others hold a client's values beside its own."""
CLIENT_KEYS: Final = frozenset(RunnableConfig.__annotations__) - SERVER_KEYS
"""Keys that reach the graph as the client sent them."""


def client_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a client's config that a graph gets as it is. Null is the same as none."""
    return {key: value for key, value in config.items() if key in CLIENT_KEYS and value is not None}


def check(config: Mapping[str, Any], max_recursion: int) -> None:
    """Unsupported, with the reason, if a graph could not run with this config."""
    sent = client_keys(config)
    if not 1 <= _integer(sent.get("recursion_limit", 1)) <= max_recursion:
        raise _refusal(f"recursion_limit must be from 1 to {max_recursion} (the server's THREADKEEP_MAX_RECURSION)")
    if _integer(sent.get("max_concurrency", 1)) < 1:
        raise _refusal("max_concurrency must be an integer above 0")
    if not isinstance(sent.get("run_name", ""), str):
        raise _refusal("run_name must be a text")
    if not _are_texts(sent.get("tags", [])):
        raise _refusal("tags must be a list of texts")


def _integer(value: object) -> int:
    """The value, or 0 if it is not an integer."""
    return value if type(value) is int else 0


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in cast("list[object]", value))


def _refusal(reason: str) -> Unsupported:
    return Unsupported(f"config.{reason}", field="config")
