"""Options: the options of `threadkeep adopt`, and which threads and owners they select."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from threadkeep.base.problems import StartupError


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptOptions:
    """The options of one call."""

    source: str
    """The URI of the source."""
    graph: str | None = None
    """The graph of all threads. None: the only one, or the one whose nodes they have run."""
    owner: str | None = None
    """The identity that owns what is taken over."""
    owner_key: str | None = None
    """The key of a checkpoint's metadata with the owner of its thread, for example `user_id`."""
    only: tuple[str, ...] = ()
    """Patterns of the shell for thread ids at the source. Empty: all threads."""
    limit: int | None = None
    """The most threads in this call."""
    dry_run: bool = False
    enable_crons: bool = False
    """Switch the crons on."""
    api_key: str | None = None
    headers: Mapping[str, str] | None = None
    """Headers of requests to a server."""

    def selects(self, thread_id: str) -> bool:
        """Whether a thread is to be taken over."""
        # `fnmatch` would ignore case on some systems.
        return not self.only or any(fnmatchcase(thread_id, pattern) for pattern in self.only)


def parsed_headers(pairs: tuple[str, ...]) -> dict[str, str]:
    """The headers of `--header 'name: value'`. StartupError if one has no name."""
    headers: dict[str, str] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name.strip():
            raise StartupError("--header: it must be 'name: value'")
        if name.strip().lower() == "x-api-key":
            raise StartupError("--header: use --api-key for x-api-key")  # the client refuses it as a header
        headers[name.strip().lower()] = value.strip()
    return headers
