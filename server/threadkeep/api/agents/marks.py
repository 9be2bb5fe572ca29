"""Marks: the metadata by which a run, and the thread that it creates, tell which surface they came from."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

Surface: TypeAlias = Literal["mcp", "a2a", "ag-ui"]
SOURCE: Final = "source"
"""The key of a run's metadata that names the surface."""


def run_marks(surface: Surface, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The metadata of a run of a surface. `own`: what the surface needs to find it again, under a key of its own."""
    marks: dict[str, Any] = {SOURCE: surface}
    return {**marks, surface.replace("-", "_"): dict(own)} if own else marks


def marks_of(metadata: Mapping[str, Any], surface: Surface) -> Mapping[str, Any] | None:
    """What a surface has put on a run. None if another surface, or the LangGraph API, started it."""
    if metadata.get(SOURCE) != surface:
        return None
    return metadata.get(surface.replace("-", "_")) or {}
