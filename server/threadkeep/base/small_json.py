"""Small JSON: metadata, config and context are read with every run and every list, so each has a limit in bytes."""

from collections.abc import Mapping

from threadkeep.base import json
from threadkeep.base.problems import TooLarge


def check(limit: int, **named: Mapping[str, object] | None) -> None:
    """TooLarge if one of the objects, named as the client named it, has more than `limit` bytes as JSON."""
    for name, value in named.items():
        if value and len(json.dumps(value)) > limit:
            raise too_large(name, limit)


def too_large(name: str, limit: int) -> TooLarge:
    """The refusal of an object, or of what a change would make of it."""
    return TooLarge(f"{name} would have more than {limit:,} bytes")
