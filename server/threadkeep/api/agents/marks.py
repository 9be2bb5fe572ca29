"""Marks: metadata of a run and of its new thread that names the surface that started them."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

Surface: TypeAlias = Literal["mcp", "a2a", "ag-ui"]
SOURCE: Final = "source"
"""The key of a run's metadata that names the surface."""


def run_marks(surface: Surface, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the metadata of a run of a surface. `own` are the values by which the surface finds the run, under its own key."""
    marks: dict[str, Any] = {SOURCE: surface}
    return {**marks, surface.replace("-", "_"): dict(own)} if own else marks


def marks_of(metadata: Mapping[str, Any], surface: Surface) -> Mapping[str, Any] | None:
    """Return the values that a surface has put on a run. None if another surface or the LangGraph API started it."""
    if metadata.get(SOURCE) != surface:
        return None
    return metadata.get(surface.replace("-", "_")) or {}
