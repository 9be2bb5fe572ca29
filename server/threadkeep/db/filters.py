"""Filters: whose rows a statement may see.

Every query on a tenant's rows takes one, and only `auth.authorize` makes one. It is what a row's metadata must
contain, so that the same condition, `metadata @> %(match)s`, stands in every statement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Filters:
    """`match` is contained in the metadata of every row that the caller may see; empty: all rows."""

    match: Mapping[str, Any]

    @property
    def jsonb(self) -> Jsonb:
        """The parameter `match` of a statement."""
        return Jsonb(self.match)


EVERYTHING = Filters({})
"""No bounds: for the server's own work, which is nobody's."""
