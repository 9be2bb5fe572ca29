"""Filters: whose rows a statement may see.

Every query on a tenant's rows takes one, and only a door (`auth/authenticator.py`) makes one. It is what a row's metadata must
contain, so that the same condition, `metadata @> %(match)s`, stands in every statement, and in the policies of
`migrations/0005_ownership.sql` once more. What a caller writes contains it too, or nobody could find it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Filters:
    """`match` is contained in the metadata of every row that the caller may see; empty: all rows."""

    match: Mapping[str, Any]
    space: str | None = None
    """The label below which the caller's part of the store lies (`postgres/store_spaces.py`); None: the whole store."""

    @property
    def jsonb(self) -> Jsonb:
        """The parameter `match` of a statement."""
        return Jsonb(self.match)

    @property
    def reserved(self) -> list[str]:
        """The keys of metadata that say whose a row is."""
        return list(self.match)

    def stamped(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of a new row, as it is where the caller may see it, else with what makes it the caller's."""
        return {**metadata} if _contains(metadata, self.match) else {**metadata, **self.match}

    def changed(self, metadata: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` of the caller's row with `change` merged in, but not what would make it somebody else's."""
        merged = {**metadata, **change}
        return merged if _contains(merged, self.match) else {**metadata, **self.unreserved(change)}

    def unreserved(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata` without what says whose a row is."""
        return {key: value for key, value in metadata.items() if key not in self.match}


EVERYTHING = Filters({})
"""No bounds: for the server's own work, which is nobody's."""


def _contains(held: object, wanted: object) -> bool:
    """What Postgres says to `held @> wanted`; False where the two might differ."""
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(
            key in held and _contains(cast("Mapping[str, object]", held)[key], value)
            for key, value in cast("Mapping[str, object]", wanted).items()
        )
    if isinstance(wanted, (list, tuple)):
        return isinstance(held, (list, tuple)) and all(
            any(_contains(one, each) for one in cast("Sequence[object]", held))
            for each in cast("Sequence[object]", wanted)
        )
    return type(held) is type(wanted) and held == wanted
