"""Signals: what everything in a process waits for when it is told to stop."""

from dataclasses import dataclass, field

import anyio


@dataclass(frozen=True, slots=True)
class ProcessSignals:
    """Each is set once, in this order."""

    stopping: anyio.Event = field(default_factory=anyio.Event)
    """The process was told to stop."""
    hurried: anyio.Event = field(default_factory=anyio.Event)
    """It was told so again."""
    leaving: anyio.Event = field(default_factory=anyio.Event)
    """The runs have had their time. What is still open ends now, unfinished."""
