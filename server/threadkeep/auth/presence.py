"""Presence: tells whether a principal is the only active one, so that it need not leave capacity free for others."""

import time
from dataclasses import dataclass
from typing import Final

SEEN_S: Final = 3600.0
"""Seconds after its last request for which a principal counts as active."""


@dataclass(slots=True)
class _Seen:
    identity: str
    at: float


class Presence:
    """The two principals with the latest requests, which are enough to decide."""

    def __init__(self) -> None:
        self._latest: _Seen | None = None
        self._before: _Seen | None = None
        """The latest request of another principal."""
        self._has_others: bool | None = None
        """Set by an authenticator that knows all identities, as for API keys."""

    def saw(self, identity: str, *, has_others: bool | None = None) -> None:
        """Record a request. `has_others`: whether other identities exist, or None if the authenticator does not know."""
        if has_others is not None:
            self._has_others = has_others
            return  # so the last two principals do not matter
        # The same principal again does not become the one before itself.
        if self._latest is not None and self._latest.identity == identity:
            self._latest.at = time.monotonic()
            return
        self._before, self._latest = self._latest, _Seen(identity, time.monotonic())

    def is_alone(self, identity: str) -> bool:
        """Whether no other principal exists, or if that is not known, whether none sent a request within `SEEN_S` seconds."""
        if self._has_others is not None:
            return not self._has_others
        is_latest = self._latest is not None and self._latest.identity == identity
        other = self._before if is_latest else self._latest
        return other is None or time.monotonic() - other.at > SEEN_S
