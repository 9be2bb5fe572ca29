"""Findings: the measurements of a scenario, and the promises that it found broken."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Findings:
    """The findings of one scenario. It continues after a broken promise, so that all of them are reported."""

    did: str
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    broken: list[str] = field(default_factory=list[str])
    skipped: str | None = None
    """Why it could not be tried here."""

    def expect(self, holds: bool, promise: str) -> None:
        """Note `promise` as broken unless it `holds`."""
        if not holds:
            self.broken.append(promise)
