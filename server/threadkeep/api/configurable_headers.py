"""Headers: those of a request that langgraph.json hands on to the graph, in a run's `configurable`.

A proxy sets such headers, so they go over what the client says in the body.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from starlette.datastructures import Headers

from threadkeep.project import HeaderNames
from threadkeep.runs.request import RunSpec

SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-service-key", "x-tenant-id"})
"""Never handed on, whatever the pattern: a run's row is kept, and shown."""


def configured(spec: RunSpec, headers: Headers, names: HeaderNames) -> RunSpec:
    """`spec` with the headers that `names` asks for in its `configurable`."""
    found = matching(headers, names)
    if not found:
        return spec
    configurable: dict[str, Any] = spec.config.get("configurable") or {}
    return spec.model_copy(update={"config": {**spec.config, "configurable": {**configurable, **found}}})


def matching(headers: Headers, names: HeaderNames) -> Mapping[str, str]:
    """Lower-case name -> value of each header that is asked for; one that came twice is joined by commas."""
    if not names.includes:
        return {}
    wanted = {name for name in headers if _is_any(name, names.includes) and not _is_any(name, names.excludes)}
    return {name: ", ".join(headers.getlist(name)) for name in sorted(wanted - SECRET)}


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns)
