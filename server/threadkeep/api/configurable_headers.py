"""Configurable headers: request headers that langgraph.json passes to the graph in a run's `configurable`.

A proxy sets such headers, so they override the values in the client's body.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from starlette.datastructures import Headers

from threadkeep.project import HeaderNames

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key", "x-tenant-id"}
)
"""Headers that no pattern passes on, because a run's row is stored and readable."""


def matching_headers(headers: Headers, names: HeaderNames) -> Mapping[str, str]:
    """Return the matching headers by lower-case name. Values of a repeated header are joined by commas."""
    matching = {name for name in headers if _is_any(name, names.includes) and not _is_any(name, names.excludes)}
    return {name: ", ".join(headers.getlist(name)) for name in sorted(matching - CREDENTIAL_HEADERS)}


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    # Starlette has header names in lower case. `fnmatch` would depend on the operating system.
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)
