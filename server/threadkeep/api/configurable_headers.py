"""Headers: those of a request that langgraph.json hands on to the graph, in a run's `configurable`.

A proxy sets such headers, so they go over what the client says in the body.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from starlette.datastructures import Headers

from threadkeep.project import HeaderNames

CREDENTIAL_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key", "x-tenant-id"}
)
"""Never handed on, whatever the pattern: a run's row is kept, and shown."""


def matching_headers(headers: Headers, names: HeaderNames) -> Mapping[str, str]:
    """Lower-case name -> value of each header that is asked for; one that came twice is joined by commas."""
    wanted = {name for name in headers if _is_any(name, names.includes) and not _is_any(name, names.excludes)}
    return {name: ", ".join(headers.getlist(name)) for name in sorted(wanted - CREDENTIAL_HEADERS)}


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)
