"""Progress: the events of a run as progress of a call.

A graph that writes custom values with a number `progress` tells its own progress. For other graphs each node that ended is
a step. The progress always increases, as the protocol demands.
"""

import math
from collections.abc import Callable
from typing import Any, Final, cast

from threadkeep.base import json
from threadkeep.runs.event_log import LogEvent
from threadkeep.runs.graph_runner import INTERRUPT
from threadkeep.runs.request import StreamMode

MODES: Final[tuple[StreamMode, ...]] = ("values", "updates", "custom")
"""The stream modes of a run with progress."""
Tell = Callable[[float, float | None, str | None], None]
"""Sends a progress, the total and a message."""


class ProgressReader:
    """Reads the events of a run and sends its progress."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last = -math.inf
        self._steps = 0
        self._is_told_by_graph = False

    async def read(self, event: LogEvent) -> None:
        """Send the progress of an event, if the event has one."""
        if event.name == "custom":
            self._read_custom(await json.loads_apart(event.data))
        # Steps and the graph's own numbers have other scales. Mixed, the progress would jump.
        elif event.name == "updates" and not self._is_told_by_graph:
            for node in cast("dict[str, Any]", await json.loads_apart(event.data)):
                if node != INTERRUPT:
                    self._steps += 1
                    self._advance(self._steps, None, node)

    def _read_custom(self, value: object) -> None:
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if (progress := _number(fields.get("progress"))) is None:
            return
        self._is_told_by_graph = True
        message = fields.get("message")
        self._advance(progress, _number(fields.get("total")), message if isinstance(message, str) else None)

    def _advance(self, progress: float, total: float | None, message: str | None) -> None:
        # The protocol forbids a progress that does not increase.
        if progress > self._last:
            self._last = progress
            self._tell(progress, total, message)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value
