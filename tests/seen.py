"""Seen: what the code of a test's project was called with. A project's file has no other way to tell its test."""

from typing import Any

CALLS: list[tuple[str, dict[str, Any]]] = []
"""Events, each with the value that its handler got."""
GIVEN: list[dict[str, Any]] = []
"""What `authenticate` got."""
