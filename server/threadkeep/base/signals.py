"""Process signals: the events of a graceful shutdown, for which all parts of a process wait."""

from dataclasses import dataclass, field

import anyio


@dataclass(frozen=True, slots=True)
class ProcessSignals:
    """Events of a shutdown. Each is set once, in this order."""

    stopping: anyio.Event = field(default_factory=anyio.Event)
    """The process received a signal to stop."""
    hurried: anyio.Event = field(default_factory=anyio.Event)
    """The process received a second signal."""
    leaving: anyio.Event = field(default_factory=anyio.Event)
    """The grace period of the runs is over. Everything that is still open ends now, unfinished."""
